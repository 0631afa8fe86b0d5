"""The score of registrations: its constants, fitted to made pairs and matches, and its reliability.

Rows go to a file, so that a run that was cut off goes on. One half of the groups of photographs is fitted to.
"""

import csv
import itertools
import json
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch
from geomatch import HomographyEstimate, corner_error, warp_points
from geomatch.alignment import align_homography
from geomatch.benchmarks.harness.record import machine, markdown_table
from geomatch.estimators import Gate, OpenCVEstimator
from geomatch.estimators.score import RIGHT
from geomatch.files import write_whole
from geomatch.geometry import image_corners, shift_homography
from geomatch.provenance import versions
from geomatch.synthetic import change_light, random_homography, render_view

OPEN = Gate(min_inliers=5, max_log10_nfa=3.0, max_deviation=1.0, max_leaning=100.0)
"""Lets doubtful homographies pass, so that there are low scores to fit."""
ESTIMATOR = OpenCVEstimator(gate=OPEN, max_iterations=20_000)
MATCHING: Any = SimpleNamespace(estimate=lambda p, *_: HomographyEstimate(np.eye(3), np.ones(len(p), bool)))
MOTIONS = ("upright", "rotated", "tilted", "oblique")
SETS = 16  # made sets of matches beside each pair
SOURCES = ("made matches", "matches of pairs", "pairs")
FEATURES: list[list[float]] = []  # of the answers, whose score is a place here while rows are made
Row = dict[str, Any]
Points = NDArray[np.float64]


def row_of(found: Any, truth: Points | None, size: tuple[int, int], half: int, source: str) -> Row:
    """The features of an answer, and whether it is right."""
    error = np.inf
    if truth is not None:
        diagonal = np.hypot(*np.ptp(warp_points(truth, image_corners(size)), axis=0))
        error = corner_error(found.matrix, truth, size) / diagonal
    row = {"right": bool(error <= RIGHT), "half": half, "source": source}
    return row | {"features": FEATURES[int(found.score)]}


def made_pair(rng: np.random.Generator, photo: Any, other: Any) -> tuple[Any, Any, Points | None]:
    """A photograph, a view of it that is hard in one or more ways, and the truth; None for another's view."""
    size = np.array(photo.shape[1::-1])
    truth, kind = random_homography(rng, tuple(size), MOTIONS[rng.integers(4)]), rng.random()
    if kind < 0.15:  # a pattern
        n = int(rng.integers(2, 5))
        small = cv2.resize(photo, size // n, interpolation=cv2.INTER_AREA)
        photo = cv2.resize(np.tile(small, (n, n, 1)), size)
    elif kind < 0.45:  # little overlap
        away = rng.uniform(0.3, 0.95) * rng.choice([-1, 1], 2) * rng.dirichlet([1, 1]) * size
        truth = shift_homography(*away) @ truth
    view = render_view(other if kind > 0.9 else photo, truth, tuple(size))
    for _ in range(int(rng.integers(2, 11)) if 0.45 <= kind < 0.75 else 0):  # things in front
        w, h = (size * rng.uniform(0.2, 0.6, 2)).astype(int)
        x, y = rng.integers(size - [w, h] + 1)
        view[y : y + h, x : x + w] = cv2.resize(other, (w, h), interpolation=cv2.INTER_AREA)
    view = change_light(rng, view, rng.uniform(0, 3) * rng.random() ** 0.3)
    return photo, view, None if kind > 0.9 else truth


def pair_rows(images: Path, listed: Sequence[dict[str, str]], number: int) -> Iterator[Row]:
    """A pair of one half: all its matches and nineteen parts of them, before and after alignment."""
    rng, half = np.random.default_rng(number), number % 2
    groups = sorted({row["group"] for row in listed})
    files = [row["file"] for row in listed if groups.index(row["group"]) % 2 == half]
    paths = [str(images / name) for name in rng.choice(files, 2, False)]
    one, two = (np.ascontiguousarray(cv2.imread(path)[:, :, ::-1]) for path in paths)
    one, view, truth = made_pair(rng, one, cv2.resize(two, one.shape[1::-1]))
    found: Any
    if number % 16 == 0:  # with tilted views
        if found := geomatch.match(one, view, estimator=ESTIMATOR, max_keypoints=600).geometry:
            yield row_of(found, truth, one.shape[1::-1], half, "pairs")
        return
    plain: Any = {"effort": "fast", "refine_homography": False, "max_keypoints": 600}
    made = geomatch.match(one, view, estimator=MATCHING, **plain)
    (i, j), keypoints, size = made.matches.indices.T, made.features0.keypoints, made.image0.size
    for variant in range(20):
        keep = rng.random(len(i)) < (1 if variant == 0 else np.exp(rng.uniform(np.log(0.02), 0)))
        if variant % 2:
            away = np.linalg.norm((keypoints[i] - rng.uniform(0, 1, 2) * size) / size, axis=1)
            keep &= away < rng.uniform(0.15, 0.6)
        p0, p1 = keypoints[i[keep]], made.features1.keypoints[j[keep]]
        if found := ESTIMATOR.estimate(p0, p1, size):
            yield row_of(found, truth, size, half, "matches of pairs")
            fine = align_homography(made.image0, made.image1, keypoints, p0, p1, found, ESTIMATOR, 3.0)
            if fine is not found:
                yield row_of(fine, truth, size, half, "pairs")


def set_rows(number: int, size: tuple[int, int] = (640, 480)) -> Iterator[Row]:
    """Made matches: few or many, in a part of the image or all of it, with noise and wrong ones."""
    rng, span = np.random.default_rng(10**6 + number), np.array(size) - 1
    truth = random_homography(rng, size, MOTIONS[rng.integers(4)])
    count, wrong = np.exp(rng.uniform(np.log([5, 3]), np.log([150, 400]))).astype(int)
    part = rng.uniform(0.1, 1) * span
    p0 = rng.uniform(0, 1, (count + wrong, 2)) * part + rng.uniform(0, 1, 2) * (span - part)
    p1 = warp_points(truth, p0) + rng.normal(0, 1, p0.shape) * rng.uniform(0.2, 1.5)
    p0[count:], p1[count:] = rng.uniform(0, 1, (2, wrong, 2)) * size
    if found := ESTIMATOR.estimate(p0, p1, size):
        yield row_of(found, truth, size, number % 2, "made matches")


def collect(images: Path, path: Path, pairs: int) -> None:
    """Append the rows of pairs that are not there yet."""
    with open(images / "manifest.tsv", newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    lines = path.read_text().splitlines() if path.exists() else []
    numbered = lambda own: FEATURES.append(own.tolist()) or len(FEATURES) - 1  # noqa: E731
    score = patch("geomatch.estimators.gate.probability", numbered)
    with open(path, "a") as file, score, patch("geomatch.alignment.aligned", lambda own: own):
        for number in range(json.loads(lines[-1])["number"] + 1 if lines else 0, pairs):
            sets = (row for n in range(SETS) for row in set_rows(SETS * number + n))
            rows = [*pair_rows(images, listed, number), *sets]
            file.writelines(json.dumps(row | {"number": number}) + "\n" for row in rows)
            file.flush()
            FEATURES.clear()


def logistic(features: Points, right: NDArray[np.bool_]) -> Points:
    """Weights of a logistic regression by Newton's method, with a prior of variance one but for the first."""
    weights, prior = np.zeros(features.shape[1]), np.diag([0.0] + [1.0] * (features.shape[1] - 1))
    for _ in range(50):
        p = 1 / (1 + np.exp(-features @ weights))
        normal = (features * (p * (1 - p))[:, None]).T @ features + prior
        weights = weights + np.linalg.solve(normal, features.T @ (right - p) - prior @ weights)
    return weights


def main() -> None:
    """Make rows, fit, write the record; the constants go to `geomatch.estimators.score` by hand."""
    parser = ArgumentParser(prog="python -m geomatch.benchmarks.studies.scores", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of photographs with manifest.tsv (file, group)")
    parser.add_argument("rows", type=Path, help="file of rows, JSON lines")
    parser.add_argument("record", type=Path, help="file of the record")
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    collect(options.images, options.rows, options.pairs)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    names = ("features", "right", "half", "source")
    features, right, half, source = (np.array([row[name] for row in rows]) for name in names)
    fine, first = source == "pairs", half == 0
    weights = logistic(features[~fine & first], right[~fine & first])
    odds, curves = features @ weights, list[Points]()
    for some in (~fine, fine):
        terms = np.column_stack([np.ones(len(rows)), odds, np.maximum(odds - 1, 0)])
        curves.append(logistic(terms[some & first], right[some & first]))
        odds = np.where(some | fine, terms @ curves[-1], odds)
    scores = 1 / (1 + np.exp(-odds))
    results: list[Row] = [{"weights": weights.tolist(), "curves": [curve.tolist() for curve in curves]}]
    lines = [[f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"] for tenth in range(10)]
    for name, tenth in itertools.product(("all", *SOURCES), range(10)):
        some = ((source == name) | (name == "all")) & ~first & ((scores * 10).astype(int) == tenth)
        count, good, mean = (
            int(some.sum()),
            int(right[some].sum()),
            float(scores[some].sum() / max(some.sum(), 1)),
        )
        results.append({"source": name, "tenth": tenth, "count": count, "score": mean, "right": good})
        lines[tenth].append(f"{mean:.0%}: {good / count:.0%} of {count:,}" if count else "")
    settings = {"rows": len(rows), "fitted to": int(first.sum()), "right": f"{RIGHT:.0%} of the diagonal"}
    tables = [markdown_table(("score", "all", *SOURCES), lines)]
    metadata = {"versions": versions(), **machine(), "settings": settings, "tables": tables}
    write_whole(options.record, json.dumps({"metadata": metadata, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

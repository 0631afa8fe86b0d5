"""The score of registrations: made pairs and matches with known truth, its constants, its reliability."""

import csv
import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch
from geomatch import HomographyEstimate, corner_error, warp_points
from geomatch.estimators import Gate, OpenCVEstimator
from geomatch.geometry import image_corners, shift_homography
from geomatch.synthetic import change_light, random_homography, render_view

OPEN = Gate(min_inliers=5, max_log10_nfa=3.0, max_deviation=1.0, max_leaning=100.0)
"""A gate that lets doubtful homographies pass, so that there are low scores to fit."""
RIGHT = 0.01
"""Largest mean corner error of a right registration, as a share of the diagonal of image 0 in image 1."""
MOTIONS = ("upright", "rotated", "tilted", "oblique")
Pixels = NDArray[np.uint8]
Row = dict[str, Any]


@dataclass
class Recorder:
    """An estimator whose answers carry the number of their features as a score."""

    threshold: float = 3.0
    features: list[list[float]] = field(default_factory=list)
    answers: list[HomographyEstimate] = field(default_factory=list)

    @property
    def gate(self) -> Gate:
        """The open one, for tilted views."""
        return OPEN

    def number(self, features: NDArray[np.float64]) -> float:
        """Keep features, give their number."""
        self.features.append(features.tolist())
        return float(len(self.features) - 1)

    def estimate(self, *arguments: Any) -> Any:
        """As `OpenCVEstimator` behind the open gate."""
        with patch("geomatch.estimators.gate.probability", self.number):
            found = OpenCVEstimator(gate=OPEN, max_iterations=20_000).estimate(*arguments)
        if found:
            self.answers.append(found)
        return found


def made_pair(rng: np.random.Generator, photo: Pixels, other: Pixels) -> tuple[Pixels, Pixels, Any, str]:
    """A photograph, a view of it that is hard in one or more ways, and the truth; None for another's view."""
    size = photo.shape[1], photo.shape[0]
    truth = random_homography(rng, size, MOTIONS[rng.integers(4)])
    kind = str(
        rng.choice(["plain", "shifted", "occluded", "repeated", "unrelated"], p=[0.15, 0.35, 0.3, 0.12, 0.08])
    )
    if kind == "repeated":
        n = int(rng.integers(2, 5))
        part = cv2.resize(photo, (size[0] // n, size[1] // n), interpolation=cv2.INTER_AREA)
        photo = np.asarray(cv2.resize(np.tile(part, (n, n, 1)), size), np.uint8)
    if kind == "shifted":
        truth = (
            shift_homography(
                *(rng.uniform(0.3, 0.95) * rng.choice([-1, 1], 2) * rng.dirichlet([1, 1]) * size)
            )
            @ truth
        )
    view = render_view(other if kind == "unrelated" else photo, truth, size)
    if kind == "occluded":
        for _ in range(int(rng.integers(2, 11))):
            w, h = (int(side * rng.uniform(0.2, 0.6)) for side in size)
            x, y = int(rng.integers(size[0] - w + 1)), int(rng.integers(size[1] - h + 1))
            view[y : y + h, x : x + w] = cv2.resize(other, (w, h), interpolation=cv2.INTER_AREA)
    view = change_light(rng, view, rng.uniform(0, 3))
    return photo, view, None if kind == "unrelated" else truth, kind


def pair_rows(images: Path, number: int) -> Iterator[Row]:
    """One made pair through `geomatch.match`, and its matches alone."""
    rng = np.random.default_rng(number)
    with open(images / "manifest.tsv", newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    groups = sorted({row["group"] for row in listed})
    half = number % 2
    own, other = (
        listed[i]
        for i in rng.permutation([n for n, r in enumerate(listed) if groups.index(r["group"]) % 2 == half])[
            :2
        ]
    )
    photos = [cv2.imread(str(images / row["file"]))[:, :, ::-1] for row in (own, other)]
    one, two = (np.ascontiguousarray(p) for p in photos)
    one, view, truth, kind = made_pair(rng, one, cv2.resize(two, (one.shape[1], one.shape[0])))
    recorder = Recorder()
    effort = "normal" if number % 16 == 0 else "fast"
    with patch("geomatch.estimators.gate.probability", recorder.number):
        found = geomatch.match(one, view, estimator=recorder, effort=effort, max_keypoints=600).geometry
    size = one.shape[1], one.shape[0]
    for bare in (False, True):
        if found:
            answer = found
            if bare:
                answer = next((a for a in recorder.answers if a.score == found.score), None)
            if answer is not None:
                yield row_of(answer.matrix, truth, size, recorder.features[int(found.score)], half) | {
                    "source": f"{'matches of' if bare else 'pair'} {effort}",
                    "kind": kind,
                }


def set_row(number: int) -> Iterator[Row]:
    """Made matches: few or many, in a part of the image or all of it, with noise and wrong ones."""
    rng = np.random.default_rng(10**6 + number)
    size = (640, 480)
    truth = random_homography(rng, size, MOTIONS[rng.integers(4)])
    count, wrong = np.exp(rng.uniform(np.log([5, 3]), np.log([150, 400]))).astype(int)
    part = rng.uniform(0.1, 1) * (np.array(size) - 1)
    p0 = rng.uniform(0, 1, (count + wrong, 2)) * part + rng.uniform(0, 1, 2) * (np.array(size) - 1 - part)
    p1 = warp_points(truth, p0) + rng.normal(0, 1, p0.shape) * rng.uniform(0.2, 1.5)
    p0[count:], p1[count:] = rng.uniform(0, 1, (2, wrong, 2)) * size
    recorder = Recorder()
    found = recorder.estimate(p0, p1, size)
    if found:
        yield row_of(found.matrix, truth, size, recorder.features[int(found.score)], number % 2) | {
            "source": "made matches",
            "kind": "set",
        }


def row_of(matrix: Any, truth: Any, size: tuple[int, int], features: list[float], half: int) -> Row:
    """Features, and whether the registration is right."""
    if truth is None:
        return {"right": False, "error": None, "half": half, "features": features}
    diagonal = float(np.hypot(*np.ptp(warp_points(truth, image_corners(size)), axis=0)))
    error = corner_error(matrix, truth, size) / diagonal
    return {
        "matrix": np.asarray(matrix).tolist(),
        "right": bool(error <= RIGHT),
        "error": min(float(error), 1e6),
        "half": half,
        "features": features,
    }


def collect(images: Path, path: Path, pairs: int) -> None:
    """Append the rows of pairs not yet there, a line each."""
    done = 0
    if path.exists():
        done = 1 + max((json.loads(line)["number"] for line in path.read_text().splitlines()), default=-1)
    with open(path, "a") as file:
        for number in range(done, pairs):
            rows = list(pair_rows(images, number))
            for several in range(8 * number, 8 * number + 8):
                rows += set_row(several)
            for row in rows:
                file.write(json.dumps(row | {"number": number}) + "\n")
            file.flush()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--pairs", type=int, default=6000)
    options = parser.parse_args()
    collect(options.images, options.rows, options.pairs)

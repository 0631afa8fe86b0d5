"""What the embedded model is worth: beside hand-made and learned features, a random network and raw pixels.

``python -m geomatch.benchmarks.studies.embedded IMAGES --hpatches DIR --aliked FILE --xfeat FILE`` with the
folder of the recipe's unpacked packages. Synthetic pairs, whose truth is exact, are made of photographs held
out of training; ``--hpatches`` adds real ones. The random network's projection head is trained on first use
(hours); everything is cached in the work folder, where a second run resumes.
"""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch import Features, Matches, corner_error, warp_points
from geomatch.alignment import align_homography
from geomatch.benchmarks.harness.comparison import FEW
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.studies.baselines import methods
from geomatch.benchmarks.studies.record import Row, markdown, median_seconds, study_parser, write_record
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.benchmarks.tasks.pairs.evaluation import PairScene
from geomatch.benchmarks.training.sources import find_images
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.estimators import OpenCVEstimator
from geomatch.files import digest_of, replacing
from geomatch.images import load_image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.provenance import cache_key
from geomatch.types import EstimationFailure, HomographyEstimate

KEYPOINTS = 1000
THRESHOLD = 3.0
"""Largest error of an inlier in pixels."""
THRESHOLDS = (1.0, 3.0, 5.0)
"""Corner errors in pixels up to which the area under the curve is taken."""
RESAMPLES = 2000
PLAIN, ALIGNED = "corner_error_px", "aligned_error_px"
"""Columns of the rows: the estimate from the matches, and the one that `geomatch.alignment` refines."""
CEILING = "all right matches of SIFT keypoints"
"""A row that no descriptor of them can better."""
DEFAULT = f"dift-tiny, {DEFAULT_DETECTOR} keypoints"
"""The default of `geomatch.match`; the other rows are at SIFT's keypoints, unless they say so."""
BASELINES = ("RootSIFT", f"RootSIFT, {DEFAULT_DETECTOR} keypoints", "ALIKED-n16", "XFeat")
IMITATED = "diffusion model and projection head"
"""What the network of dift-tiny was distilled from."""
UNRELATED = 20
"""Pairs of different photographs, which must end in a declared failure."""


def held_out_set(images: Path, out: Path) -> Path:
    """Synthetic pairs with strong changes of light, scale and rotation; ten of each held-out photograph."""
    photos = [path for image, path in find_images(images, "holdout") if image.kind == "photo"]
    if not out.is_dir() or len(list(out.iterdir())) < 2 * len(photos):
        make_synthetic(photos, out, seed=0, strong=True)
    return out


def evaluate_sequence(method: Method | None, sequence: PairScene) -> list[Row]:
    """Corner errors of the pairs of a sequence, without and with refinement; None for a failure.

    Without a method the matches are all right ones: what no descriptor of SIFT keypoints can better.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    paths = sequence.pairs[0].paths[0], *(pair.paths[1] for pair in sequence.pairs)
    images = [load_image(path) for path in paths]
    source = method or create_method("sift", KEYPOINTS)
    found = [(source.extract if method else source.detect)(image) for image in images]
    rows: list[Row] = []
    for pair, image, features in zip(sequence.pairs, images[1:], found[1:], strict=True):
        truth = pair.truth.matrix
        matches = method.match(found[0], features) if method else true_matches(found[0], features, truth)
        points0, points1, estimate = _estimated(found[0], features, matches)
        row = {"sequence": sequence.name, "pair": pair.name[-1], "matches": len(matches)}
        row |= {"inliers": estimate.num_inliers, PLAIN: None, ALIGNED: None}
        if estimate:
            estimator = OpenCVEstimator(threshold=THRESHOLD)
            better = align_homography(
                images[0], image, found[0].keypoints, points0, points1, estimate, estimator, THRESHOLD
            )
            row[PLAIN] = corner_error(estimate.matrix, truth, images[0].size)
            row[ALIGNED] = corner_error(better.matrix, truth, images[0].size)
        rows.append(row)
    return rows


def _estimated(
    features0: Features, features1: Features, matches: Matches
) -> tuple[NDArray[np.float32], NDArray[np.float32], HomographyEstimate | EstimationFailure]:
    points0 = features0.keypoints[matches.indices[:, 0]]
    points1 = features1.keypoints[matches.indices[:, 1]]
    estimator = OpenCVEstimator(threshold=THRESHOLD)
    return points0, points1, estimator.estimate(points0, points1, features0.image_size)


def true_matches(features0: Features, features1: Features, truth: NDArray[np.float64]) -> Matches:
    """Keypoints within `THRESHOLD` pixels of image 1 of each other, one to one, nearest first."""
    moved = warp_points(truth, features0.keypoints)
    distances = np.linalg.norm(moved[:, None] - features1.keypoints[None], axis=2)
    partner, rows = distances.argmin(1), np.arange(len(moved))
    right = (distances.argmin(0)[partner] == rows) & (distances[rows, partner] <= THRESHOLD)
    pairs = np.stack([rows[right], partner[right]], axis=1)
    return Matches(pairs, -distances[rows[right], partner[right]])


def evaluate(
    sets: Mapping[str, Path], methods: Mapping[str, Method | None], cache: Path, workers: int = 2
) -> list[Row]:
    """Every method on every sequence of every set; what is in ``cache`` is not computed again."""
    cache.mkdir(parents=True, exist_ok=True)
    files: dict[tuple[str, str, str], Path] = {}
    todo: list[tuple[Method | None, PairScene, Path]] = []
    data = {label: read_hpatches(folder).units for label, folder in sets.items()}
    for name, method in methods.items():
        own = cache_key(method)
        for label, sequence in ((label, one) for label, sequences in data.items() for one in sequences):
            key = digest_of([own, sequence.fingerprint, KEYPOINTS, THRESHOLD])
            file = files[name, label, sequence.name] = cache / f"{key}.json"
            if not file.is_file():
                todo.append((method, sequence, file))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:  # torch has threads
        jobs = {pool.submit(evaluate_sequence, method, sequence): file for method, sequence, file in todo}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="sequence"):
            with replacing(jobs[job]) as temporary:
                temporary.write_text(json.dumps(job.result()), encoding="utf-8")
    return [
        {"method": name, "set": label} | row
        for (name, label, _), file in files.items()
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]


def unrelated_failures(method: Method, sequences: Sequence[PairScene]) -> list[Row]:
    """Pairs of different photographs, and if the estimate is a declared failure."""
    first = {
        sequence.name[2:]: sequence.pairs[0].paths[0] for sequence in sequences
    }  # i_ and v_ share a photograph
    names, rows = sorted(first), []
    for index in range(UNRELATED):
        a, b = names[index % len(names)], names[(index + 1 + index // len(names)) % len(names)]
        found = [method.extract(load_image(first[name])) for name in (a, b)]
        _, _, estimate = _estimated(found[0], found[1], method.match(found[0], found[1]))
        rows.append({"sequence": a, "pair": b, "failed": not estimate, "inliers": estimate.num_inliers})
    return rows


def area_under_curve(errors: NDArray[np.float64], threshold: float) -> float:
    """Share of pairs below an error, averaged over errors up to ``threshold``; failures are infinite.

    This is the area under the step curve; AUC by the trapezoid differs by less than 1/N.
    """
    return float(np.mean(1 - np.minimum(errors, threshold) / threshold))


def errors_of(rows: Sequence[Row], key: str = PLAIN) -> NDArray[np.float64]:
    """Corner errors, infinite for failures."""
    return np.array([np.inf if row[key] is None else row[key] for row in rows])


def areas(rows: Sequence[Row], key: str = PLAIN) -> list[str]:
    """AUC in percent at each of `THRESHOLDS`."""
    return [f"{100 * area_under_curve(errors_of(rows, key), threshold):.1f}" for threshold in THRESHOLDS]


def mean_and_interval(values: NDArray[np.float64], photos: Sequence[str], seed: int = 0) -> str:
    """The mean over pairs with its 95 % interval over whole photographs, left out below ten of them."""
    names = np.unique(photos)
    if len(names) < FEW:
        return f"{values.mean():+.1f}"
    own = [values[np.array(photos) == name] for name in names]
    sums = np.array([[part.sum(), len(part)] for part in own])
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    totals = sums[drawn].sum(1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5])
    return f"{values.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def table(rows: Sequence[Row], seconds: Mapping[str, float]) -> str:
    """Per method its time, and on each set AUC at 1, 3 and 5 px and failures, in Markdown."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    titles = ["features", "s"]
    for name in sets:
        titles += [f"{name}: AUC@1 / 3 / 5", "aligned", "failures"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method, f"{seconds[method]:.2f}" if method in seconds else ""]
        for name in sets:
            own = [row for row in rows if row["method"] == method and row["set"] == name]
            cells += [" / ".join(areas(own, key)) for key in (PLAIN, ALIGNED)]
            cells.append(f"{sum(row[PLAIN] is None for row in own)} of {len(own)}")
        lines.append(cells)
    return markdown(titles, lines)


def differences_table(
    rows: Sequence[Row], first: str, seconds: Sequence[str], keys: tuple[str, str] = (PLAIN, PLAIN)
) -> str:
    """The AUC of one method minus that of others, with 95 % intervals, on each set, in Markdown."""
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = {m: [r for r in rows if (r["method"], r["set"]) == (m, name)] for m in (first, *seconds)}
        photos = [row["sequence"][2:] for row in own[first]]  # of i_ and v_
        for second in seconds:
            ours, theirs = (errors_of(own[m], key) for m, key in zip((first, second), keys, strict=True))
            cells = [
                mean_and_interval(100 * (np.minimum(theirs, most) - np.minimum(ours, most)) / most, photos)
                for most in THRESHOLDS
            ]
            lines.append([name, second, *cells])
    return markdown(("set", "minus", "AUC@1", "AUC@3", "AUC@5"), lines)


def _imitation(sets: Mapping[str, Path], teacher: Path, work: Path, out: Path) -> None:
    """Write the record of dift-tiny beside the model and projection head that it was distilled from."""
    tiny = PRESETS["dift-tiny"]
    compared, tables = {}, []
    for detector in ("sift", DEFAULT_DETECTOR):
        for name, config in (("dift-tiny", tiny), (IMITATED, replace(tiny, head=str(teacher)))):
            source = create_detector(detector, KEYPOINTS)
            compared[f"{name}, {detector} keypoints"] = Method.of(detector, source, DIFTExtractor(config))
    rows = evaluate(sets, compared, work / "pairs")
    tables = [table(rows, {})]
    for keys in ((PLAIN, PLAIN), (ALIGNED, ALIGNED)):
        tables.append(differences_table(rows, DEFAULT, [f"{IMITATED}, {DEFAULT_DETECTOR} keypoints"], keys))
    write_record(out, "distillation", rows, {"keypoints": KEYPOINTS, "threshold": THRESHOLD}, tables)


def main() -> None:
    """Run from the command line."""
    parser = study_parser("embedded", __doc__)
    parser.add_argument("images", type=Path, help="folder of the recipe's unpacked packages")
    parser.add_argument("--hpatches", type=Path, help="folder of real sequences")
    parser.add_argument("--aliked", type=Path, help="aliked-n16.pth")
    parser.add_argument("--xfeat", type=Path, help="xfeat.pt")
    parser.add_argument(
        "--teacher",
        type=Path,
        help="only compare dift-tiny with the projection head that it imitates, in this folder",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/embedded"), help="cache between runs")
    options = parser.parse_args()
    sets = {"made": held_out_set(options.images, options.work / "made")}
    if options.hpatches:
        sets["HPatches"] = options.hpatches
    if options.teacher:
        _imitation(sets, options.teacher, options.work, options.out)
        return
    peers = {name: file for name, file in (("ALIKED-n16", options.aliked), ("XFeat", options.xfeat)) if file}
    compared = methods(options.images, options.work / "random", KEYPOINTS, peers)
    rows = evaluate(sets, compared | {CEILING: None}, options.work / "pairs")
    sequences = read_hpatches(sets["made"]).units
    unrelated = unrelated_failures(compared[DEFAULT], sequences)
    view = load_image(next(one for one in sequences if "picosdeeuropa" in one.name).pairs[0].paths[0])
    seconds = {name: median_seconds(partial(one.extract, [view]), 3) for name, one in compared.items()}
    baselines = [name for name in BASELINES if name in compared]
    tables = [table(rows, seconds)]
    for keys in ((PLAIN, PLAIN), (ALIGNED, ALIGNED), (ALIGNED, PLAIN)):
        tables.append(differences_table(rows, DEFAULT, baselines, keys))
    settings = {"keypoints": KEYPOINTS, "threshold": THRESHOLD, "seconds": seconds, "unrelated": unrelated}
    write_record(options.out, "embedded", rows, settings, tables)


if __name__ == "__main__":
    main()

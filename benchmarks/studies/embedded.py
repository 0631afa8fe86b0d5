"""What the embedded model is worth: beside hand-made and learned features, as `geomatch benchmark` evaluates.

``python -m geomatch.benchmarks.studies.embedded IMAGES --hpatches DIR --aliked FILE --xfeat FILE`` with the
folder of the recipe's unpacked packages. Synthetic pairs, whose truth is exact, are made of photographs held
out of training; ``--hpatches`` adds real ones. Everything is cached in the work folder, where a second run
resumes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from geomatch import warp_points
from geomatch.alignment import align_homography
from geomatch.benchmarks.harness.comparison import FEW, compare
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.methods.baselines import rootsift
from geomatch.benchmarks.methods.functions import matched_features
from geomatch.benchmarks.studies.record import Row, markdown, study_parser, write_record
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.homography.task import HPATCHES
from geomatch.benchmarks.training.sources import find_images
from geomatch.engine import RunContext
from geomatch.estimators import OpenCVEstimator
from geomatch.images import Image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.types import Features

KEYPOINTS = 1000
THRESHOLD = 3.0
"""Largest error of an inlier in pixels."""
THRESHOLDS = (1.0, 3.0, 5.0)
"""Corner errors in pixels up to which the area under the curve is taken."""
PROTOCOL = replace(PROTOCOLS["geomatch"], name="embedded", max_keypoints=KEYPOINTS, seeds=1)
DEFAULT = f"dift-tiny, {DEFAULT_DETECTOR} keypoints"
"""The default of `geomatch.match`; the other rows are at SIFT's keypoints, unless they say so."""
ALIGNED = ", aligned"


@dataclass(frozen=True)
class RootSIFT:
    """OpenCV's SIFT descriptors at keypoints of any detector, as RootSIFT."""

    def describe(self, image: Image, features: Features) -> Features:
        """Describe keypoints with scale and orientation."""
        scales, orientations = features.scales, features.orientations
        if scales is None or orientations is None:
            raise ValueError("the keypoints need scale and orientation")
        # OpenCV's size is 2 * 1.6 * 2^(octave + layer / 3), with layers 1 to 3
        steps = 3 * np.log2(scales / 3.2)
        octaves = np.maximum(np.floor((steps - 0.5) / 3), -1).astype(int)
        layers = np.clip(np.round(steps - 3 * octaves), 1, 3).astype(int)
        codes = (octaves & 255) | (layers << 8)
        points = [
            cv2.KeyPoint(float(x), float(y), float(size), float(np.degrees(angle)) % 360, 1.0, int(code))
            for (x, y), size, angle, code in zip(features.keypoints, scales, orientations, codes, strict=True)
        ]
        sift = cv2.SIFT_create(enable_precise_upscale=True)  # type: ignore[attr-defined]
        described, rows = sift.compute(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY), points)
        if len(described) != len(points):
            raise ValueError("OpenCV left keypoints out")
        rows = np.zeros((0, 128), np.float32) if rows is None else rows
        return replace(features, descriptors=rootsift(rows))


@dataclass(frozen=True)
class Aligned:
    """A method whose homography is refined as in `geomatch.match`: keypoints, and where it sends them."""

    method: Method

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`; nothing where there is no homography to refine."""
        features0, features1 = (self.method.extract(image) for image in (image0, image1))
        matches = self.method.match(features0, features1)
        points0 = features0.keypoints[matches.indices[:, 0]]
        points1 = features1.keypoints[matches.indices[:, 1]]
        estimator = OpenCVEstimator(threshold=THRESHOLD)
        found = estimator.estimate(points0, points1, image0.size)
        if not found:
            return features0[:0], features1[:0]
        places = features0.keypoints
        better = align_homography(image0, image1, places, points0, points1, found, estimator, THRESHOLD)
        return matched_features((places, warp_points(better.matrix, places)), image0, image1)


def methods(peers: Mapping[str, Path | None]) -> dict[str, Method]:
    """Every method, and the same aligned; ``peers`` are the weights of learned features."""
    mixed = create_detector(DEFAULT_DETECTOR, KEYPOINTS)
    found = {
        "RootSIFT": create_method("rootsift", KEYPOINTS),
        f"RootSIFT, {DEFAULT_DETECTOR} keypoints": Method.of("rootsift", mixed, RootSIFT()),
        "dift-tiny": create_method("sift+dift-tiny", KEYPOINTS),
        DEFAULT: create_method(f"{DEFAULT_DETECTOR}+dift-tiny", KEYPOINTS),
    }
    found |= {name: create_method(f"{name}:{file}", KEYPOINTS) for name, file in peers.items() if file}
    aligned = {name + ALIGNED: Method(name, pair_matcher=Aligned(method)) for name, method in found.items()}
    return found | aligned


def table(runs: Mapping[str, RunResult]) -> str:
    """Area under the curve and failures of every method on each set, in Markdown."""
    areas = [f"AUC@{threshold:g}" for threshold in THRESHOLDS]
    lines = [
        (label, row["method"], *(f"{row[area]:.1f}" for area in areas), str(row["failures"]))
        for label, run in runs.items()
        for row in run.summaries()
        if row["split"] == "all"
    ]
    return markdown(("set", "features", *areas, "failures"), lines)


def differences_table(runs: Mapping[str, RunResult], ours: str, theirs: str) -> str:
    """The AUC of the default minus that of others, with 95 % intervals, on each set, in Markdown.

    Each side is aligned or not: `ALIGNED`, or nothing.
    """
    lines = []
    for label, run in runs.items():
        rows: dict[str, list[Row]] = {}
        for row in run.record["rows"]:
            rows.setdefault(row["method"], []).append(row)
        others = [name for name in rows if name != DEFAULT and not name.endswith(ALIGNED)]
        for name in others:
            cells = []
            for threshold in THRESHOLDS:
                protocol = replace(PROTOCOL, headline=f"AUC@{threshold:g}")
                found = compare(HPATCHES, protocol, rows[DEFAULT + ours], rows[name + theirs])
                interval = f" ({found.low:+.1f} to {found.high:+.1f})" if found.units >= FEW else ""
                cells.append(f"{found.difference:+.1f}{interval}")
            lines.append((label, name, *cells))
    return markdown(("set", "minus", "AUC@1", "AUC@3", "AUC@5"), lines)


if __name__ == "__main__":
    parser = study_parser("embedded", __doc__)
    parser.add_argument("images", type=Path, help="folder of the recipe's unpacked packages")
    parser.add_argument("--hpatches", type=Path, help="folder of real sequences")
    parser.add_argument("--aliked", type=Path, help="aliked-n16.pth")
    parser.add_argument("--xfeat", type=Path, help="xfeat.pt")
    parser.add_argument("--work", type=Path, default=Path("runs/embedded"), help="cache between runs")
    options = parser.parse_args()
    photos = [path for image, path in find_images(options.images, "holdout") if image.kind == "photo"]
    made = options.work / "made"
    if not made.is_dir() or len(list(made.iterdir())) < 2 * len(photos):
        make_synthetic(photos, made, seed=0, strong=True)
    sets = {"made": made} | ({"HPatches": options.hpatches} if options.hpatches else {})
    compared = methods({"aliked": options.aliked, "xfeat": options.xfeat})
    settings = Settings(KEYPOINTS)
    runs = {
        label: run_benchmark(
            "hpatches", folder, [PROTOCOL], compared, options.work / label, RunContext(), settings
        )
        for label, folder in sets.items()
    }
    rows = [{"set": label, **row} for label, run in runs.items() for row in run.record["rows"]]
    tables = [table(runs)]
    for ours, theirs in (("", ""), (ALIGNED, ALIGNED), (ALIGNED, "")):
        tables.append(differences_table(runs, ours, theirs))
    write_record(options.out, "embedded", rows, {"keypoints": KEYPOINTS, "threshold": THRESHOLD}, tables)

"""What shorter descriptors cost and save: `geomatch.opencv.fit_pca` on synthetic pairs, and OpenCV's matcher.

``python -m geomatch.benchmarks.studies.pca IMAGES`` with the folder of the recipe's unpacked packages.
Components are fitted to training photographs, pairs are made of the images that were held out.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch import corner_error, load_image, match_mutual
from geomatch.benchmarks.studies.embedded import KEYPOINTS, areas, held_out_set
from geomatch.benchmarks.studies.record import Row, markdown, seconds_of, study_parser, write_record
from geomatch.benchmarks.tasks.homography.sequences import read_data
from geomatch.benchmarks.training.sources import find_images
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.dift.head.projection import LinearHead
from geomatch.estimators import OpenCVEstimator
from geomatch.images import reduce_image
from geomatch.keypoints import OpenCVDetector
from geomatch.opencv import fit_pca

DIMENSIONS = (128, 64)
PHOTOS, FITTED = 60, 300
"""Training photographs, and keypoints in each, that components are fitted to."""
ROWS = 3000
"""Descriptors per image for the time of OpenCV's matcher."""


def fitted(extractor: DIFTExtractor, images: Path) -> dict[int, LinearHead]:
    """Components of an extractor's descriptors on training photographs, for every smaller dimension."""
    detector = OpenCVDetector("sift", max_keypoints=FITTED)
    photos = [path for image, path in find_images(images, "train") if image.kind == "photo"][:PHOTOS]
    parts: list[NDArray[np.float32]] = []
    for path in tqdm(photos, unit="photo"):
        photo = reduce_image(load_image(path), 1024)
        described = extractor.describe(photo, detector.detect(photo)).descriptors
        if described is not None and len(described):
            parts.append(described)
    rows = np.concatenate(parts)
    return {d: fit_pca(rows, d) for d in DIMENSIONS if d < rows.shape[1]}


def compare(images: Path, made: Path) -> list[Row]:
    """Corner errors with and without components, at the same keypoints of the pairs in ``made``."""
    tiny = PRESETS["dift-tiny"]
    extractors = {
        "dift-tiny": DIFTExtractor(tiny),
        "dift-tiny without projection head": DIFTExtractor(replace(tiny, head=False)),
        "dift-tiny-dense": DIFTExtractor(PRESETS["dift-tiny-dense"]),
    }
    components = {name: fitted(extractor, images) for name, extractor in extractors.items()}
    detector, estimator = OpenCVDetector("sift", max_keypoints=KEYPOINTS), OpenCVEstimator()
    rows: list[Row] = []
    for sequence in tqdm(read_data(held_out_set(images, made)).sequences, unit="sequence"):
        views = [
            load_image(path) for path in (sequence.reference, *(target[1] for target in sequence.targets))
        ]
        found = [detector.detect(view) for view in views]
        for name, extractor in extractors.items():
            described = extractor.describe_many(views, found)
            full = [features.descriptors for features in described if features.descriptors is not None]
            for dimension, pca in {extractor.dimension: None, **components[name]}.items():
                short = full if pca is None else [pca.apply(part) for part in full]
                for number, (_, _, truth) in enumerate(sequence.targets, 1):
                    matches = match_mutual(short[0], short[number])
                    points0 = found[0].keypoints[matches.indices[:, 0]]
                    points1 = found[number].keypoints[matches.indices[:, 1]]
                    estimate = estimator.estimate(points0, points1, views[0].size)
                    error = corner_error(estimate.matrix, truth, views[0].size) if estimate else None
                    rows.append({"sequence": sequence.name, "method": f"{name}, {dimension}",
                                 "dimension": dimension, "corner_error_px": error})  # fmt: skip
    return rows


def table(rows: list[Row], seconds: Mapping[str, float]) -> str:
    """In Markdown: AUC per descriptor and dimension, and the time of OpenCV's matcher at that dimension."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        failures = sum(row["corner_error_px"] is None for row in own)
        lines.append((method, *areas(own), str(failures), f"{seconds[str(own[0]['dimension'])]:.2f} s"))
    titles = ("descriptor, dimensions", "AUC@1", "AUC@3", "AUC@5", "failures", "`cv2.BFMatcher`")
    return markdown(titles, lines)


def matcher_seconds(dimension: int) -> float:
    """Seconds of ``cv2.BFMatcher(NORM_L2, crossCheck=True)`` on random unit rows: the best of three."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, ROWS, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    matcher = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True)
    return min(seconds_of(lambda: matcher.match(rows[0], rows[1])) for _ in range(3))


if __name__ == "__main__":
    parser = study_parser("pca", __doc__)
    parser.add_argument("images", type=Path, help="folder of the recipe's unpacked packages")
    parser.add_argument("--work", type=Path, default=Path("runs/embedded"), help="cache between runs")
    options = parser.parse_args()
    results = compare(options.images, options.work / "made")
    times = {str(d): matcher_seconds(d) for d in sorted({row["dimension"] for row in results})}
    print(table(results, times))
    settings = {"keypoints": KEYPOINTS, "matcher_rows": ROWS, "matcher_seconds": times}
    write_record(options.out, "pca", results, settings)

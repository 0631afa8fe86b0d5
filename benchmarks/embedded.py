"""What the embedded model is worth: beside RootSIFT, and beside its own parts left out.

``python -m geomatch.benchmarks.embedded IMAGES`` with the folder of the
recipe's unpacked packages. Pairs are made from the images that were held out
of training, so the truth is exact.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch import corner_error, match
from geomatch.benchmarks.record import write_record
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.images import Image, load_image
from geomatch.keypoints import OpenCVDetector
from geomatch.pipeline import Describer
from geomatch.synthetic import Motion
from geomatch.training.denoise import DenoiseConfig, new_unet
from geomatch.training.pairs import make_views
from geomatch.training.recipe import fit_on_images
from geomatch.training.sources import find_images
from geomatch.types import Features

MadePair = tuple[Image, Image, NDArray[np.float64], Motion]

KEYPOINTS = 1000
THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels, of the area under the curve."""


@dataclass(frozen=True, slots=True)
class RootSIFT:
    """SIFT descriptors, L1-normalised, square root (Arandjelovic and Zisserman, 2012)."""

    def describe(self, image: Image, features: Features) -> Features:
        """At the very keypoints that SIFT detected: OpenCV needs their octaves, so it detects again."""
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        sift = cv2.SIFT_create(enable_precise_upscale=True)  # type: ignore[attr-defined]
        found = sift.detect(grey, None)
        rows = np.array([(*point.pt, point.size, np.radians(point.angle)) for point in found])
        parts = (features.keypoints, features.scales, features.orientations)
        wanted = np.column_stack([part for part in parts if part is not None])
        nearest = [int(np.abs(rows - row).sum(1).argmin()) for row in wanted]
        kept, descriptors = sift.compute(grey, [found[index] for index in nearest])
        if len(kept) != len(features):
            raise ValueError("OpenCV dropped keypoints")
        ones = descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-12)
        return replace(features, descriptors=np.sqrt(ones))


def random_model(images: Path, folder: Path) -> Path:
    """The same network with random weights, and a read-out fitted to it as the recipe does."""
    torch.manual_seed(0)
    new_unet(DenoiseConfig()).save_pretrained(folder)
    fit_on_images(folder, find_images(images, "train"))[0].save(folder)
    return folder


def made_pairs(images: Path, photo_views: int, texture_views: int) -> Iterator[MadePair]:
    """Pairs of 640x480 views of the held-out images, every second one rotated freely."""
    for image, path in find_images(images, "holdout"):
        pixels = load_image(path).pixels
        for view in range(photo_views if image.kind == "photo" else texture_views):
            rng = np.random.default_rng([1000, *image.sha256.encode()[:8], view])
            motion: Motion = "upright" if view % 2 == 0 else "rotated"
            view0, view1, matrix = make_views(pixels, rng, motion)
            yield view0, view1, matrix, motion


def area_under_curve(errors: NDArray[np.float64], threshold: float) -> float:
    """Share of pairs below an error, averaged over errors up to ``threshold``; failures are infinite.

    The mean over pairs of 1 - min(error, threshold) / threshold, which is the
    area under the step curve; AUC by the trapezoid differs by less than 1/N.
    """
    return float(np.mean(1 - np.minimum(errors, threshold) / threshold))


def compare(images: Path, photo_views: int = 6, texture_views: int = 1) -> list[dict[str, Any]]:
    """Corner errors of every method on the same keypoints of the same pairs."""
    with tempfile.TemporaryDirectory() as name:
        random = random_model(images, Path(name))
        tiny = PRESETS["dift-tiny"]
        methods: dict[str, Describer] = {
            "RootSIFT": RootSIFT(),
            "dift-tiny": DIFTExtractor(tiny),
            "dift-tiny without read-out": DIFTExtractor(replace(tiny, readout=False)),
            "random weights with read-out": DIFTExtractor(replace(tiny, model=str(random))),
            "random weights without read-out": DIFTExtractor(replace(tiny, model=str(random), readout=False)),
            "dift-tiny-dense": DIFTExtractor(PRESETS["dift-tiny-dense"]),
        }
        detector = OpenCVDetector("sift", max_keypoints=KEYPOINTS)
        rows = []
        for number, (view0, view1, truth, motion) in enumerate(
            tqdm(list(made_pairs(images, photo_views, texture_views)), unit="pair")
        ):
            for method, describer in methods.items():
                found = match(view0, view1, detector=detector, descriptor=describer).homography
                error = corner_error(found.matrix, truth, view0.size) if found else None
                row = {"pair": number, "motion": motion, "method": method, "corner_error_px": error}
                rows.append(row | {"inliers": found.num_inliers, "failed": not found})
        return rows


def areas(rows: list[dict[str, Any]]) -> str:
    """AUC at 1, 3 and 5 px as cells of a table, failures counted as infinite errors."""
    errors = np.array([np.inf if row["failed"] else row["corner_error_px"] for row in rows])
    return " | ".join(f"{100 * area_under_curve(errors, t):.1f}" for t in THRESHOLDS)


def table(rows: list[dict[str, Any]]) -> str:
    """AUC at 1, 3 and 5 px per method in Markdown, failures counted as infinite errors."""
    lines = ["| descriptor | AUC@1 | AUC@3 | AUC@5 | failures |", "| --- | --- | --- | --- | --- |"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        lines.append(f"| {method} | {areas(own)} | {sum(row['failed'] for row in own)} of {len(own)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m geomatch.benchmarks.embedded", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of the recipe's unpacked packages")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    results = compare(options.images)
    print(table(results))
    print(f"wrote {write_record(options.out, 'embedded', results, {'keypoints': KEYPOINTS})}")

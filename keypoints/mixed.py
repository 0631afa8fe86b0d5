"""SIFT's keypoints and those of the embedded network, interleaved."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.files import sha256_of
from geomatch.images import Image
from geomatch.keypoints.detector import Detector, check_limit, no_keypoints, select_best
from geomatch.keypoints.opencv import OpenCVDetector
from geomatch.provenance import settings_key
from geomatch.types import Features


@dataclass(frozen=True)
class MixedDetector:
    """The best of SIFT, the best of the network, the second best of SIFT, ...; scores fall from 1.

    SIFT's are placed more exactly; the network finds some where light or lack of texture leave SIFT none.
    """

    weights: str | Path | None = None
    """The network's weights, as `TinyDetector.weights`."""
    max_keypoints: int | None = 3000
    max_image_side: int | None = 2048
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        from geomatch.keypoints.tiny import weights_file

        return [settings_key(self, leave_out=("weights",)), sha256_of(weights_file(self.weights))]

    @cached_property
    def parts(self) -> tuple[Detector, Detector]:
        """SIFT and the network, each of which could fill the whole number."""
        from geomatch.keypoints.tiny import TinyDetector  # loads torch

        count, side = self.max_keypoints, self.max_image_side
        sift = OpenCVDetector("sift", count, max_image_side=side)
        return sift, TinyDetector(self.weights, count, max_image_side=side, device=self.device)

    def detect(self, image: Image) -> Features:
        """Detect on the grey image."""
        found = [features for features in (part.detect(image) for part in self.parts) if len(features)]
        if not found:
            return no_keypoints(image)
        rank = np.concatenate([np.arange(len(features)) for features in found])
        order = np.argsort(rank, kind="stable")
        scores = np.empty(len(order), np.float32)
        scores[order] = 1 - np.arange(len(order)) / len(order)
        points, scales, angles = (
            np.concatenate([getattr(features, name) for features in found])
            for name in ("keypoints", "scales", "orientations")
        )
        features = Features(points, scores, image.size, scales, angles)
        return select_best(features, self.max_keypoints)

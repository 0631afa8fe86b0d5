"""Homography estimation on HPatches as a task for a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.hpatches.sequences import HPatchesSequence, find_sequences, split_of
from geomatch.benchmarks.sweep import Describe, Row
from geomatch.estimators import Estimator, OpenCVEstimator
from geomatch.geometry import corner_error, warp_points
from geomatch.images import load_image
from geomatch.keypoints import Detector, OpenCVDetector
from geomatch.matching import Metric, match_mutual
from geomatch.provenance import record
from geomatch.types import Features

CORRECT = 3.0
"""Pixels; largest error of a match that counts as correct."""


@dataclass(frozen=True)
class HomographyTask:
    """Every pair of every sequence: the corner error of the estimate, and the share of correct matches.

    Images in their own size, mutual nearest neighbours, no other filter. A
    failed estimate has no corner error and counts as wrong at every threshold.
    """

    data: Path
    """Folder in HPatches layout."""
    detector: Detector = field(default_factory=lambda: OpenCVDetector("sift", max_keypoints=1000))
    estimator: Estimator = field(default_factory=OpenCVEstimator)
    metric: Metric = "cosine"

    @cached_property
    def sequences(self) -> dict[str, HPatchesSequence]:
        """By name."""
        return {sequence.name: sequence for sequence in find_sequences(self.data)}

    @property
    def units(self) -> Sequence[str]:
        """Names of the sequences."""
        return list(self.sequences)

    def fingerprint(self, unit: str) -> str:
        """Of the sequence's files."""
        return self.sequences[unit].fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results besides the descriptor."""
        return {
            "task": "homography",
            "detector": record(self.detector),
            "estimator": record(self.estimator),
            "metric": self.metric,
            "correct_px": CORRECT,
        }

    def evaluate(self, unit: str, describe: Describe) -> list[Row]:
        """One row per pair and cell."""
        sequence = self.sequences[unit]
        image0 = load_image(sequence.reference)
        described0 = describe(image0, self.detector.detect(image0))
        rows = []
        for number, path, truth in sequence.targets:
            image1 = load_image(path)
            described1 = describe(image1, self.detector.detect(image1))
            for cell, features0 in described0.items():
                measured = self._pair(features0, described1[cell], truth)
                rows.append({"pair": f"{unit} 1-{number}", "split": split_of(unit), "cell": cell, **measured})
        return rows

    def _pair(self, features0: Features, features1: Features, truth: Any) -> dict[str, Any]:
        if not len(features0) or not len(features1):
            return {"corner_error_px": None, "reason": "no keypoints", "matches": 0, "correct_share": 0.0}
        if features0.descriptors is None or features1.descriptors is None:
            raise ValueError("the features were not described")
        indices = match_mutual(features0.descriptors, features1.descriptors, self.metric).indices
        points0, points1 = features0.keypoints[indices[:, 0]], features1.keypoints[indices[:, 1]]
        distances = np.linalg.norm(warp_points(truth, points0) - points1, axis=1)
        found = self.estimator.estimate(points0, points1, features0.image_size)
        return {
            "corner_error_px": corner_error(found.matrix, truth, features0.image_size) if found else None,
            "reason": None if found else found.reason,
            "matches": len(indices),
            "correct_share": float((distances <= CORRECT).mean()) if len(indices) else 0.0,
        }

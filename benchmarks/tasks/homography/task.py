"""Homography estimation on HPatches as a task for a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.harness.sweep import Maps
from geomatch.benchmarks.tasks.homography.sequences import HPatchesSequence, find_sequences, split_of
from geomatch.estimators import Estimator, OpenCVEstimator
from geomatch.geometry import corner_error, warp_points
from geomatch.images import Image, load_image
from geomatch.keypoints import Detector, OpenCVDetector
from geomatch.matching import match_mutual
from geomatch.provenance import record
from geomatch.types import Features, Metric

CORRECT = 3.0
"""Pixels; largest error of a match that counts as correct."""
THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels of mean corner error at which a homography counts as right."""


def accuracy(rows: Sequence[Row], threshold: float) -> float:
    """Percentage of pairs whose corner error is at most ``threshold``; failures count as wrong."""
    errors = np.array([np.inf if row["corner_error_px"] is None else row["corner_error_px"] for row in rows])
    return 100 * float(np.mean(errors <= threshold))


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

    @property
    def headline(self) -> tuple[str, str]:
        """See `Task.headline`."""
        return "accuracy_3px", "homographies within 3 px, %"

    def measures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """See `Task.measures`."""
        found: dict[str, Any] = {"pairs": len(rows)}
        found |= {f"accuracy_{t:g}px": accuracy(rows, t) for t in THRESHOLDS}
        found["correct_matches"] = 100 * float(np.mean([row["correct_share"] for row in rows]))
        return found | {"failures": sum(row["corner_error_px"] is None for row in rows)}

    def evaluate(self, unit: str, maps: Maps, cells: Sequence[str]) -> list[Row]:
        """One row per pair and cell."""

        def describe(image: Image) -> dict[str, Features]:
            keypoints = self.detector.detect(image)
            if not len(keypoints):
                return dict.fromkeys(cells, keypoints)
            return {
                cell: replace(keypoints, descriptors=found.sample(keypoints.keypoints, self.metric))
                for cell, found in maps(image)
            }

        sequence = self.sequences[unit]
        image0 = load_image(sequence.reference)
        described0 = describe(image0)
        rows = []
        for number, path, truth in sequence.targets:
            image1 = load_image(path)
            described1 = describe(image1)
            for cell in cells:
                measured = self._pair(described0[cell], described1[cell], truth)
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

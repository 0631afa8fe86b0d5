"""PoseLib's LO-RANSAC."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.gate import Gate, Points, check_threshold
from geomatch.types import EstimationFailure, HomographyEstimate


@dataclass(frozen=True, slots=True)
class PoseLibEstimator:
    """``poselib.estimate_homography`` behind the gate."""

    threshold: float = 3.0
    """Largest transfer error of an inlier, in pixels of image 1."""
    max_iterations: int = 100_000
    min_iterations: int = 1_000
    confidence: float = 0.9999
    """Wanted probability of having drawn one sample without outliers."""
    seed: int = 0
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """Estimate as `geomatch.estimators.Estimator` says."""
        return self.gate.run(self._solve, points0, points1, self.threshold, image_size)

    def _solve(self, p0: Points, p1: Points) -> NDArray[np.floating] | None:
        import poselib

        options = {
            "max_reproj_error": self.threshold,
            "max_iterations": self.max_iterations,
            "min_iterations": self.min_iterations,
            "success_prob": self.confidence,
            "seed": self.seed,
        }
        matrix, info = poselib.estimate_homography(p0, p1, options, {})
        return np.asarray(matrix) if info["num_inliers"] else None

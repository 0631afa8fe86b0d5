"""OpenCV's homography solvers."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.gate import Gate, Points, check_threshold
from geomatch.types import EstimationFailure, HomographyEstimate

OPENCV_METHODS: dict[str, int] = {
    "ransac": cv2.RANSAC,
    "lmeds": cv2.LMEDS,
    "rho": cv2.RHO,
    "usac_default": cv2.USAC_DEFAULT,
    "usac_fast": cv2.USAC_FAST,
    "usac_accurate": cv2.USAC_ACCURATE,
    "usac_prosac": cv2.USAC_PROSAC,
    "usac_parallel": cv2.USAC_PARALLEL,
    "usac_magsac": cv2.USAC_MAGSAC,
}
"""Names of OpenCV's methods. ``rho`` and ``usac_prosac`` sample the first matches first."""


@dataclass(frozen=True, slots=True)
class OpenCVEstimator:
    """``cv2.findHomography`` behind the gate.

    The defaults, MAGSAC++ with iterations for nine outliers in ten, take a few milliseconds where outliers
    are fewer. OpenCV's sampling is seeded inside: the same input gives the same output.
    """

    method: str = "usac_magsac"
    """A key of `OPENCV_METHODS`."""
    threshold: float = 3.0
    """Largest transfer error of an inlier, in pixels of image 1 (LMEDS uses it for the mask only)."""
    max_iterations: int = 100_000
    confidence: float = 0.9999
    """Wanted probability of having drawn one sample without outliers."""
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.method not in OPENCV_METHODS:
            raise ValueError(
                f"unknown OpenCV method {self.method!r}; choose one of: {', '.join(OPENCV_METHODS)}"
            )
        if not 1 <= self.max_iterations < 2**31:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """Estimate as `geomatch.estimators.Estimator` says."""
        return self.gate.run(self._solve, points0, points1, self.threshold, image_size)

    def _solve(self, p0: Points, p1: Points) -> NDArray[np.floating] | None:
        try:
            matrix, _ = cv2.findHomography(
                p0,
                p1,
                OPENCV_METHODS[self.method],
                self.threshold,
                None,
                self.max_iterations,
                self.confidence,
            )
        except cv2.error:  # some methods raise on degenerate input, others return None
            return None
        return None if matrix is None else np.asarray(matrix, dtype=np.float64)

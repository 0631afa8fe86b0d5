"""What an estimator is, and those of OpenCV, Kornia and PoseLib."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.evidence import Points
from geomatch.estimators.gate import Gate, check_threshold, checked_points
from geomatch.estimators.planes import PLANES, Plane, commonest_shift
from geomatch.estimators.selection import Answer, choose_model

Array = NDArray[np.floating]
Size = tuple[int, int]


class Estimator(Protocol):
    """Finds the homography that most matches agree on.

    An attribute ``threshold``, the largest transfer error of an inlier in pixels of image 1, is used where an
    object has it, so that inliers are counted again as the estimator did. Ours have it, and ``confidence``,
    the wanted probability of having drawn one sample without outliers.
    """

    def estimate(self, points0: Array, points1: Array, image_size: Size | None = None) -> Answer:
        """Estimate the homography from image 0 to image 1, or say why there is none.

        Args:
            points0: (M, 2) pixels of image 0, best match first.
            points1: (M, 2) pixels of image 1, row by row the partners.
            image_size: (width, height) of image 0, whose corners must map to a sensible quadrilateral; None
                takes the inliers' bounding box.

        Raises ShapeError unless both are (M, 2) with the same M.
        """


def threshold_of(estimator: Estimator, default: float) -> float:
    """The estimator's own ``threshold`` in pixels of image 1, or ``default`` if it has none."""
    return float(getattr(estimator, "threshold", default))


def _estimate(
    self: "KorniaEstimator | PoseLibEstimator", points0: Array, points1: Array, image_size: Size | None = None
) -> Answer:
    """Estimate as `Estimator` says."""
    return self.gate.run(self.solve, points0, points1, self.threshold, image_size)


OPENCV_METHODS: dict[str, int] = {
    name: getattr(cv2, name.upper())
    for name in (
        "ransac", "lmeds", "rho", "usac_default", "usac_fast", "usac_accurate", "usac_prosac",
        "usac_parallel", "usac_magsac",
    )
}  # fmt: skip
"""Names of OpenCV's methods. ``rho`` and ``usac_prosac`` sample the first matches first."""
_SOLVERS: dict[str, Callable[..., Any]] = {"homography": cv2.findHomography, "affine": cv2.estimateAffine2D}


@dataclass(frozen=True, slots=True)
class OpenCVEstimator:
    """``cv2.findHomography``, ``estimateAffine2D`` or ``estimateAffinePartial2D`` behind the gate.

    The defaults, MAGSAC++ with iterations for nine outliers in ten, take a few milliseconds where outliers
    are fewer. OpenCV's sampling is seeded inside: the same input gives the same output.
    """

    method: str = "usac_magsac"
    """A key of `OPENCV_METHODS`."""
    threshold: float = 3.0
    """LMEDS uses it for the mask only."""
    max_iterations: int = 100_000
    confidence: float = 0.9999
    gate: Gate = field(default_factory=Gate)
    model: str = "homography"
    """One of `geomatch.transforms.PLANES`, or ``auto``: the simplest that will do (`choose_model`). Where
    OpenCV lacks a method for a model (``rho`` for affine maps; all but ``lmeds`` for similarities and
    rotations) ``ransac`` stands in; a translation tries every match."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.model not in (*PLANES, "auto"):
            raise ValueError(f"unknown model {self.model!r}; choose from: {', '.join(PLANES)}, auto")
        if self.method not in OPENCV_METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose from: {', '.join(OPENCV_METHODS)}")
        if not 1 <= self.max_iterations < 2**31:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")

    def estimate(self, points0: Array, points1: Array, image_size: Size | None = None) -> Answer:
        """Estimate as `Estimator` says."""

        def answer(plane: Plane, matrix: Points | None = None) -> Answer:
            solve = replace(self, model=plane.name).solve if matrix is None else lambda a, b: matrix
            return self.gate.run(solve, points0, points1, self.threshold, image_size, plane)

        if self.model != "auto":
            return answer(PLANES[self.model])
        return choose_model(answer, *checked_points(points0, points1), self.threshold, image_size)

    def solve(self, p0: Points, p1: Points) -> Array | None:
        """The solver's own matrix, from at least four finite matches; of a rotation a similarity."""
        if self.model == "translation":
            return commonest_shift(p0, p1, self.threshold)
        solver = _SOLVERS.get(self.model, cv2.estimateAffinePartial2D)
        method, limit = OPENCV_METHODS[self.method], self.max_iterations
        lacks = {"homography": False, "affine": method == cv2.RHO}
        if lacks.get(self.model, method != cv2.LMEDS):
            method = cv2.RANSAC
        limits = {"ransacReprojThreshold": self.threshold, "maxIters": limit, "confidence": self.confidence}
        try:
            matrix, _ = solver(p0, p1, method=method, **limits)
        except cv2.error:  # some methods raise on degenerate input, others return None
            return None
        if matrix is None or len(matrix) == 3:
            return None if matrix is None else np.asarray(matrix, dtype=np.float64)
        return np.vstack([matrix, [0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True)
class KorniaEstimator:
    """``kornia.geometry.ransac.RANSAC('homography')`` behind the gate."""

    threshold: float = 3.0
    max_batches: int = 10
    """Batches of 2048 samples at most."""
    confidence: float = 0.9999
    seed: int = 0
    device: str = "cpu"
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    estimate = _estimate

    def solve(self, p0: Points, p1: Points) -> Array | None:
        """The solver's own matrix, from at least four finite matches."""
        import torch
        from kornia.geometry.ransac import RANSAC

        from geomatch.isolation import isolated

        ransac = RANSAC(
            "homography", inl_th=self.threshold, batch_size=2048, max_iter=self.max_batches,
            confidence=self.confidence, max_lo_iters=5, seed=self.seed,
        )  # fmt: skip
        with isolated():
            matrix, _ = ransac(*(torch.from_numpy(points).float().to(self.device) for points in (p0, p1)))
        found = matrix.detach().cpu().double().numpy()
        return found if np.any(found) else None  # kornia says "none" with zeros


@dataclass(frozen=True, slots=True)
class PoseLibEstimator:
    """``poselib.estimate_homography``, a LO-RANSAC, behind the gate."""

    threshold: float = 3.0
    max_iterations: int = 100_000
    min_iterations: int = 1_000
    confidence: float = 0.9999
    seed: int = 0
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    estimate = _estimate

    def solve(self, p0: Points, p1: Points) -> Array | None:
        """The solver's own matrix, from at least four finite matches."""
        import poselib

        options = {
            "max_reproj_error": self.threshold, "max_iterations": self.max_iterations,
            "min_iterations": self.min_iterations, "success_prob": self.confidence, "seed": self.seed,
        }  # fmt: skip
        matrix, info = poselib.estimate_homography(p0, p1, options, {})
        return np.asarray(matrix) if info["num_inliers"] >= 4 else None

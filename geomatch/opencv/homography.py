"""``cv2.findHomography`` with geomatch's gate and all its backends."""

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.estimators import Estimator, OpenCVEstimator, create_estimator
from geomatch.estimators.solvers import OPENCV_METHODS
from geomatch.geometry import normalize_homography
from geomatch.opencv.arguments import check_number, check_whole
from geomatch.opencv.convert import to_homography

DEFAULT_THRESHOLD = 3.0  # pixels, also for a threshold that is not positive, as in OpenCV


def findHomography(
    srcPoints: NDArray[np.number],
    dstPoints: NDArray[np.number],
    method: int | str | Estimator = 0,
    ransacReprojThreshold: float = DEFAULT_THRESHOLD,
    mask: NDArray[np.uint8] | None = None,
    maxIters: int = 2000,
    confidence: float = 0.995,
) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8]]:
    """The homography between matched points, or None where chance explains the matches as well.

    The matrix of a robust method must pass the gate of `geomatch.estimators`; OpenCV returns one for random
    matches, too. ``method=0`` is OpenCV's least squares on all points, without the gate.

    Args:
        srcPoints: (N, 2), (N, 1, 2) or (1, N, 2), any numbers, pixels of the first image.
        dstPoints: their partners; best match first for ``cv2.RHO`` and ``cv2.USAC_PROSAC``.
        method: 0, a method of OpenCV (``cv2.RANSAC``, ``cv2.USAC_MAGSAC``, ...), a name
            (`geomatch.estimators.estimators`: ``"poselib"``, ``"kornia"``, ...), or an estimator.
        ransacReprojThreshold: largest error of an inlier in pixels of the second image; an
            estimator object has its own.
        mask: an array (N, 1) to fill, too.
        maxIters: for OpenCV's methods; names and estimators have their own.
        confidence: for OpenCV's methods, between 0 and 1, both excluded.

    Returns (3, 3) float64 with element [2, 2] one, or None; and (N, 1) uint8, 1 for inliers. Raises TypeError
    for arguments of the wrong type, ValueError for points of other shapes, fewer than four or not equally
    many, and for unknown methods.
    """
    points0, points1 = _points("srcPoints", srcPoints), _points("dstPoints", dstPoints)
    if len(points0) != len(points1):
        raise ValueError(f"srcPoints and dstPoints must be as many, got {len(points0)} and {len(points1)}")
    if len(points0) < 4:
        raise ValueError(f"at least 4 points are needed, got {len(points0)}")
    threshold = check_number("ransacReprojThreshold", ransacReprojThreshold)
    threshold = threshold if threshold > 0 else DEFAULT_THRESHOLD
    if isinstance(method, (int, np.integer)) and method == 0:
        matrix = _least_squares(points0, points1)
        inliers = np.full((len(points0), 1), matrix is not None, np.uint8)
    else:
        iterations = min(max(1, check_whole("maxIters", maxIters, -(2**31))), 2**31 - 1)
        estimator = _estimator(method, threshold, iterations, check_number("confidence", confidence))
        matrix, inliers = to_homography(estimator.estimate(points0, points1), len(points0))
    if isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.size == inliers.size:
        mask[...] = inliers.reshape(mask.shape)
    return matrix, inliers


def _points(name: str, points: NDArray[np.number]) -> NDArray[np.float64]:
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
        got = points.dtype if isinstance(points, np.ndarray) else type(points).__name__
        raise TypeError(f"{name} must be an array of numbers, got {got}; use np.float32(points)")
    if points.ndim not in (2, 3) or points.shape[-1] != 2 or (points.ndim == 3 and 1 not in points.shape[:2]):
        raise ValueError(f"{name} must have shape (N, 2), (N, 1, 2) or (1, N, 2), got {points.shape}")
    return points.reshape(-1, 2).astype(np.float64)


def _least_squares(points0: NDArray[np.float64], points1: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if not (np.isfinite(points0).all() and np.isfinite(points1).all()):
        return None
    try:
        matrix, _ = cv2.findHomography(points0, points1, 0)
    except cv2.error:  # numbers beyond its arithmetic
        return None
    return None if matrix is None else normalize_homography(matrix)


def _estimator(
    method: int | str | Estimator, threshold: float, iterations: int, confidence: float
) -> Estimator:
    if isinstance(method, str):
        return create_estimator(method, threshold)
    if isinstance(method, (int, np.integer)):
        names = [name for name, number in OPENCV_METHODS.items() if number == method]
        if not names:
            known = ", ".join(f"{number} ({name})" for name, number in OPENCV_METHODS.items())
            raise ValueError(f"unknown method {method}; choose 0 (least squares), {known}, or a name")
        return OpenCVEstimator(names[0], threshold, iterations, confidence)
    if not callable(getattr(method, "estimate", None)):
        raise TypeError(f"method must be a number, a name or an estimator, got {type(method).__name__}")
    return method

"""``cv2.findHomography`` with geomatch's gate and all its backends."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.estimators import Estimator, OpenCVEstimator, create_estimator
from geomatch.estimators.gate import check_threshold
from geomatch.estimators.solvers import OPENCV_METHODS
from geomatch.geometry import normalize_homography, warp_points
from geomatch.opencv.arguments import check_number, check_whole
from geomatch.opencv.convert import to_homography
from geomatch.types import EstimationFailure, HomographyEstimate

DEFAULT_THRESHOLD = 3.0  # also for a threshold that is not positive, as in OpenCV
FEW = 8  # points, below which chance explains most matches
PIXELS = 0.5, 20.0  # thresholds that are taken as pixels: the points are not scaled
_SAME_UNITS = 8.0  # sides whose sizes differ less are in one unit

Points = NDArray[np.float64]
Estimate = HomographyEstimate | EstimationFailure
Method = int | str | Estimator


class HomographyWarning(UserWarning):
    """Why `findHomography` returned None."""


def findHomography(
    srcPoints: NDArray[np.number],
    dstPoints: NDArray[np.number],
    method: Method = 0,
    ransacReprojThreshold: float = DEFAULT_THRESHOLD,
    mask: NDArray[np.uint8] | None = None,
    maxIters: int = 2000,
    confidence: float = 0.995,
) -> tuple[Points | None, NDArray[np.uint8]]:
    """The homography between matched points, or None where chance explains the matches as well.

    The matrix of a robust method must pass the gate of `geomatch.estimators`; OpenCV returns one for random
    matches, too. None comes with a `HomographyWarning` that says why; `estimate_homography` returns the
    reason. Any units will do, and planes may be mirrored (y up on one side). ``method=0`` is OpenCV's least
    squares on all points, without the gate: right for the four corners of a page that you clicked. Four
    points fit any homography, and five to seven often do, so that the other methods rarely answer so few.

    Args:
        srcPoints: (N, 2), (N, 1, 2) or (1, N, 2), any numbers in any unit.
        dstPoints: their partners; best match first for ``cv2.RHO`` and ``cv2.USAC_PROSAC``.
        method: 0, a method of OpenCV (``cv2.RANSAC``, ``cv2.USAC_MAGSAC``, ...), a name
            (`geomatch.estimators.estimators`: ``"poselib"``, ``"kornia"``, ...), or an estimator, whose
            own gate and units count.
        ransacReprojThreshold: largest error of an inlier in the units of ``dstPoints``; an estimator has its
            own.
        mask: an array (N, 1) to fill, too.
        maxIters: for OpenCV's methods; names and estimators have their own.
        confidence: for OpenCV's methods, between 0 and 1, both excluded.

    Returns (3, 3) float64 with element [2, 2] one, or None; and (N, 1) uint8, 1 for inliers. Raises TypeError
    for arguments of the wrong type, ValueError for points of other shapes, fewer than four or not equally
    many, and for unknown methods.
    """
    found = estimate_homography(srcPoints, dstPoints, method, ransacReprojThreshold, maxIters, confidence)
    if not found:
        warnings.warn(found.reason, HomographyWarning, stacklevel=2)
    matrix, inliers = to_homography(found, srcPoints.size // 2)
    if isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.size == inliers.size:
        mask[...] = inliers.reshape(mask.shape)
    return matrix, inliers


def estimate_homography(
    srcPoints: NDArray[np.number],
    dstPoints: NDArray[np.number],
    method: Method = 0,
    ransacReprojThreshold: float = DEFAULT_THRESHOLD,
    maxIters: int = 2000,
    confidence: float = 0.995,
) -> Estimate:
    """What `findHomography` finds: an estimate, or a failure that is false and has a ``reason``, unwarned."""
    points0, points1 = _points("srcPoints", srcPoints), _points("dstPoints", dstPoints)
    if len(points0) != len(points1):
        raise ValueError(f"srcPoints and dstPoints must be as many, got {len(points0)} and {len(points1)}")
    if len(points0) < 4:
        raise ValueError(f"at least 4 points are needed, got {len(points0)}")
    limit = check_number("ransacReprojThreshold", ransacReprojThreshold)
    limit = limit if limit > 0 else DEFAULT_THRESHOLD
    check_threshold(limit)
    whole = min(max(1, check_whole("maxIters", maxIters, -(2**31))), 2**31 - 1)
    scale = 1.0 if PIXELS[0] <= limit <= PIXELS[1] else DEFAULT_THRESHOLD / limit
    estimate = _method(method, scale * limit, whole, check_number("confidence", confidence))
    if not isinstance(method, (int, np.integer, str)):
        return estimate(points0, points1)
    frame0, frame1 = _frames(points0, points1, scale)
    with np.errstate(invalid="ignore"):  # infinite coordinates
        moved0, moved1 = warp_points(frame0, points0), warp_points(frame1, points1)
    found = estimate(moved0, moved1)
    if method != 0 and 2 * found.num_inliers < len(points0):  # most solvers refuse a mirrored sample
        mirrored = estimate(warp_points(flip := np.diag([-1.0, 1, 1]), moved0), moved1)
        if mirrored and mirrored.num_inliers > found.num_inliers:
            found, frame0 = mirrored, flip @ frame0
    if not found:
        size, hint = float(np.median(np.abs(points1 - np.median(points1, axis=0)).max(axis=1))), ""
        if len(points0) < FEW:
            hint = f"; {len(points0)} points cannot tell a homography from chance: method=0 fits them all"
        elif size < 5 * limit:
            hint = f" (the threshold {limit:g} is in units of dstPoints, which spread over {size:.2g})"
        return replace(found, reason=found.reason + hint) if method != 0 else found
    matrix = normalize_homography(np.linalg.inv(frame1) @ found.matrix @ frame0)
    if matrix is None:
        return EstimationFailure("the homography sends the origin to infinity")
    deviations = None if found.corner_deviations is None else found.corner_deviations / scale
    return replace(found, matrix=matrix, corner_deviations=deviations, covariance=None)


def _points(name: str, points: object) -> Points:
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
        got = points.dtype if isinstance(points, np.ndarray) else type(points).__name__
        raise TypeError(f"{name} must be an array of numbers, got {got}; use np.float32(points)")
    if points.ndim not in (2, 3) or points.shape[-1] != 2 or (points.ndim == 3 and 1 not in points.shape[:2]):
        raise ValueError(f"{name} must have shape (N, 2), (N, 1, 2) or (1, N, 2), got {points.shape}")
    return points.reshape(-1, 2).astype(np.float64)


def _frames(points0: Points, points1: Points, scale: float) -> tuple[Points, Points]:
    """To coordinates near zero and as large as pixels, which solvers calculate with, in float32.

    One shift and scale for both sides, so that what is at rest stays so, unless their units differ.
    """
    finite = np.isfinite(np.hstack([points0, points1])).all(axis=1)
    used = [points[finite] if finite.any() else np.zeros((1, 2)) for points in (points0, points1)]
    centre0, centre1 = (np.median(points, axis=0) for points in used)
    size0, size1 = (float(np.median(np.abs(p - np.median(p, axis=0)).max(axis=1))) for p in used)
    zoom = size1 / size0 if min(size0, size1) > 0 else 1.0
    if 1 / _SAME_UNITS < zoom < _SAME_UNITS and np.abs(centre1 - centre0).max() < 10 * max(size0, size1):
        zoom, centre1 = 1.0, centre0
    else:
        centre1 = centre1 + 10 * size1  # nothing looks at rest
    frames = [
        np.array([[k, 0, -k * x], [0, k, -k * y], [0, 0, 1]])
        for k, (x, y) in ((scale * zoom, centre0), (scale, centre1))
    ]
    return frames[0], frames[1]


def _least_squares(points0: Points, points1: Points) -> Estimate:
    matrix = None
    if np.isfinite(points0).all() and np.isfinite(points1).all():
        with suppress(cv2.error):  # numbers beyond its arithmetic
            matrix = cv2.findHomography(points0, points1, 0)[0]
    normal = None if matrix is None else normalize_homography(np.asarray(matrix, np.float64))
    if normal is None:
        return EstimationFailure("the points lie on a line, or their coordinates are not finite")
    return HomographyEstimate(normal, np.ones(len(points0), np.bool_))


def _method(
    method: Method, threshold: float, iterations: int, confidence: float
) -> Callable[[Points, Points], Estimate]:
    """From points to an estimate."""
    if isinstance(method, str):
        return create_estimator(method, threshold).estimate
    if isinstance(method, (int, np.integer)):
        if method == 0:
            return _least_squares
        names = [name for name, number in OPENCV_METHODS.items() if number == method]
        if not names:
            known = ", ".join(f"{number} ({name})" for name, number in OPENCV_METHODS.items())
            raise ValueError(f"unknown method {method}; choose 0 (least squares), {known}, or a name")
        return OpenCVEstimator(names[0], threshold, iterations, confidence).estimate
    if not callable(getattr(method, "estimate", None)):
        raise TypeError(f"method must be a number, a name or an estimator, got {type(method).__name__}")
    return method.estimate

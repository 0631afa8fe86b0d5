"""Epipolar geometry of two views, or a homography where one plane explains them."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.epipolar import residuals_and_gradients
from geomatch.estimators.evidence import Points, log10_nfa
from geomatch.estimators.gate import Gate, by_chance, checked_points, too_few
from geomatch.estimators.solvers import OpenCVEstimator
from geomatch.estimators.stationary import beside_watermark
from geomatch.geometry import warp_points
from geomatch.types import EstimationFailure, HomographyEstimate, TwoViewGeometry

# COLMAP's TwoViewGeometryOptions
_MIN_INLIERS = 15  # min_num_inliers
_MAX_H_INLIER_RATIO = 0.8  # with more of the epipolar inliers on a homography, it is a plane
_MIN_E_F_INLIER_RATIO = 0.95  # with fewer, the calibration is not believed
THRESHOLD = 4.0  # pixels, ransac.max_error
_CONFIDENCE, _ITERATIONS = 0.9999, 10_000


def estimate_two_view(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    size0: tuple[int, int],
    size1: tuple[int, int],
    calibration0: NDArray[np.floating] | None = None,
    calibration1: NDArray[np.floating] | None = None,
    threshold: float = THRESHOLD,
) -> TwoViewGeometry | EstimationFailure:
    """Estimate a fundamental matrix, with both calibrations an essential one, on a plane a homography.

    Solvers are OpenCV's MAGSAC++. The choice between the kinds, and its limits, is that of COLMAP's
    ``EstimateTwoViewGeometry``. The support must be more than chance explains (number of false alarms of
    Moisan and Stival, 2004). Matches at rest in a strip, as those of a watermark, are set aside first; alone
    they are a failure.

    Points (M, 2) are pixels of images 0 and 1, row by row partners; sizes are (width, height), calibrations
    camera matrices (3, 3) where known; ``threshold`` is the largest distance from epipolar lines in pixels.
    Raises ShapeError for points of other shapes, ValueError when a number is not finite.
    """
    p0, p1 = checked_points(points0, points1)
    if not (np.isfinite(p0).all() and np.isfinite(p1).all()):
        raise ValueError("matched points must be finite, got NaN or infinity in them")
    given = calibration0, calibration1
    cameras = [np.asarray(matrix, np.float64) for matrix in given if matrix is not None]
    return beside_watermark(
        lambda used: _estimate(p0[used], p1[used], (size0, size1), cameras, threshold),
        p0, p1, np.ones(len(p0), np.bool_), threshold, size0,
    )  # fmt: skip


def _estimate(
    p0: Points, p1: Points, sizes: Sequence[tuple[int, int]], cameras: Sequence[Points], threshold: float
) -> TwoViewGeometry | EstimationFailure:
    if len(p0) < _MIN_INLIERS:
        return EstimationFailure(f"{len(p0)} matches, {_MIN_INLIERS} are needed")
    fundamental = _usable(
        lambda: cv2.findFundamentalMat(p0, p1, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS)
    )
    # a plane far from the image's corners is one, too
    planar = OpenCVEstimator(
        "usac_magsac", threshold, gate=Gate(max_deviation=inf, max_leaning=inf)
    ).estimate(p0, p1, sizes[0])
    inliers = np.zeros(len(p0), np.bool_)
    if fundamental is not None:
        inliers = epipolar_distances(fundamental, p0, p1) <= threshold
    count = int(inliers.sum())
    essential, agreeing = None, inliers
    if fundamental is not None and len(cameras) == 2:
        essential = _essential(p0, p1, cameras, threshold)
        if essential is not None:
            matrix = np.linalg.inv(cameras[1]).T @ essential @ np.linalg.inv(cameras[0])
            agreeing = epipolar_distances(matrix, p0, p1) <= threshold
            if agreeing.sum() < _MIN_E_F_INLIER_RATIO * count:
                essential = None
    if planar and planar.num_inliers >= max(_MIN_INLIERS, _MAX_H_INLIER_RATIO * count):
        # with known calibration, points off the plane can be told from wrong ones
        off_plane = essential is not None and agreeing.sum() > planar.num_inliers
        return TwoViewGeometry("planar", planar.matrix, agreeing if off_plane else planar.inliers)
    if fundamental is None:
        return EstimationFailure(f"the solver found no epipolar geometry among {len(p0)} matches")
    if count < _MIN_INLIERS:
        return EstimationFailure(too_few(count, len(p0), "geometry", _MIN_INLIERS))
    # the strip about a line through the image that random points would have to hit, in both images
    chances = [min(1.0, 2 * threshold * np.hypot(*size) / (size[0] * size[1])) for size in sizes]
    nfa = log10_nfa(len(p0), count, min(chances), sample=7, models=3)
    if reason := by_chance(count, len(p0), "geometry", nfa):
        return EstimationFailure(reason)
    if essential is not None:
        return TwoViewGeometry("calibrated", essential, agreeing)
    return TwoViewGeometry("uncalibrated", fundamental, inliers)


def transfer_errors(
    found: HomographyEstimate | TwoViewGeometry, points0: NDArray[np.floating], points1: NDArray[np.floating]
) -> Points:
    """(M,) pixels of matched points (M, 2): from the epipolar lines, or under the homography in image 1."""
    config = "planar" if isinstance(found, HomographyEstimate) else found.config
    if config == "calibrated":
        raise ValueError("an essential matrix relates rays, not pixels")
    p0, p1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    if config == "planar":
        errors: Points = np.linalg.norm(warp_points(found.matrix, p0) - p1, axis=1)
        return errors
    return epipolar_distances(found.matrix, p0, p1)


def epipolar_distances(matrix: NDArray[np.floating], p0: Points, p1: Points) -> Points:
    """(M,) pixels: the larger of the distances of both points to the other's epipolar line."""
    values, squares = residuals_and_gradients(matrix, p0, p1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.abs(values) / np.sqrt(squares.min(axis=0))
    return np.where(np.isfinite(distances), distances, np.inf)


def _essential(p0: Points, p1: Points, cameras: Sequence[Points], threshold: float) -> Points | None:
    pairs = zip((p0, p1), cameras, strict=True)
    r0, r1 = (cv2.undistortPoints(points[:, None], camera, None)[:, 0] for points, camera in pairs)
    focal = float(np.mean([camera.diagonal()[:2] for camera in cameras]))
    method, limit = cv2.USAC_MAGSAC, threshold / focal
    return _usable(lambda: cv2.findEssentialMat(r0, r1, np.eye(3), method, _CONFIDENCE, limit, _ITERATIONS))


def _usable(solve: Callable[[], Any]) -> Points | None:
    """The solver's matrix with norm one; None when there is none."""
    try:
        matrix, _ = solve()
    except cv2.error:  # degenerate points
        return None
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    norm = np.linalg.norm(matrix)
    return np.asarray(matrix / norm, np.float64) if norm > 0 else None

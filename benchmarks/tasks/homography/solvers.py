"""Homography solvers as the protocols use them: no refit, None for a failure."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.estimators import OpenCVEstimator, PoseLibEstimator, create_estimator

Points = NDArray[np.float64]
_OPENCV = {  # method, iterations and confidence
    "lmeds": ("lmeds", 2000, 0.995),
    "ransac": ("ransac", 2000, 0.995),
    "ransac-roma": ("ransac", 2000, 0.99999),
    "magsac-evd": ("usac_magsac", 100_000, 0.995),  # its example's 0.999 lands in another argument
}


def solve(
    name: str, threshold: float, points0: Points, points1: Points, size: tuple[int, int] = (1, 1)
) -> NDArray[np.float64] | None:
    """(3, 3) from (M, 2) points of image 0, of (width, height) ``size``, and their partners.

    ``name`` is one of `cv2.findHomography`'s methods, ``poselib`` for its LO-RANSAC, both with their own
    defaults but the threshold in pixels; or an estimator of geomatch, with its gate.
    """
    if name not in _OPENCV and name != "poselib":
        found = create_estimator(name, threshold).estimate(points0, points1, size)
        return found.matrix if found else None
    if len(points0) < 4:
        return None
    if name == "poselib":
        return _finite(PoseLibEstimator(threshold).solve(points0, points1))
    method, iterations, confidence = _OPENCV[name]
    return _finite(OpenCVEstimator(method, threshold, iterations, confidence).solve(points0, points1))


def direct(
    points0: Points, points1: Points, weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64] | None:
    """Normalised DLT over all matches; with weight 1 unless given, as mutual neighbours in glue-factory."""
    from kornia.geometry.homography import find_homography_dlt

    if len(points0) < 4:
        return None
    pair = (torch.from_numpy(np.ascontiguousarray(points))[None] for points in (points0, points1))
    shares = np.ones(len(points0)) if weights is None else weights.astype(np.float64)
    try:
        return _finite(find_homography_dlt(*pair, torch.from_numpy(shares)[None])[0].numpy())
    except RuntimeError:  # of a decomposition that does not converge
        return None


def _finite(matrix: NDArray[Any] | None) -> NDArray[np.float64] | None:
    if matrix is None or not np.isfinite(matrix).all() or not np.any(matrix):
        return None
    return np.asarray(matrix, np.float64)

"""Homography solvers as the protocols use them: no gate, no refit, None for a failure."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.errors import require

Points = NDArray[np.float64]
Solver = Callable[[Points, Points], NDArray[np.float64] | None]
"""From (M, 2) points of image 0 and their partners to (3, 3), or None."""


def opencv(method: int, threshold: float = 3.0, iterations: int = 2000, confidence: float = 0.995) -> Solver:
    """``cv2.findHomography``; the defaults are OpenCV's."""

    def solve(points0: Points, points1: Points) -> NDArray[np.float64] | None:
        if len(points0) < 4:
            return None
        try:
            matrix, _ = cv2.findHomography(points0, points1, method, threshold, None, iterations, confidence)
        except cv2.error:  # some methods raise where others return None
            return None
        return _finite(None if matrix is None else np.asarray(matrix, np.float64))

    return solve


def poselib(threshold: float = 1.0) -> Solver:
    """PoseLib's LO-RANSAC with its own defaults but the threshold in pixels. Needs the extra ``poselib``."""
    library = require("poselib", "poselib", "the protocol auc480-poselib")

    def solve(points0: Points, points1: Points) -> NDArray[np.float64] | None:
        if len(points0) < 4:
            return None
        options = {"max_reproj_error": threshold}
        matrix, information = library.estimate_homography(points0, points1, options)
        return _finite(matrix) if information["num_inliers"] >= 4 else None

    return solve


def direct(
    points0: Points, points1: Points, weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64] | None:
    """Normalised DLT over all matches; with weight 1 unless given, as mutual neighbours in glue-factory."""
    from kornia.geometry.homography import find_homography_dlt

    if len(points0) < 4:
        return None
    pair = (torch.from_numpy(np.ascontiguousarray(points))[None] for points in (points0, points1))
    try:
        shares = np.ones(len(points0)) if weights is None else weights.astype(np.float64)
        return _finite(find_homography_dlt(*pair, torch.from_numpy(shares)[None])[0].numpy())
    except RuntimeError:  # of a decomposition that does not converge
        return None


def _finite(matrix: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    if matrix is None or not np.isfinite(matrix).all() or not np.any(matrix):
        return None
    return np.asarray(matrix, np.float64)

"""Least squares on the inliers, repeated until they no longer change."""

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import normalize_homography, warp_points

Points = NDArray[np.float64]


def refine_homography(
    matrix: Points, points0: Points, points1: Points, threshold: float, rounds: int
) -> Points:
    """Fit to the matches within ``threshold`` pixels (OpenCV's least squares), select again, and so on.

    This removes most of the error that a robust solver's last sample leaves far from the inliers.

    Args:
        matrix: (3, 3) to start from, with element [2, 2] one.
        points0: (M, 2) in image 0.
        points1: (M, 2) their partners.
        threshold: largest transfer error of an inlier in pixels of image 1.
        rounds: at most so many fits.
    """
    inliers = np.zeros(len(points0), dtype=np.bool_)
    for _ in range(rounds):
        previous = inliers
        inliers = np.linalg.norm(warp_points(matrix, points0) - points1, axis=1) <= threshold
        if inliers.sum() < 4 or np.array_equal(inliers, previous):
            break
        fitted, _mask = cv2.findHomography(points0[inliers], points1[inliers], 0)
        normal = None if fitted is None else normalize_homography(fitted)
        if normal is None:
            break
        matrix = normal
    return matrix

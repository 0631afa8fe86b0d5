"""COLMAP's numbers and coordinates; the only place where half a pixel is added.

Ours: the centre of the first pixel is (0, 0). COLMAP's: the image's upper left corner is (0, 0), so that
this centre is (0.5, 0.5). Both, and the numbers, are of its documentation, "Database Format".
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR_BASE = 2147483647
"""``pair_id = PAIR_BASE * smaller image id + larger``."""
CONFIGURATIONS = (
    "undefined", "degenerate", "calibrated", "uncalibrated", "planar", "panoramic", "planar or panoramic",
    "watermark", "multiple", "calibrated rig",
)  # fmt: skip
"""Configurations of a two-view geometry, by COLMAP's number."""
DIAMETER = 2.0
"""`Features.scales` are diameters, as of ``cv2.KeyPoint``; COLMAP's scale is SIFT's sigma, half of it."""
_SHIFT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
_UNSHIFT = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


def to_colmap(keypoints: NDArray[Any]) -> NDArray[np.float32]:
    """(N, 2) points for COLMAP.

    >>> to_colmap(np.zeros((1, 2))).tolist()
    [[0.5, 0.5]]
    """
    return (np.asarray(keypoints, np.float64) + 0.5).astype(np.float32)


def from_colmap(keypoints: NDArray[Any]) -> NDArray[np.float32]:
    """(N, 2) points of COLMAP in our coordinates."""
    return (np.asarray(keypoints, np.float64) - 0.5).astype(np.float32)


def shapes_from_colmap(rows: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """`Features.scales` and `orientations` of a database's keypoints (N, 2, 4 or 6); None where it has none.

    Affine shapes have COLMAP's means (``FeatureKeypoint::ComputeScale``, ``ComputeOrientation``).
    """
    scales, angles = rows[:, 2:4].T if rows.shape[1] == 4 else (np.zeros(len(rows)), np.zeros(len(rows)))
    if rows.shape[1] == 6:
        a11, a12, a21, a22 = rows[:, 2:].T
        scales, angles = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2, np.arctan2(a21, a11)
    good = (scales > 0) & np.isfinite(scales + angles)
    return (DIAMETER * scales, angles) if good.all() else (None, None)


def homography_to_colmap(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert a homography to COLMAP's points: T H T^-1, T adding half a pixel."""
    return np.asarray(_SHIFT @ matrix @ _UNSHIFT)


def fundamental_to_colmap(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert a fundamental matrix to COLMAP's points: T^-T F T^-1."""
    return np.asarray(_UNSHIFT.T @ matrix @ _UNSHIFT)


def camera_from_colmap(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert a camera matrix K to our coordinates: T^-1 K."""
    return np.asarray(_UNSHIFT @ matrix)

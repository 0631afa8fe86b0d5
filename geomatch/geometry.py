"""Plane geometry: homographies, image corners, and coordinates of resized images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.types import check_shape


def warp_points(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Apply a homography (3, 3) to points (N, 2); points sent to infinity become infinite.

    >>> warp_points([[1, 0, 5], [0, 1, 0], [0, 0, 1]], [[1, 2]]).tolist()
    [[6.0, 2.0]]
    """
    h = np.asarray(matrix, dtype=np.float64)
    p = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    check_shape("matrix", h, (3, 3))
    homogeneous = p @ h[:, :2].T + h[:, 2]
    w = homogeneous[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        warped = homogeneous[:, :2] / w
    return np.where(w == 0, np.inf, warped)


def image_corners(size: tuple[int, int]) -> NDArray[np.float64]:
    """(4, 2) centres of the corner pixels of a (width, height) image, clockwise from the first."""
    right, bottom = size[0] - 1.0, size[1] - 1.0
    return np.array([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]])


def corner_error(estimate: ArrayLike, truth: ArrayLike, size: tuple[int, int]) -> float:
    """Mean distance in pixels of image 1 of image 0's corners under two homographies (SuperPoint, 2018)."""
    corners = image_corners(size)
    difference = warp_points(estimate, corners) - warp_points(truth, corners)
    return float(np.linalg.norm(difference, axis=1).mean())


def normalize_homography(matrix: ArrayLike) -> NDArray[np.float64] | None:
    """Scale so that ``matrix[2, 2] == 1``; None if it is not finite or sends (0, 0) to infinity."""
    h = np.asarray(matrix, dtype=np.float64)
    check_shape("matrix", h, (3, 3))
    if not np.isfinite(h).all() or abs(h[2, 2]) <= 1e-12 * np.abs(h).max():
        return None
    scaled: NDArray[np.float64] = h / h[2, 2]
    return scaled if np.isfinite(scaled).all() else None


def resize_points(
    points: NDArray[np.floating], size: tuple[int, int], new_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Where points (N, 2) of a (width, height) image lie after it is resized to another size.

    Pixels are areas and their centres have whole coordinates, so x' = (x + 0.5) w'/w - 0.5, also from an
    image to a feature map that covers it.
    """
    factor = np.array([new_size[0] / size[0], new_size[1] / size[1]])
    return np.asarray((points.astype(np.float64) + 0.5) * factor - 0.5, dtype=np.float32)


def resize_homography(size: tuple[int, int], new_size: tuple[int, int]) -> NDArray[np.float64]:
    """`resize_points` as a matrix."""
    sx, sy = new_size[0] / size[0], new_size[1] / size[1]
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2], [0.0, 0.0, 1.0]])


def shift_homography(x: float, y: float) -> NDArray[np.float64]:
    """(3, 3) that adds x and y to coordinates."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])

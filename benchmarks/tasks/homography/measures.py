"""What the HPatches protocols measure of one pair; distances are in pixels of the protocol's frame."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.geometry import warp_points

Points = NDArray[np.floating]


def match_distances(points0: Points, points1: Points, truth: ArrayLike) -> NDArray[np.float64]:
    """(M,) distance in image 1 between where the truth sends a point and its partner (D2-Net, one way)."""
    apart = warp_points(truth, points0) - np.reshape(points1, (-1, 2))
    return np.asarray(np.linalg.norm(apart, axis=1), np.float64)


def visible(points: Points, matrix: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N,) which points the matrix sends into an image of that (width, height)."""
    warped = warp_points(matrix, points)
    inside = (warped >= 0) & (warped <= np.array([size[0] - 1, size[1] - 1]))
    return np.asarray(inside.all(axis=1))


def visible_part(
    truth: NDArray[np.float64], size0: tuple[int, int], size1: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 2) pixels of image 0 that image 1 shows, and the truth, signed so that they are before the plane.

    Of an image with over a million pixels every k-th each way. Sizes are (width, height).
    """
    step = int(np.ceil(np.sqrt(size0[0] * size0[1] / 1e6)))
    x, y = np.meshgrid(np.arange(0, size0[0], step), np.arange(0, size0[1], step))
    pixels = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
    pixels = pixels[visible(pixels, truth, size1)]
    signed = truth if np.sign(depths(truth, pixels)).sum() >= 0 else -truth
    return pixels[depths(signed, pixels) > 0], signed


def depths(matrix: NDArray[np.floating], points: Points) -> NDArray[np.float64]:
    """(N,) third homogeneous coordinates of points sent by the matrix."""
    return np.asarray(points @ matrix[2, :2] + matrix[2, 2], np.float64)


def repeatability(
    points0: Points, points1: Points, truth: ArrayLike, threshold: float
) -> tuple[float | None, float | None]:
    """Share of points, both ways, with one of the other image within the threshold, and their mean distance.

    As SuperPoint's protocol has them, distances in image 1; None where there are none.
    """
    if not len(points0) or not len(points1):
        return 0.0 if len(points0) + len(points1) else None, None
    apart = warp_points(truth, points0)[:, None] - np.asarray(points1, np.float64)[None]
    distances = np.linalg.norm(apart, axis=2)
    nearest = np.r_[distances.min(axis=1), distances.min(axis=0)]
    found = nearest[nearest <= threshold]
    return len(found) / len(nearest), float(found.mean()) if len(found) else None


def average_precision(scores: ArrayLike, correct: ArrayLike) -> float:
    """Sum of precision times the gain in recall, from the best score down; equal scores are one step.

    The definition of scikit-learn's ``average_precision_score``; 0 when nothing is correct.

    >>> average_precision([3, 2, 1], [True, False, True])  # 1/2 * 1 + 1/2 * 2/3
    0.8333333333333333
    """
    values, right = np.asarray(scores, np.float64), np.asarray(correct, np.bool_)
    if not right.any():
        return 0.0
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(right[order])
    last = np.flatnonzero(np.r_[values[1:] != values[:-1], True])  # of each group of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())

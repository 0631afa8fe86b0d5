"""Seeded sets of matches: of a homography, and kinds that determine none."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import warp_points
from geomatch.synthetic import random_homography

SIZE = (640, 480)
Points = NDArray[np.float64]
Pairs = tuple[Points, Points]
_SPAN = np.array(SIZE) - 1.0


def _uniform(rng: np.random.Generator, count: int) -> Points:
    return rng.uniform(0, 1, (count, 2)) * _SPAN


def _line(rng: np.random.Generator, count: int) -> Points:
    ends = _uniform(rng, 2)
    return ends[0] + rng.uniform(0, 1, (count, 1)) * (ends[1] - ends[0])


def line_and_outliers(rng: np.random.Generator) -> Pairs:
    """Matches along a line that agree, and one to six that lie elsewhere."""
    truth = random_homography(rng, SIZE)
    p0 = _line(rng, int(rng.integers(8, 60)))
    p1 = warp_points(truth, p0) + rng.normal(0, 0.5, p0.shape)
    strays = int(rng.integers(1, 7))
    return np.vstack([p0, _uniform(rng, strays)]), np.vstack([p1, _uniform(rng, strays)])


def repeated_places(rng: np.random.Generator) -> Pairs:
    """Four to seven places in each image, each matched many times, to one other place or to any."""
    places, count, jitter = int(rng.integers(4, 8)), int(rng.integers(15, 80)), rng.uniform(0, 2)
    chosen = rng.integers(0, places, count)
    partners = chosen if rng.random() < 0.5 else rng.integers(0, places, count)
    views = [_uniform(rng, places)[rows] for rows in (chosen, partners)]
    return views[0] + rng.normal(0, jitter, views[0].shape), views[1] + rng.normal(0, jitter, views[1].shape)


def clusters_at_random(rng: np.random.Generator) -> Pairs:
    """Three clusters whose points are matched at random, with ten strays."""
    count, radius = int(rng.integers(10, 30)), rng.uniform(2, 15)
    views = []
    for _ in range(2):
        centres = np.repeat(_uniform(rng, 3), count, axis=0)
        views.append(np.vstack([centres + rng.normal(0, radius, centres.shape), _uniform(rng, 10)]))
    return views[0], views[1]


def cluster_and_stray(rng: np.random.Generator) -> Pairs:
    """A tight cluster that agrees, and one to four matches far away that do not."""
    truth, strays = random_homography(rng, SIZE), int(rng.integers(1, 5))
    p0 = _uniform(rng, 1) + rng.normal(0, rng.uniform(1, 6), (int(rng.integers(10, 60)), 2))
    p1 = warp_points(truth, p0) + rng.normal(0, 0.5, p0.shape)
    return np.vstack([p0, _uniform(rng, strays)]), np.vstack([p1, _uniform(rng, strays)])


def rows_of_words(rng: np.random.Generator) -> Pairs:
    """Two pages with lines of text at one spacing, each word matched to a word anywhere on the other."""
    spacing, words = rng.uniform(14, 30), int(rng.integers(10, 120))
    shape = rng.uniform(0, 1, (int(rng.integers(2, 6)), 2)) * [spacing * 1.5, spacing * 0.4]
    views = []
    for _ in range(2):
        row = rng.integers(0, int(SIZE[1] / spacing), words) * spacing
        column = rng.uniform(0, SIZE[0] - 40, words)
        views.append((np.column_stack([column, row])[:, None] + shape).reshape(-1, 2))
    return views[0], views[1] + rng.normal(0, 0.3, views[1].shape)


def grid_at_random(rng: np.random.Generator) -> Pairs:
    """Points of two equal grids, matched at random."""
    step = int(rng.integers(16, 64))
    places = np.stack(np.meshgrid(*(np.arange(0, side, step) for side in SIZE)), -1).reshape(-1, 2)
    count = int(rng.integers(10, len(places) + 1))
    p0, p1 = (rng.permutation(places)[:count].astype(np.float64) for _ in range(2))
    return p0, p1


def two_lines(rng: np.random.Generator) -> Pairs:
    """Matches on one line that agree, and as many on another that are matched at random."""
    truth, count = random_homography(rng, SIZE), int(rng.integers(8, 40))
    p0 = _line(rng, count)
    p1 = warp_points(truth, p0) + rng.normal(0, 0.5, p0.shape)
    return np.vstack([p0, _line(rng, count)]), np.vstack([p1, _line(rng, count)])


def at_random(rng: np.random.Generator) -> Pairs:
    """Points anywhere, matched at random."""
    count = int(rng.integers(4, 300))
    return _uniform(rng, count), _uniform(rng, count)


NO_RELATION: tuple[Callable[[np.random.Generator], Pairs], ...] = (
    line_and_outliers, repeated_places, clusters_at_random, cluster_and_stray, rows_of_words, grid_at_random,
    two_lines, at_random,
)  # fmt: skip
"""Kinds of sets that determine no homography."""


def random_matches(
    rng: np.random.Generator,
    matrix: NDArray[np.float64],
    inliers: int,
    outliers: int,
    noise: float = 0.0,
    size: tuple[int, int] = (640, 480),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matched points (M, 2) and (M, 2), shuffled: inliers of a homography, and outliers anywhere.

    ``noise`` is the standard deviation in pixels per coordinate of image 1, ``size`` (width, height) of both.
    """
    span = np.array(size) - 1.0
    p0 = rng.uniform(0, 1, (inliers + outliers, 2)) * span
    p1 = warp_points(matrix, p0) + rng.normal(0, 1, p0.shape) * noise
    p1[inliers:] = rng.uniform(0, 1, (outliers, 2)) * span
    order = rng.permutation(len(p0))
    return p0[order], p1[order]


def true_set(rng: np.random.Generator) -> tuple[Points, Points, NDArray[np.float64]]:
    """Matches of one view change, a part of them wrong, with the truth."""
    truth = random_homography(rng, SIZE, "rotated" if rng.random() < 0.5 else "upright")
    inliers = int(np.exp(rng.uniform(np.log(12), np.log(300))))
    outliers = int(inliers * rng.uniform(0, 3))
    p0, p1 = random_matches(rng, truth, inliers, outliers, rng.uniform(0, 0.7), SIZE)
    return p0, p1, truth


def plane_truth(rng: np.random.Generator, model: str) -> NDArray[np.float64]:
    """(3, 3) of a plane model that no simpler one is near."""
    if model == "homography":
        return random_homography(rng, SIZE, "rotated" if rng.random() < 0.5 else "upright")
    matrix, shift = np.eye(3), rng.uniform(-100, 100, 2)
    if model != "translation":
        angles = rng.uniform(-np.pi, np.pi, 2)
        turn, axes = (np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles)
        scale = 1.0 if model == "euclidean" else np.exp(rng.uniform(np.log(0.5), np.log(2)))
        stretch = np.exp(rng.uniform(0.05, 0.35) / 2) if model == "affine" else 1.0
        matrix[:2, :2] = scale * turn @ axes @ np.diag([stretch, 1 / stretch]) @ axes.T
    matrix[:2, 2] = _SPAN / 2 + shift - matrix[:2, :2] @ _SPAN / 2
    return matrix

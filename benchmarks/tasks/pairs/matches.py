"""The matches of a method that a protocol looks at, and their distances from epipolar lines."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.estimators.epipolar import residuals_and_gradients
from geomatch.types import Features, Matches

Points = NDArray[np.float64]
Match = Callable[[Features, Features], Matches]


def limited(pair: FramedPair, count: int, unique: bool = False) -> FramedPair:
    """The best keypoints of both; ``unique``: those at one place are one, as ``np.unique`` orders them."""
    both = [features[:count] for features in (pair.features0, pair.features1)]
    if unique:
        own = [np.unique(features.keypoints, axis=0, return_index=True)[1] for features in both]
        both = [features[rows] for features, rows in zip(both, own, strict=True)]
    return replace(pair, features0=both[0], features1=both[1])


def matched_points(
    count: int | None, pair: FramedPair, match: Match | None
) -> tuple[Points, Points, NDArray[np.float32]]:
    """(M, 2) points of both images and (M,) their similarity, best first; at most ``count``, None takes all.

    Without ``match`` row i of both features is a match.
    """
    features0, features1 = pair.features0, pair.features1
    if match is None:
        points = (features.keypoints[:count].astype(np.float64) for features in (features0, features1))
        return next(points), next(points), features0.scores[:count]
    if not len(features0) or not len(features1):
        return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.float32)
    matches = match(features0, features1)[:count]
    points0 = features0.keypoints[matches.indices[:, 0]].astype(np.float64)
    points1 = features1.keypoints[matches.indices[:, 1]].astype(np.float64)
    return points0, points1, matches.similarity


def orders(count: int, seeds: int) -> Iterator[NDArray[np.intp]]:
    """The order of matches in each run of an estimator, whose sampling it steers; first as they are."""
    for seed in range(seeds):
        yield np.random.default_rng(seed).permutation(count) if seed else np.arange(count)


def line_distances(matrix: NDArray[np.floating], points: Points) -> Points:
    """(N,) distance of x0 y0 x1 y1 (N, 4) from each other's epipolar line: root of the sum of both squares.

    Hartley and Zisserman, 2nd ed., eq. 11.10, whose root wxbs-benchmark takes. NaN for epipoles.
    """
    values, squares = residuals_and_gradients(matrix, points[:, :2], points[:, 2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(values) * np.sqrt((1 / squares).sum(axis=0)), np.float64)

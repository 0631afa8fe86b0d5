"""Exact nearest neighbours by Euclidean distance: the k nearest, or all within a radius."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.candidates import search_blocks
from geomatch.distances import checked_rows, pair_distances, ranked


def nearest_neighbours(
    query: NDArray[Any], train: NDArray[Any], k: int, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest rows of ``train`` of each row of ``query``, nearest first, by Euclidean distance.

    Args:
        query: (N0, D) floats or integers; computed with as float32.
        train: (N1, D).
        k: how many, at least 1; no more than N1 are returned.
        mask: (N0, N1), True where a pair is allowed.

    Returns:
        Indices and distances, both (N0, min(k, N1)); of equal distances the smaller
        index comes first. -1 and infinity where fewer rows are allowed.

    Raises:
        ShapeError: when the shapes do not fit.
        ValueError: for numbers that are not finite and for k below 1.

    >>> nearest_neighbours(np.array([[1.0], [9.0]]), np.array([[0.0], [2.0], [9.0]]), 2)[0].tolist()
    [[0, 1], [2, 1]]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    mask = None if mask is None else np.asarray(mask, dtype=np.bool_)
    a, b = checked_rows(query, train, ("query", "train"), mask)
    k = min(k, len(b))
    indices, distances = np.full((len(a), k), -1), np.full((len(a), k), np.inf, np.float32)
    with torch.inference_mode():
        for block in search_blocks(a, b, count=k, mask=mask):
            first, second = block.rows.first, block.rows.second
            own, other, distance, rank = ranked(first, second, pair_distances(a, b, first, second), k)
            indices[own, rank], distances[own, rank] = other, distance
    return indices, distances


def within_radius(
    query: NDArray[Any], train: NDArray[Any], radius: float, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """All pairs of rows whose Euclidean distance is at most ``radius``.

    Args:
        query: (N0, D) floats or integers; computed with as float32.
        train: (N1, D).
        radius: the largest distance.
        mask: (N0, N1), True where a pair is allowed.

    Returns:
        Rows of ``query``, rows of ``train`` and distances, each (M,); by row, then by
        distance, then by the row of ``train``.

    Raises:
        ShapeError: when the shapes do not fit.
        ValueError: for numbers that are not finite and a radius that is NaN.

    >>> within_radius(np.array([[0.0]]), np.array([[3.0], [1.0], [4.0]]), 3.0)[1].tolist()
    [1, 0]
    """
    if math.isnan(radius):
        raise ValueError("radius must be a number, got NaN")
    mask = None if mask is None else np.asarray(mask, dtype=np.bool_)
    a, b = checked_rows(query, train, ("query", "train"), mask)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    with torch.inference_mode():
        for block in search_blocks(a, b, radius=radius, mask=mask) if radius >= 0 else ():
            first, second = block.rows.first, block.rows.second
            distance = pair_distances(a, b, first, second)
            near = distance <= radius
            *pair, distances, _ = ranked(first[near], second[near], distance[near], len(b))
            parts.append((pair[0], pair[1], distances.astype(np.float32)))
    first_, second_, distances_ = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return first_, second_, distances_

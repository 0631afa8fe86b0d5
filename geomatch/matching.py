"""Exact mutual nearest neighbours with bounded memory."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.candidates import search_blocks
from geomatch.distances import checked_rows, pair_distances, ranked
from geomatch.types import Matches, Metric

_Pairs = tuple[Tensor, Tensor]
"""Rows of a and rows of b, both (M,) int64."""


def match_mutual(
    descriptors0: NDArray[np.floating],
    descriptors1: NDArray[np.floating],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Keep the pairs of rows that are each other's nearest neighbour, best first.

    The search is exact: the nearest are those by distances in float64 between the
    rows in float32. Of equal neighbours the first counts. Rows without direction
    (all zero) match nothing under the cosine.

    Args:
        descriptors0: (N0, D) floating point; computed with in float32.
        descriptors1: (N1, D).
        metric: ``cosine`` or ``l2``.
        min_similarity: drop pairs below it; for ``l2`` the similarity is minus the distance.
        max_ratio: drop pairs unless distance to the nearest < ``max_ratio`` times
            distance to the second nearest, seen from image 0 (Lowe, 2004).
            Distances are Euclidean, under the cosine between unit vectors.

    Raises:
        ShapeError: when the arrays are not two-dimensional or differ in D.
        ValueError: for numbers that are not finite and options out of range.

    >>> rows = np.eye(3, dtype=np.float32)
    >>> match_mutual(rows, rows[::-1]).indices.tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    check_options(metric, min_similarity, max_ratio)
    a, b = checked_rows(descriptors0, descriptors1, ("descriptors0", "descriptors1"))
    unit = metric == "cosine"
    with torch.inference_mode():
        kept0, kept1 = _usable(a, unit), _usable(b, unit)
        a, b = (rows if len(kept) == len(rows) else rows[kept] for rows, kept in ((a, kept0), (b, kept1)))
        first, second, runner_up = _mutual(a, b, unit, max_ratio is not None)
        distance = pair_distances(a, b, first, second, unit)
        similarity = (1 - distance.square() / 2 if unit else -distance).float()
        kept = torch.ones(len(first), dtype=torch.bool, device="cpu")
        if max_ratio is not None:
            kept &= distance < max_ratio * runner_up
        if min_similarity is not None:
            kept &= similarity >= min_similarity
        first, second, similarity = kept0[first[kept]], kept1[second[kept]], similarity[kept]
        order = torch.sort(similarity, descending=True, stable=True).indices
        indices = torch.stack([first, second], dim=1)[order]
    return Matches(indices.numpy(), similarity[order].numpy())


def check_options(metric: Metric, min_similarity: float | None, max_ratio: float | None) -> None:
    """Raise ValueError unless the options of `match_mutual` make sense."""
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric must be 'cosine' or 'l2', got {metric!r}")
    if min_similarity is not None and not np.isfinite(min_similarity):
        raise ValueError(f"min_similarity must be a finite number, got {min_similarity}")
    if max_ratio is not None and not 0 < max_ratio <= 1:
        raise ValueError(f"max_ratio must lie in (0, 1], got {max_ratio}")


def _usable(rows: Tensor, unit: bool) -> Tensor:
    """Indices of the rows that may match: under the cosine those with a direction."""
    if not unit or (rows.norm(dim=1) > 0).all():
        return torch.arange(len(rows), device="cpu")
    return (rows != 0).any(dim=1).nonzero()[:, 0]


def _mutual(a: Tensor, b: Tensor, unit: bool, with_second: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mutual pairs by row of a, and with the second nearest in b also its distances (M,), else (0,).

    Only what is a candidate both ways can be mutual: distances decide where such a
    pair has a rival.
    """
    count = min(2 if with_second else 1, len(b))
    rows, columns = _candidates(a, b, unit, count)
    rows = _of_groups(rows, 0, rows[0][_in(rows, columns, b)])
    runner_up = torch.zeros(0, dtype=torch.float64, device="cpu")
    if with_second:
        own, other, distance, rank = ranked(*rows, pair_distances(a, b, *rows, unit), count)
        runner_up = torch.full((len(a),), torch.inf, dtype=torch.float64, device="cpu")
        runner_up[own[rank == 1]] = torch.from_numpy(distance[rank == 1])
        nearest = (torch.from_numpy(own[rank == 0]), torch.from_numpy(other[rank == 0]))
    else:
        nearest = _nearest(a, b, unit, rows, 0, 1)
    nearest = _take(nearest, _in(nearest, columns, b))
    best = _nearest(a, b, unit, _of_groups(columns, 1, nearest[1]), 1, 1)
    first, second = _take(nearest, _in(nearest, best, b))
    order = first.argsort()
    first, second = first[order], second[order]
    return first, second, runner_up[first] if with_second else runner_up


def _candidates(a: Tensor, b: Tensor, unit: bool, count: int) -> tuple[_Pairs, _Pairs]:
    """Among which are the ``count`` nearest in b of each row of a, and the nearest in a of each row of b."""
    empty = torch.zeros(0, dtype=torch.int64, device="cpu")
    rows, columns, upper = (empty, empty), (empty, empty), torch.zeros(0, dtype=torch.float64, device="cpu")
    many = 8 * (len(a) + len(b))
    for block in search_blocks(a, b, unit=unit, count=count, columns=True):
        assert block.columns is not None
        rows = _joined(rows, block.rows[:2])
        columns = _joined(columns, block.columns[:2])
        upper = torch.cat([upper, block.columns.upper])
        kept = upper >= block.low[columns[1]]
        columns, upper = _take(columns, kept), upper[kept]
        if len(rows[0]) > many:
            rows = _nearest(a, b, unit, rows, 0, count)
        if len(columns[0]) > many:
            columns = _nearest(a, b, unit, columns, 1, 1)
            upper = torch.full(columns[0].shape, torch.inf, dtype=torch.float64, device="cpu")
    return rows, columns


def _nearest(a: Tensor, b: Tensor, unit: bool, pairs: _Pairs, side: int, count: int) -> _Pairs:
    """Of each row of a side (0 for a, 1 for b) the ``count`` nearest; distances only where there are more."""
    rivals = torch.bincount(pairs[side])[pairs[side]] > count
    open_ = _take(pairs, rivals)
    chosen = ranked(open_[side], open_[1 - side], pair_distances(a, b, *open_, unit), count)[:2]
    own, other = (torch.from_numpy(indices) for indices in chosen)
    return _joined(_take(pairs, ~rivals), (other, own) if side else (own, other))


def _of_groups(pairs: _Pairs, side: int, wanted: Tensor) -> _Pairs:
    """The pairs whose row on one side is among those wanted."""
    return _take(pairs, torch.isin(pairs[side], wanted))


def _in(pairs: _Pairs, others: _Pairs, b: Tensor) -> Tensor:
    """(M,) bool: which pairs are also among the others."""
    return torch.isin(pairs[0] * len(b) + pairs[1], others[0] * len(b) + others[1])


def _take(pairs: _Pairs, kept: Tensor) -> _Pairs:
    return pairs[0][kept], pairs[1][kept]


def _joined(pairs: _Pairs, more: _Pairs) -> _Pairs:
    return torch.cat([pairs[0], more[0]]), torch.cat([pairs[1], more[1]])

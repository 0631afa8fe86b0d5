"""Exact mutual nearest neighbours with bounded memory."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.types import Matches, check_shape

Metric = Literal["cosine", "l2"]

CHUNK_BYTES = 32 * 2**20
"""Size of one block of the similarity matrix; at most two exist at a time."""


def match_mutual(
    descriptors0: NDArray[np.floating],
    descriptors1: NDArray[np.floating],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Keep the pairs of rows that are each other's nearest neighbour, best first.

    The search is exact: the similarity matrix is computed in blocks of rows.
    Of equal neighbours the first counts. Rows without direction (all zero)
    match nothing under the cosine.

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
    check_shape("descriptors0", descriptors0, ("N0", "D"))
    empty = len(descriptors0) == 0 or len(descriptors1) == 0  # of unknown width, perhaps
    check_shape("descriptors1", descriptors1, ("N1", "D" if empty else descriptors0.shape[1]))
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric must be 'cosine' or 'l2', got {metric!r}")
    if max_ratio is not None and not 0 < max_ratio <= 1:
        raise ValueError(f"max_ratio must lie in (0, 1], got {max_ratio}")
    a, b = _tensor("descriptors0", descriptors0), _tensor("descriptors1", descriptors1)
    if empty:
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    with torch.inference_mode():
        forward, backward, ratio = _nearest(a, b, metric, max_ratio is not None)
        first = torch.arange(len(a))
        mutual = (backward[forward.clamp(min=0)] == first) & (forward >= 0)
        if max_ratio is not None:
            mutual &= ratio < max_ratio
        first = first[mutual]
        second = forward[first]
        similarity = _similarity(a, b, first, second, metric)
        if min_similarity is not None:
            kept = similarity >= min_similarity
            first, second, similarity = first[kept], second[kept], similarity[kept]
        order = torch.sort(similarity, descending=True, stable=True).indices
        indices = torch.stack([first, second], dim=1)[order]
    return Matches(indices.numpy(), similarity[order].numpy())


def _tensor(name: str, rows: NDArray[np.floating]) -> Tensor:
    array = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    if not array.flags.writeable:  # torch warns of read-only memory, which we never write
        array = array.view()
        try:
            array.flags.writeable = True
        except ValueError:
            array = array.copy()
    return torch.from_numpy(array)


def _nearest(a: Tensor, b: Tensor, metric: Metric, with_ratio: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest column of each row, nearest row of each column (-1 for none), distance ratio per row."""
    if metric == "cosine":
        norms_a, norms_b = a.norm(dim=1), b.norm(dim=1)
        usable_a, usable_b = norms_a > 0, norms_b > 0
    else:
        norms_a, norms_b = a.square().sum(1), b.square().sum(1)
        usable_a, usable_b = torch.ones(len(a), dtype=torch.bool), torch.ones(len(b), dtype=torch.bool)
    infinity = float("inf")
    forward = torch.empty(len(a), dtype=torch.int64)
    ratio = torch.zeros(len(a))
    best = torch.full((len(b),), -infinity)
    backward = torch.full((len(b),), -1, dtype=torch.int64)
    rows = max(1, CHUNK_BYTES // (4 * len(b)))
    block = torch.empty(min(rows, len(a)), len(b))
    for start in range(0, len(a), rows):
        stop = min(start + rows, len(a))
        scores = torch.mm(a[start:stop], b.T, out=block[: stop - start])
        # larger is nearer: the terms that a row (then a column) shares are left out
        if metric == "cosine":
            scores /= norms_b.where(usable_b, torch.ones(()))
        else:
            scores -= norms_b / 2
        scores[:, ~usable_b] = -infinity
        top, index = scores.max(dim=1)
        forward[start:stop] = index.where(usable_a[start:stop] & (top > -infinity), -1)
        if with_ratio:
            ratio[start:stop] = _ratio(scores, top, index, norms_a[start:stop], metric)
        if metric == "cosine":
            scores /= norms_a[start:stop].where(usable_a[start:stop], torch.ones(()))[:, None]
        else:
            scores += norms_b / 2
            scores -= norms_a[start:stop, None] / 2
        scores[~usable_a[start:stop]] = -infinity
        top, index = scores.max(dim=0)
        better = top > best  # strictly: of equals the first row stays
        best = top.where(better, best)
        backward = (index + start).where(better, backward)
    return forward, backward, ratio


def _ratio(scores: Tensor, top: Tensor, index: Tensor, norms_a: Tensor, metric: Metric) -> Tensor:
    """Nearest over second-nearest distance; 0 where there is no second."""
    if scores.shape[1] < 2:
        return torch.zeros(len(scores))
    scores.scatter_(1, index[:, None], -float("inf"))
    second = scores.max(dim=1).values
    scores.scatter_(1, index[:, None], top[:, None])
    if metric == "cosine":  # the rows of a are not divided by their length yet
        length = norms_a.clamp(min=torch.finfo(torch.float32).tiny)
        near, far = 2 - 2 * top / length, 2 - 2 * second / length
    else:
        near, far = norms_a - 2 * top, norms_a - 2 * second
    near, far = near.clamp(min=0).sqrt(), far.clamp(min=0).sqrt()
    return torch.where(far > 0, near / far, torch.ones(()))


def _similarity(a: Tensor, b: Tensor, first: Tensor, second: Tensor, metric: Metric) -> Tensor:
    """Of the pairs found, in double precision and in blocks."""
    parts = []
    rows = max(1, CHUNK_BYTES // (32 * max(1, a.shape[1])))
    for i, j in zip(torch.split(first, rows), torch.split(second, rows), strict=True):
        x, y = a[i].double(), b[j].double()
        if metric == "cosine":
            part = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
        else:
            part = -(x - y).norm(dim=1)
        parts.append(part.float())
    return torch.cat(parts) if parts else torch.zeros(0)

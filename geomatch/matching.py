"""Nearest neighbours of descriptors: float32 products in chunks of rows, on the device where the rows are.

Neighbours are exact in float32 arithmetic and the same on every run of one device, whatever torch is set
to; of equal neighbours the lower index counts. Distances come from differences: equal rows are at 0.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.errors import ShapeError
from geomatch.isolation import isolated
from geomatch.types import Matches, Metric

CHUNK = 2**22  # scores in memory at a time: 16 MiB of float32
LARGEST = 1e15  # bound of the numbers in descriptors, whose squares float32 must hold
ROUNDING = 1e-5  # bound of the rounding of a score, in units of the largest squared length


def match_mutual(
    descriptors0: NDArray[np.floating],
    descriptors1: NDArray[np.floating],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Keep the pairs of rows of (N0, D) and (N1, D) that are each other's nearest neighbour, best first.

    Rows of zeros match nothing under the ``cosine``; for ``l2`` the similarity is minus the distance. Pairs
    below ``min_similarity`` are dropped, and those whose distance is not < ``max_ratio`` times the distance
    to the second nearest, seen from image 0 (Lowe, 2004); under the cosine between unit vectors.

    Raises `ShapeError` for other shapes, ValueError for numbers that are not finite and options out of range.
    """
    rows = as_rows(descriptors0, "descriptors0"), as_rows(descriptors1, "descriptors1")
    indices, similarity = mutual_nearest(*rows, metric, min_similarity, max_ratio)
    return Matches(indices.numpy(), similarity.numpy())


def check_options(metric: Metric, min_similarity: float | None, max_ratio: float | None) -> None:
    """Raise ValueError unless the options of `match_mutual` make sense."""
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric must be 'cosine' or 'l2', got {metric!r}")
    if min_similarity is not None and not np.isfinite(min_similarity):
        raise ValueError(f"min_similarity must be a finite number, got {min_similarity}")
    if max_ratio is not None and not 0 < max_ratio <= 1:
        raise ValueError(f"max_ratio must lie in (0, 1], got {max_ratio}")


def as_rows(array: NDArray[np.floating], name: str = "descriptors") -> Tensor:
    """A float32 tensor (N, D) that may share the array's memory; raises as `match_mutual`."""
    rows = np.asarray(array, np.float32)
    if rows.size and not -LARGEST < rows.min() <= rows.max() < LARGEST:  # false for NaN, too
        raise ValueError(f"{name} must be finite and below {LARGEST:g}, got other numbers in it")
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


@isolated()
def mutual_nearest(
    a: Tensor, b: Tensor, metric: Metric, min_similarity: float | None = None, max_ratio: float | None = None
) -> tuple[Tensor, Tensor]:
    """`match_mutual` of float32 tensors on one device: indices (M, 2) int64 and similarities (M,)."""
    check_options(metric, min_similarity, max_ratio)
    value, best = a.new_full((len(a),), -torch.inf), a.new_full((len(b),), -torch.inf)
    j, back = (torch.zeros_like(scores, dtype=torch.int64) for scores in (value, best))
    second, k = value.clone(), j.clone()
    for part, scores in _scores(a, b, metric):
        value[part], j[part] = scores.max(1)
        column, row = scores.max(0)
        back.copy_(torch.where(column > best, row + part.start, back))  # of equals the first stays
        best.copy_(torch.maximum(column, best))
        if max_ratio is not None:
            second[part], k[part] = scores.scatter_(1, j[part, None], -torch.inf).max(1)
    i = (value > -torch.inf).nonzero()[:, 0]
    i = i[back[j[i]] == i]
    distance = _distances(a, b, i, j[i], metric)
    similarity = (1 - distance.square() / 2 if metric == "cosine" else -distance).float()
    good = similarity >= (-torch.inf if min_similarity is None else min_similarity)
    if max_ratio is not None:
        limit = _distances(a, b, i, k[i], metric).where(second[i] > -torch.inf, torch.inf)
        good &= distance < max_ratio * limit
    similarity, order = similarity[good].sort(descending=True, stable=True)
    return torch.stack([i, j[i]], 1)[good][order], similarity


@isolated()
def nearest(a: Tensor, b: Tensor, k: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of b nearest to each row of a by Euclidean distance, where ``mask`` (N0, N1) is true.

    Returns indices (N0, k) int64, -1 for none, and distances (N0, k), infinite for none, nearest first.
    """
    value = a.new_full((len(a), min(k, len(b))), -torch.inf)
    column = torch.zeros_like(value, dtype=torch.int64)
    for part, scores in _scores(a, b, "l2", mask):
        # of equal scores the first counts, which topk does not promise
        best, order = scores.sort(dim=1, descending=True, stable=True)
        value[part], column[part] = best[:, : value.shape[1]], order[:, : value.shape[1]]
    row = torch.arange(len(a), device=a.device)[:, None].expand_as(column)
    distance = _distances(a, b, row.reshape(-1), column.reshape(-1)).reshape(column.shape)
    distance, order = distance.where(value > -torch.inf, torch.inf).sort(dim=1, stable=True)
    return column.where(value > -torch.inf, -1).gather(1, order), distance.float()


@isolated()
def within(a: Tensor, b: Tensor, radius: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pairs of rows (M, 2) at Euclidean distances (M,) of at most ``radius``; by row of a, then distance."""
    pairs = [torch.zeros(0, 2, dtype=torch.int64, device=a.device)]
    largest = max((float(_squares(rows).max()) for rows in (a, b) if len(rows)), default=1.0) + ROUNDING
    for part, scores in _scores(a, b, "l2", mask):
        hits = (scores > -radius * radius / 2 - ROUNDING * largest).nonzero()
        pairs.append(hits + torch.tensor([part.start, 0], device=a.device))
    i, j = torch.cat(pairs).T
    distances = _distances(a, b, i, j).float()
    order = distances.argsort(stable=True)
    order = order[i[order].argsort(stable=True)]
    order = order[distances[order] <= radius]
    return torch.stack([i[order], j[order]], 1), distances[order]


def _scores(
    a: Tensor, b: Tensor, metric: Metric, mask: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of rows of a, and its scores (n, N1): larger for nearer, -inf where rows match nothing."""
    if a.ndim != 2 or b.ndim != 2 or (len(a) and len(b) and not a.shape[1] == b.shape[1] > 0):
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ShapeError(f"descriptors must have shapes (N0, D) and (N1, D), got {got}")
    if not len(b):
        return
    # a shift changes no distance, and small numbers round less; a whole one keeps whole numbers exact
    shift = b.mean(0).round() if metric == "l2" else b.new_zeros(b.shape[1])
    other = b - shift if metric == "l2" else b
    other_squares, step = _squares(other), max(1, CHUNK // len(b))
    buffer = other.new_empty(min(step, len(a)), len(b))  # one for all chunks, so that the heap does not grow
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        own = a[part] - shift
        own_squares, scores = _squares(own)[:, None], _product(own, other, buffer[: len(own)])
        if metric == "l2":
            scores.sub_(own_squares / 2).sub_(other_squares / 2)
        else:
            scores.div_(own_squares.sqrt()).div_(other_squares.sqrt())
            scores.masked_fill_((own_squares == 0) | (other_squares == 0), -torch.inf)
        if mask is not None:
            scores.masked_fill_(~mask[part], -torch.inf)
        yield part, scores


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """``out`` (N0, N1) in float32, through float64 where torch is set to multiply more coarsely."""
    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by torch's newer means, which this question does not know
        exact = False
    return torch.mm(a, b.T, out=out) if exact else out.copy_(a.double() @ b.T.double())


def _squares(rows: Tensor) -> Tensor:
    """(N,) squared lengths, exact for whole numbers."""
    return torch.cat([part.square().sum(1) for part in torch.split(rows, 1024)])


def _distances(a: Tensor, b: Tensor, i: Tensor, j: Tensor, metric: Metric = "l2") -> Tensor:
    """(M,) float64 distances of rows i of a and j of b, of unit vectors under the cosine; float32 on MPS."""
    high = torch.float32 if a.device.type == "mps" else torch.float64
    found, step = [a.new_zeros(0, dtype=high)], CHUNK // 8 // max(1, a.shape[1]) + 1
    for start in range(0, len(i), step):
        x, y = (rows[index[start : start + step]].to(high) for rows, index in ((a, i), (b, j)))
        if metric == "cosine":
            x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
        found.append((x - y).norm(dim=1))
    return torch.cat(found)

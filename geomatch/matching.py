"""Nearest neighbours of descriptors on any device, by a product in chunks: exact in float32, deterministic.

Pairs that the product's rounding leaves open are compared by their differences in float64 (float32 on Apple's
GPUs), whatever torch's settings; of equal neighbours the first counts. Where it leaves too many, the product
is made in float64, and of more than `TIES` neighbours that this cannot tell apart the first are compared.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.errors import ShapeError
from geomatch.types import Matches, Metric

CHUNK_BYTES, TIES = 16 * 2**20, 16


def match_mutual(
    descriptors0: NDArray[np.floating],
    descriptors1: NDArray[np.floating],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Keep the pairs of rows of (N0, D) and (N1, D) that are each other's nearest neighbour, best first.

    Under the ``cosine`` rows of zeros match nothing; under ``l2`` the similarity is minus the distance. Pairs
    below ``min_similarity`` are dropped, and those whose distance is not less than ``max_ratio`` times that
    to the second nearest in image 1 (Lowe, 2004): Euclidean, under the cosine between unit vectors.

    Raises `ShapeError` for other shapes, ValueError for numbers that are not finite and options out of range.
    """
    rows = as_rows(descriptors0), as_rows(descriptors1)
    pairs, similarity = mutual_nearest(*rows, metric, min_similarity, max_ratio)
    return Matches(pairs.numpy(), similarity.numpy())


def check_options(metric: Metric, min_similarity: float | None, max_ratio: float | None) -> None:
    """Raise ValueError unless the options of `match_mutual` make sense."""
    if metric not in ("cosine", "l2"):
        raise ValueError(f"metric must be 'cosine' or 'l2', got {metric!r}")
    if min_similarity is not None and not math.isfinite(min_similarity):
        raise ValueError(f"min_similarity must be a finite number, got {min_similarity}")
    if max_ratio is not None and not 0 < max_ratio <= 1:
        raise ValueError(f"max_ratio must lie in (0, 1], got {max_ratio}")


def as_rows(array: NDArray[Any]) -> Tensor:
    """A float32 tensor, in the array's memory where that is float32 already: not to be written to."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    # declared writeable, since torch warns of memory that is not
    interface = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    return torch.from_numpy(np.asarray(SimpleNamespace(__array_interface__=interface, owner=array)))


def mutual_nearest(
    a: Tensor, b: Tensor, metric: Metric, min_similarity: float | None, max_ratio: float | None
) -> tuple[Tensor, Tensor]:
    """`match_mutual` for tensors: pairs (M, 2) int64 and similarities (M,) float32."""
    check_options(metric, min_similarity, max_ratio)
    rows = _prepared(a, b, metric == "cosine")
    pairs, distance = _candidates(rows, 1 if max_ratio is None else min(2, len(b)), 0, None, True)
    rank = _ranks(pairs[0], distance)
    good = (rank == 0) & (_ranks(pairs[1], distance) == 0)
    similarity = (1 - distance.square() / 2 if metric == "cosine" else -distance).float()
    if max_ratio is not None:
        second = distance.new_full((len(a),), math.inf)
        second[pairs[0, rank == 1]] = distance[rank == 1]
        good &= distance < max_ratio * second[pairs[0]]
    if min_similarity is not None:
        good &= similarity >= min_similarity
    similarity, order = similarity[good].sort(descending=True, stable=True)
    return pairs[:, good].T[order], similarity


def nearest(a: Tensor, b: Tensor, k: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of b of each row of a by Euclidean distance, where ``mask`` (N0, N1) is true.

    Returns int64 indices and float32 distances, (N0, min(k, N1)), nearest first; -1 and infinity for none.
    """
    k = min(k, len(b))
    pairs, distance = _candidates(_prepared(a, b), k, 0, mask, False)
    rank = _ranks(pairs[0], distance)
    indices, distances = pairs.new_full((len(a), k), -1), distance.new_full((len(a), k), math.inf)
    place = pairs[0, rank < k], rank[rank < k]
    indices[place], distances[place] = pairs[1, rank < k], distance[rank < k]
    return indices, distances.float()


def within(a: Tensor, b: Tensor, radius: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pairs of rows (M, 2) at float32 distances (M,) of at most ``radius``, by row of a, then by distance."""
    pairs, distance = _candidates(_prepared(a, b), 0, radius, mask, False)
    order = (distance.float().to(distance) <= radius).nonzero()[:, 0]
    order = order[distance[order].argsort(stable=True)]
    order = order[pairs[0, order].argsort(stable=True)]
    return pairs[:, order].T, distance[order].float()


def _ranks(own: Tensor, distance: Tensor) -> Tensor:
    """The rank of each pair by its distance among those of its row on one side; the other side ascends."""
    order = distance.argsort(stable=True)
    order = order[own[order].argsort(stable=True)]
    ranks, own = torch.empty_like(order), own[order]
    ranks[order] = torch.arange(len(own), device=own.device) - torch.searchsorted(own, own)
    return ranks


class _Rows(NamedTuple):
    values: Tensor
    lengths: Tensor  # (N, 1), what rows are divided by: their norms under the cosine, else one
    half: Tensor  # (N,), half the squared norms after it; infinity for what matches nothing

    def scaled(self, index: Tensor | slice, dtype: torch.dtype) -> Tensor:
        return self.values[index].to(dtype, copy=True).div_(self.lengths[index].to(dtype))


def _prepared(a: Tensor, b: Tensor, unit: bool = False) -> tuple[_Rows, _Rows]:
    if not (a.ndim == b.ndim == 2 and (not len(a) or not len(b) or a.shape[1] == b.shape[1] > 0)):
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ShapeError(f"descriptors0 and descriptors1 must have shapes (N0, D) and (N1, D), got {got}")
    return _described("descriptors0", a, unit), _described("descriptors1", b, unit)


def _described(name: str, values: Tensor, unit: bool) -> _Rows:
    values, high = values.detach().float(), torch.float32 if values.device.type == "mps" else torch.float64
    parts = torch.split(values, CHUNK_BYTES // 8 // max(1, values.shape[1]) + 1)
    norms = torch.cat([part.to(high).norm(dim=1) for part in parts])
    if not norms.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    lengths = norms.where(norms > 0, 1) if unit else torch.ones_like(norms)
    half = (norms / lengths).square() / 2
    return _Rows(values, lengths[:, None], half.where(half > 0, math.inf) if unit else half)


def _candidates(
    rows: tuple[_Rows, _Rows], k: int, radius: float, mask: Tensor | None, both: bool, again: bool = False
) -> tuple[Tensor, Tensor]:
    """Pairs (2, M) in order and distances: the ``k`` nearest (``both``: and one of b's rows) or in radius."""
    a, b = rows
    found = [torch.empty(2, 0, dtype=torch.int64, device=a.half.device)]
    if not len(a.half) or not len(b.half):
        return found[0], a.half[:0]
    try:
        fast = torch.get_float32_matmul_precision() == "highest" and not again
    except RuntimeError:  # set by newer means, which this question does not know
        fast = False
    high, half = a.half.dtype, torch.cat([a.half, b.half, a.half.new_zeros(1)])
    largest = float(half[half < math.inf].max())
    dtype = torch.float32 if fast and 2.0**-80 < largest < 2.0**80 else high
    slack = 8 * torch.finfo(dtype).eps * (a.values.shape[1] ** 0.5 + 8) * largest
    least = torch.finfo(dtype).min
    y, half = b.scaled(slice(None), dtype), b.half.to(dtype)
    step = CHUNK_BYTES // dtype.itemsize // max(1, *b.values.shape) + 1
    buffer, low = y.new_empty(step, len(y)), half.new_full(half.shape, -math.inf)
    for start in range(0, len(a.half), step):
        x, own = a.scaled(slice(start, start + step), dtype), a.half[start : start + step, None].to(dtype)
        scores = torch.mm(x, y.T, out=buffer[: len(x)]).sub_(half).sub_(own)  # -distance^2 / 2
        if mask is not None:
            scores.masked_fill_(~mask[start : start + step], -math.inf)
        best = own[:, 0] * 0 - radius * radius / 2 * 1.000001
        if k:
            best = scores.amax(1) if k == 1 else scores.topk(k).values[:, -1]
        hits = scores >= (best - slack).clamp(min=least)[:, None]
        if k and dtype == high:
            hits &= hits.cumsum(1, dtype=torch.int32) <= k + TIES
        if both:
            before, low = low, torch.maximum(low, scores.amax(0))
            across = scores >= (low - slack).clamp(min=least)
            if dtype == high:
                across &= (low > before + slack) & (across.cumsum(0, dtype=torch.int32) <= TIES)
            hits |= across
        if k and dtype != high and int(hits.count_nonzero()) > 8 * (k * len(x) + len(y)):
            del y, buffer, scores, hits  # of the memory that is promised
            return _candidates(rows, k, radius, mask, both, again=True)
        pairs = hits.nonzero().T
        found.append(torch.stack([pairs[0] + start, pairs[1]]))
    pairs, mode = torch.cat(found, dim=1), "donot_use_mm_for_euclid_dist"
    parts = torch.split(pairs, CHUNK_BYTES // 64 // max(1, a.values.shape[1]) + 1, dim=1)
    chunks = ((a.scaled(i, high)[:, None], b.scaled(j, high)[:, None]) for i, j in parts)
    return pairs, torch.cat([torch.cdist(x, y, compute_mode=mode)[:, 0, 0] for x, y in chunks])

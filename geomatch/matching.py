"""Nearest neighbours of descriptors: float32 products in chunks of rows, on the device where the rows are.

Neighbours are exact in float32 arithmetic and the same on every run of one device, whatever torch is set
to; of equal neighbours the lower index counts. Distances come from differences: equal rows are at 0.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.devices import widest_float
from geomatch.errors import ShapeError
from geomatch.isolation import isolated
from geomatch.types import Matches, Metric

CHUNK = 2**22  # scores in memory at a time on CPUs: 16 MiB of float32
ACCELERATOR_CHUNK = 2**27  # on accelerators, which want few large operations: 512 MiB
GROUP = 64  # scores whose largest is found before its place
LARGEST = 1e15  # bound of the numbers in descriptors, whose squares float32 must hold


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
    ((every, distinct),) = match_many(rows, [(0, 1)], metric, min_similarity, max_ratio)
    return every[distinct]


def check_options(
    metric: Metric | None, min_similarity: float | None, max_ratio: float | None, mutual: bool = True
) -> None:
    """Raise ValueError unless the options of `match_mutual`, or of another matcher, make sense."""
    if not mutual and not (metric is None and max_ratio is None):
        raise ValueError("metric and max_ratio are for mnn; another matcher takes min_similarity alone")
    if metric not in (None, "cosine", "l2"):
        raise ValueError(f"metric must be 'cosine' or 'l2', got {metric!r}")
    if min_similarity is not None and not np.isfinite(min_similarity):
        raise ValueError(f"min_similarity must be a finite number, got {min_similarity}")
    if max_ratio is not None and not 0 < max_ratio <= 1:
        raise ValueError(f"max_ratio must lie in (0, 1], got {max_ratio}")


def as_rows(array: NDArray[np.floating], name: str = "descriptors") -> Tensor:
    """A float32 tensor (N, D) that may share the array's memory; raises as `match_mutual`."""
    rows = np.asarray(array, np.float32)
    tensor = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    check_rows(tensor, name)
    return tensor


def check_rows(rows: Tensor, name: str = "descriptors") -> None:
    """Raise ValueError unless the numbers are finite and below `LARGEST`."""
    if rows.numel():
        low, high = (bound.item() for bound in rows.aminmax())
        if not -LARGEST < low <= high < LARGEST:  # false for NaN, too
            raise ValueError(f"{name} must be finite and below {LARGEST:g}, got other numbers in it")


@isolated()
def match_many(
    images: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> list[tuple[Matches, NDArray[np.bool_]]]:
    """`match_mutual` of many pairs of images, whose descriptors (N, D) are float32 on one device.

    Returns for every pair its matches before the ratio test, and which of them (M,) pass it. The device is
    waited for at the end only, however many pairs there are.
    """
    check_options(metric, min_similarity, max_ratio)
    if not pairs:
        return []
    searched = [_search(images[one], images[two], metric, max_ratio is not None) for one, two in pairs]
    mutual, column, other = (torch.cat(parts) for parts in zip(*searched, strict=True))
    row = mutual.nonzero()[:, 0]  # waits for the device, for all pairs together
    firsts = torch.tensor([0, *accumulate(len(images[one]) for one, _ in pairs)], device=row.device)
    owner = torch.bucketize(row, firsts, right=True) - 1
    i, j, k = row - firsts[owner], column[row], other[row]
    counts = owner.bincount(minlength=len(pairs)).tolist()
    split = list(zip(pairs, *(torch.split(part, counts) for part in (i, j, k)), strict=True))
    distance = torch.cat([_distances(images[p[0]], images[p[1]], i, j, metric) for p, i, j, _ in split])
    similarity = (1 - distance.square() / 2 if metric == "cosine" else -distance).float()
    distinct = torch.ones_like(similarity, dtype=torch.bool)
    if max_ratio is not None:
        limits = [_distances(images[p[0]], images[p[1]], i, k.clamp(min=0), metric) for p, i, _, k in split]
        distinct = distance < max_ratio * torch.cat(limits).where(k >= 0, torch.inf)
    order = similarity.argsort(descending=True, stable=True)
    if min_similarity is not None:
        order = order[similarity[order] >= min_similarity]
    order = order[owner[order].argsort(stable=True)]
    found = owner[order], torch.stack([i, j], 1)[order], similarity[order], distinct[order]
    of_pair, *arrays = (part.numpy(force=True) for part in found)
    ends = np.searchsorted(of_pair, np.arange(1, len(pairs)))
    parts = zip(*(np.split(array, ends) for array in arrays), strict=True)
    return [(Matches(indices, similar), passed) for indices, similar, passed in parts]


def _search(a: Tensor, b: Tensor, metric: Metric, second: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows of a (N0,) are mutual, their nearest rows of b, second nearest or -1; without waiting."""
    value, best = a.new_full((len(a),), -torch.inf), a.new_full((len(b),), -torch.inf)
    j, back = (torch.zeros_like(scores, dtype=torch.int64) for scores in (value, best))
    k = j - 1
    for part, scores in _scores(a, b, metric):
        count = len(value[part])
        value[part], j[part] = (found[:count] for found in _first_largest(scores, 1))
        column, row = (found[: len(b)] for found in _first_largest(scores, 0))
        back.copy_(torch.where(column > best, row + part.start, back))  # of equals the first stays
        best.copy_(torch.maximum(column, best))
        if second:
            scores[:count].scatter_(1, j[part, None], -torch.inf)
            other, place = _first_largest(scores, 1)
            k[part] = torch.where(other > -torch.inf, place, -1)[:count]
    mutual = value > -torch.inf
    if len(b):
        mutual &= back[j] == torch.arange(len(a), device=a.device)
    return mutual, j, k


def _first_largest(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Largest numbers along a dimension, a multiple of `GROUP`, and the first places where they are.

    As ``scores.max(dim)``, whose search for places runs number by number on CPUs: first for the group.
    """
    groups = torch.unflatten(scores, dim, (-1, GROUP))
    largest, group = groups.amax(dim + 1).max(dim)
    own = groups.take_along_dim(group.unsqueeze(dim).unsqueeze(dim), dim).squeeze(dim)
    return largest, group * GROUP + own.max(dim).indices


def _scores(a: Tensor, b: Tensor, metric: Metric) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of rows of a, and its scores: larger for nearer, -inf where rows match nothing.

    Scores (n, N1) are in the corner of a tensor whose sides are multiples of `GROUP`, otherwise -inf.
    """
    if a.ndim != 2 or b.ndim != 2 or (len(a) and len(b) and not a.shape[1] == b.shape[1] > 0):
        got = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ShapeError(f"descriptors must have shapes (N0, D) and (N1, D), got {got}")
    if not len(a) or not len(b):
        return
    # a shift changes no distance, and small numbers round less; a whole one keeps whole numbers exact
    shift = b.mean(0).round() if metric == "l2" else None
    other, other_bias = _prepared(b, shift)
    height, width = (-(-len(rows) // GROUP) * GROUP for rows in (a, b))
    most = CHUNK if a.device.type == "cpu" else ACCELERATOR_CHUNK
    step = min(height, max(1, most // width // GROUP) * GROUP)
    # one for all chunks, so that the heap does not grow
    buffer = torch.full((step, width), -torch.inf, dtype=torch.float32, device=a.device)
    for start in range(0, len(a), step):
        part = slice(start, min(start + step, len(a)))
        own, own_bias = _prepared(a[part], shift)
        scores = buffer[: len(own), : len(b)]
        add_product(torch.add(own_bias[:, None], other_bias, out=scores), own, other)
        buffer[len(own) :].fill_(-torch.inf)
        yield part, buffer[: -(-len(own) // GROUP) * GROUP]


def scored_chunks(a: Tensor, b: Tensor, metric: Metric) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of rows of a, and its scores (n, N1), which may be changed: cosines, or -d^2 / 2 for l2."""
    for part, scores in _scores(a, b, metric):
        yield part, scores[: part.stop - part.start, : len(b)]


def _prepared(rows: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (N, D) and numbers (N,): the score of two rows is their product plus both numbers.

    With a shift, for l2, it is minus half the squared distance; without, for the cosine, rows get length 1.
    """
    if shift is not None:
        rows = rows - shift
        return rows, _squares(rows) / -2
    lengths = _squares(rows).sqrt()
    lengths = torch.where(lengths > 0, lengths, torch.inf)  # rows of zeros stay so
    return rows / lengths[:, None], torch.where(lengths < torch.inf, 0.0, -torch.inf).to(rows)


def add_product(scores: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b.T`` in float32's precision, in place; in float64 where torch would multiply coarsely."""
    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by torch's newer means, which this question does not know
        exact = False
    if exact:
        scores.addmm_(a, b.T)
    else:
        high = widest_float(a.device)
        scores += a.to(high) @ b.to(high).T


def _squares(rows: Tensor) -> Tensor:
    """(N,) squared lengths, exact for whole numbers."""
    return torch.cat([part.square().sum(1) for part in torch.split(rows, 1024)])


def _distances(a: Tensor, b: Tensor, i: Tensor, j: Tensor, metric: Metric = "l2") -> Tensor:
    """(M,) float64 distances of rows i of a and j of b, of unit vectors under the cosine; float32 on MPS."""
    high = widest_float(a.device)
    most = CHUNK if a.device.type == "cpu" else ACCELERATOR_CHUNK
    found, step = [a.new_zeros(0, dtype=high)], most // 32 // max(1, a.shape[1]) + 1
    for start in range(0, len(i), step):
        x, y = (rows[index[start : start + step]].to(high) for rows, index in ((a, i), (b, j)))
        if metric == "cosine":
            x /= x.norm(dim=1, keepdim=True)
            y /= y.norm(dim=1, keepdim=True)
        found.append(x.sub_(y).norm(dim=1))
    return torch.cat(found)

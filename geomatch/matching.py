"""Exact mutual nearest neighbours with bounded memory."""

from types import SimpleNamespace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.types import Matches, check_shape

Metric = Literal["cosine", "l2"]

CHUNK_BYTES = 16 * 2**20
"""Size of one block of the similarity matrix; at most two exist at a time."""


def match_mutual(
    descriptors0: NDArray[np.floating],
    descriptors1: NDArray[np.floating],
    metric: Metric = "cosine",
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Keep the pairs of rows that are each other's nearest neighbour, best first.

    The search is exact: the whole similarity matrix is computed, in blocks of
    rows and in float32, whose rounding decides between neighbours that differ
    by less. Of equal neighbours the first counts. Rows without direction (all zero)
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
    check_options(metric, min_similarity, max_ratio)
    a, b = _tensor("descriptors0", descriptors0), _tensor("descriptors1", descriptors1)
    if empty:
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    with torch.inference_mode():
        nearest = _nearest(a, b, metric, max_ratio is not None)
        first = torch.arange(len(a))
        kept = (nearest.backward[nearest.forward.clamp(min=0)] == first) & (nearest.forward >= 0)
        first = first[kept]
        second = nearest.forward[first]
        distance = _distance(a, b, first, second, metric)
        similarity = (1 - distance**2 / 2 if metric == "cosine" else -distance).float()
        kept = torch.ones(len(first), dtype=torch.bool)
        if max_ratio is not None:
            other = nearest.second[first]
            runner_up = _distance(a, b, first, other.clamp(min=0), metric)
            kept &= (other < 0) | (distance < max_ratio * runner_up)
        if min_similarity is not None:
            kept &= similarity >= min_similarity
        first, second, similarity = first[kept], second[kept], similarity[kept]
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


def _tensor(name: str, rows: NDArray[np.floating]) -> Tensor:
    array = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    # torch warns of read-only memory; we never write, so it is lent as writeable instead of copied
    interface = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    lent = np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    return torch.from_numpy(lent)


class _Nearest(NamedTuple):
    """Indices; -1 stands for none."""

    forward: Tensor
    """(N0,) nearest row of b of each row of a."""
    backward: Tensor
    """(N1,) nearest row of a of each row of b."""
    second: Tensor
    """(N0,) second nearest row of b, when asked for."""


def _nearest(a: Tensor, b: Tensor, metric: Metric, with_second: bool) -> _Nearest:
    """By blocks of rows of a. Within a row or column larger scores are nearer: shared terms are left out."""
    infinity = float("inf")
    centre = b.mean(0) if metric == "l2" else torch.zeros(b.shape[1])
    if metric == "l2":
        b = b - centre  # distances stay, and rounding no longer depends on where the origin is
    norm_b = b.norm(dim=1)
    usable_b = (norm_b > 0) | torch.tensor(metric == "l2")
    forward, second = torch.full((2, len(a)), -1)
    best = torch.full((len(b),), -infinity)
    backward = torch.full((len(b),), -1)
    rows = max(1, CHUNK_BYTES // (4 * len(b)))
    block = torch.empty(min(rows, len(a)), len(b))
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        if metric == "l2":
            part = part - centre
        norm_a = part.norm(dim=1)
        usable_a = (norm_a > 0) | torch.tensor(metric == "l2")
        scores = torch.mm(part, b.T, out=block[: len(part)])
        if metric == "cosine":
            scores /= norm_b.where(usable_b, torch.ones(()))
        else:
            scores -= norm_b.square() / 2
        scores[:, ~usable_b] = -infinity
        top, index = scores.max(dim=1)
        index = index.where(usable_a & (top > -infinity), -1)
        forward[start : start + rows] = index
        if with_second and len(b) > 1:
            columns = index.clamp(min=0)[:, None]
            kept = scores.gather(1, columns)
            runner_up, other = scores.scatter_(1, columns, -infinity).max(dim=1)
            second[start : start + rows] = other.where(runner_up > -infinity, -1)
            scores.scatter_(1, columns, kept)
        if metric == "cosine":
            scores /= norm_a.where(usable_a, torch.ones(()))[:, None]
        else:
            scores += norm_b.square() / 2
            scores -= norm_a.square()[:, None] / 2
        scores[~usable_a] = -infinity
        top, index = scores.max(dim=0)
        better = top > best  # strictly: of equals the first row stays
        best = top.where(better, best)
        backward = (index + start).where(better, backward)
    return _Nearest(forward, backward, second)


def _distance(a: Tensor, b: Tensor, first: Tensor, second: Tensor, metric: Metric) -> Tensor:
    """Of pairs of rows, under the cosine between their directions; in double precision and in blocks."""
    parts = [torch.zeros(0, dtype=torch.float64)]
    rows = max(1, CHUNK_BYTES // (32 * max(1, a.shape[1])))
    for i, j in zip(torch.split(first, rows), torch.split(second, rows), strict=True):
        x, y = a[i].double(), b[j].double()
        if metric == "cosine":
            x, y = functional.normalize(x, dim=1), functional.normalize(y, dim=1)
        parts.append((x - y).norm(dim=1))
    return torch.cat(parts)

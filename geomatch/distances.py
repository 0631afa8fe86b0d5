"""Rows of descriptors: what they must be, their distances in float64, and the order of these."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.errors import ShapeError
from geomatch.types import check_shape

CHUNK_BYTES = 16 * 2**20
"""Memory of one step."""


def checked_rows(
    rows0: NDArray[Any], rows1: NDArray[Any], names: tuple[str, str], mask: NDArray[np.bool_] | None = None
) -> tuple[Tensor, Tensor]:
    """Both as float32, the caller's memory where it is that already.

    Raises:
        ShapeError: when they are not two-dimensional or differ in width (unless one is empty).
        ValueError: for numbers that are not finite.
    """
    check_shape(names[0], rows0, ("N0", "D"))
    empty = len(rows0) == 0 or len(rows1) == 0  # of unknown width, perhaps
    check_shape(names[1], rows1, ("N1", "D" if empty else rows0.shape[1]))
    if not empty and rows0.shape[1] == 0:
        raise ShapeError(f"{names[0]} must have at least one column, got {rows0.shape}")
    if mask is not None:
        check_shape("mask", mask, (len(rows0), len(rows1)))
    return _lent(names[0], rows0), _lent(names[1], rows1)


def _lent(name: str, rows: NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(rows, dtype=np.float32)
    # torch warns of read-only memory; we never write, so it is lent as writeable instead of copied
    interface = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    lent = np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    tensor = torch.from_numpy(lent)
    if not tensor.norm().isfinite() and not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    return tensor


def pair_distances(a: Tensor, b: Tensor, first: Tensor, second: Tensor, unit: bool = False) -> Tensor:
    """(M,) float64 distances of pairs of rows, of their directions with ``unit``."""
    distances = torch.empty(len(first), dtype=torch.float64, device="cpu")
    if len(first) == 0:
        return distances
    width = a.shape[1]
    size = min(max(1, CHUNK_BYTES // (16 * max(1, width))), len(first))
    single = torch.empty(size, width, dtype=torch.float32, device="cpu")
    x, y = torch.empty(
        2, size, width, dtype=torch.float64, device="cpu"
    )  # fresh memory would take longer than the rest
    for start in range(0, len(first), size):
        i, j = first[start : start + size], second[start : start + size]
        for rows, index, out in ((a, i, x), (b, j, y)):
            out[: len(index)].copy_(torch.index_select(rows, 0, index, out=single[: len(index)]))
            if unit:
                out[: len(index)].div_(out[: len(index)].norm(dim=1, keepdim=True))
        distances[start : start + size] = euclidean(x[: len(i), None], y[: len(j), None])[:, 0, 0]
    return distances


def doubled(rows: Tensor, unit: bool) -> Tensor:
    """In float64, with ``unit`` at length one."""
    rows = rows.double()
    return rows.div_(rows.norm(dim=1, keepdim=True)) if unit else rows


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """(..., N, M) distances by differences: each pair is rounded alike, wherever it stands."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def ranked(
    first: Tensor, second: Tensor, distance: Tensor, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Pairs by first, distance and second, no more than k for one first, and their ranks from 0."""
    order = np.lexsort((second.numpy(), distance.numpy(), first.numpy()))
    groups = first.numpy()[order]
    rank = np.arange(len(groups)) - np.searchsorted(groups, groups)
    kept = rank < k
    order = order[kept]
    return groups[kept], second.numpy()[order], distance.numpy()[order], rank[kept]

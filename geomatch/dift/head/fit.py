"""Fit a projection head in closed form, from corresponding activations."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.dift.head.projection import LinearHead
from geomatch.types import check_shape

RIDGE = 0.1
"""Added to the within-pair covariance, in units of its mean eigenvalue."""


def fit_head(
    first: NDArray[np.float32], second: NDArray[np.float32], dimension: int, settings: dict[str, Any]
) -> LinearHead:
    """Fit the directions in which different places differ most, measured by how much one place changes.

    Linear discriminant analysis with one class per pair: with C the covariance
    of all activations and W half that of the differences of partners, the
    projection holds the leading solutions v of C v = m W v, scaled so that
    v' W v = 1. The solution is unique up to signs, which are fixed.

    Args:
        first: (N, D) activations at keypoints in one view.
        second: (N, D) activations at the same places in another view.
        dimension: length of the descriptor, at most D.
        settings: recorded with the projection head.
    """
    check_shape("first", first, ("N", "D"))
    check_shape("second", second, first.shape)
    width = first.shape[1]
    if not 1 <= dimension <= width:
        raise ValueError(f"dimension must lie in 1..{width}, got {dimension}")
    if len(first) < 2:
        raise ValueError(f"at least 2 pairs are needed, got {len(first)}")
    mean = (first.mean(0, dtype=np.float64) + second.mean(0, dtype=np.float64)) / 2
    a = torch.from_numpy((first - mean).astype(np.float32))
    b = torch.from_numpy((second - mean).astype(np.float32))
    total = ((a.T @ a + b.T @ b) / (2 * len(a))).double()
    change = a - b
    within = (change.T @ change / (2 * len(a))).double()
    within += RIDGE * within.trace() / width * torch.eye(width, dtype=torch.float64)
    lower = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(lower, total, upper=False)
    symmetric = torch.linalg.solve_triangular(lower, half.T, upper=False)
    _, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    leading = vectors.flip(1)[:, :dimension]
    projection = torch.linalg.solve_triangular(lower.T, leading, upper=True)
    largest = projection.gather(0, projection.abs().argmax(0, keepdim=True))
    projection = projection * largest.sign()
    return LinearHead(mean.astype(np.float32), projection.numpy().astype(np.float32), settings)

"""Gaussian label maps of joints as Jabri et al. (NeurIPS 2020, ``jhmdb.py``, ``test_utils.py``) have them.

Gaussians lie on whole cells, and cell k is read as pixel k times the cell's width, so that places are up to
half a cell off even where nothing moves. `geomatch.video.propagation` has exact ones; these are for numbers
that compare.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGMA = 0.5  # cells
BEST = 3  # cells whose weighted mean is the place


def draw_labels(points: NDArray[np.floating], size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """(N, h, w): a Gaussian of 4x4 cells for each point (N, 2) of a (width, height) image, height one.

    Its part inside the grid, also of a point just outside; further out there is nothing.
    """
    places = np.asarray(points, np.float64) * (np.array(cells) / np.array(size))
    first = np.trunc(places - 3 * SIGMA).astype(int)
    last = np.trunc(places + 3 * SIGMA + 1).astype(int)
    across = np.arange(int(6 * SIGMA + 1)) - 2
    blob = np.exp(-(across[:, None] ** 2 + across**2) / (2 * SIGMA**2))
    drawn = np.zeros((len(places), cells[1], cells[0]), np.float32)
    for layer, low, high in zip(drawn, first, last, strict=True):
        begin, end = np.maximum(low, 0), np.minimum(high, cells)
        if (low >= cells).any() or (high < 0).any() or (begin >= end).any():
            continue
        (x0, y0), (x1, y1) = begin - low, end - low
        layer[begin[1] : end[1], begin[0] : end[0]] = blob[y0:y1, x0:x1]
    return torch.from_numpy(drawn)


def read_labels(labels: Tensor, size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 2) pixels of a (width, height) image where labels (N, h, w) lie; NaN for one without any height."""
    rows, columns = labels.shape[1:]
    values, places = labels.flatten(1).double().cpu().topk(min(BEST, rows * columns), dim=1)
    weights = values / values.sum(1, keepdim=True)
    cells = torch.stack([(weights * (places % columns)).sum(1), (weights * (places // columns)).sum(1)], 1)
    return np.asarray(cells.numpy() * (np.array(size) / np.array((columns, rows))), np.float64)

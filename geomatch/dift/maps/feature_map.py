"""Feature maps of a whole image, sampled exactly."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.devices import widest_float
from geomatch.types import Metric


def cell_centres(grid: tuple[int, int], image_size: tuple[int, int], like: Tensor) -> Tensor:
    """(cells, 2) pixels of an image, row by row: the centres of a grid (columns, rows) over it."""
    columns, rows = (torch.arange(cells, dtype=torch.float32, device=like.device) for cells in grid)
    cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
    return (cells + 0.5) * (cells.new_tensor(image_size) / cells.new_tensor(grid)) - 0.5


@dataclass(frozen=True, eq=False, slots=True)
class FeatureMap:
    """Activations of one image; every map covers all of it."""

    maps: tuple[Tensor, ...]
    """One (C, h, w) float32 tensor per layer, not normalised, on the extractor's device."""
    image_size: tuple[int, int]
    """(width, height) of the original image in pixels."""

    def sample(
        self, points: NDArray[np.floating], metric: Metric = "cosine", paper_sampling: bool = False
    ) -> NDArray[np.float32]:
        """Descriptors (N, sum of C) at points (N, 2) of the original image.

        Point x lies at (x + 0.5) w / width - 0.5 in a map of width w. Between cells the value is bilinear,
        outside it is the border's. For the cosine each layer is normalised, then the whole.
        ``paper_sampling`` looks where the paper's ``eval_hpatches.py`` does: up to half a pixel off towards
        the border, and beyond the outermost cells mixed with zeros.
        """
        rows = self.sample_tensor(self.upload(points), metric, paper_sampling)
        return np.asarray(rows.numpy(force=True))

    def upload(self, points: NDArray[np.floating]) -> Tensor:
        """Points (N, 2) on the maps' device, float64 where it has that."""
        device = self.maps[0].device
        return torch.tensor(np.ascontiguousarray(points), dtype=widest_float(device), device=device)

    def sample_tensor(
        self, points: Tensor, metric: Metric = "cosine", paper_sampling: bool = False
    ) -> Tensor:
        """As `sample`, from and to tensors on the maps' device."""
        where = points.to(widest_float(points.device))
        size = where.new_tensor(self.image_size)
        if paper_sampling:
            centre = ((size - 1) / 2).clamp(min=0.5)
            grid = ((where - centre) / centre).float()
        else:
            grid = ((where + 0.5) / size * 2 - 1).float()
        parts, padding = [], "zeros" if paper_sampling else "border"
        for layer in self.maps:
            sampled = functional.grid_sample(layer[None], grid[None, None], "bilinear", padding, False)
            rows = sampled[0, :, 0].T
            parts.append(functional.normalize(rows, dim=1) if metric == "cosine" else rows)
        whole = torch.cat(parts, dim=1)
        return functional.normalize(whole, dim=1) if metric == "cosine" else whole

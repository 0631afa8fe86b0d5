"""Keypoints on a regular grid, which needs neither weights nor texture."""

import math
from dataclasses import dataclass

import numpy as np

from geomatch.images import Image
from geomatch.keypoints.detector import check_limit
from geomatch.types import Features


@dataclass(frozen=True, slots=True)
class GridDetector:
    """The centres of square cells, row by row, all with score 1.

    The cells are centred on the image, so that mirroring the image mirrors the grid.
    """

    step: int = 16
    """Side of a cell in pixels, and so the least distance between keypoints."""
    border: int = 0
    """Pixels left free on every side."""
    max_keypoints: int | None = None
    """The step grows until no more keypoints than this remain; None for no limit."""

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"step must be at least 1 pixel, got {self.step}")
        if self.border < 0:
            raise ValueError(f"border must be 0 or more pixels, got {self.border}")
        check_limit(self.max_keypoints)

    def spacing(self, size: tuple[int, int]) -> int:
        """The step in a (width, height) image, grown as far as ``max_keypoints`` asks."""
        step = self.step
        while self.max_keypoints is not None and math.prod(self._cells(size, step)) > self.max_keypoints:
            step += 1
        return step

    def detect(self, image: Image) -> Features:
        """The grid of the image; empty when no cell fits."""
        width, height = image.size
        step = self.spacing(image.size)
        columns, rows = self._cells(image.size, step)
        xs = (width - 1) / 2 + (np.arange(columns) - (columns - 1) / 2) * step
        ys = (height - 1) / 2 + (np.arange(rows) - (rows - 1) / 2) * step
        grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        return Features(
            keypoints=grid.astype(np.float32),
            scores=np.ones(len(grid), dtype=np.float32),
            image_size=image.size,
        )

    def _cells(self, size: tuple[int, int], step: int) -> tuple[int, int]:
        """How many fit in a row and in a column."""
        columns, rows = (max(0, side - 2 * self.border) // step for side in size)
        return columns, rows

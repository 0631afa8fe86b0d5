"""Labels of the first frame of a video carried through it by the similarity of features.

The protocol of Jabri et al. (NeurIPS 2020) and Caron et al. (DINO, ICCV 2021), which Tang et al. (NeurIPS
2023) use for DIFT: every cell of a new frame takes the labels of its most similar cells in the first
frame and the last few, looked for near its own place, weighed by exp(cosine / temperature).
"""

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional

from geomatch.dift import FeatureMap
from geomatch.isolation import isolated
from geomatch.types import check_shape

POINT_SIGMA = 1.0
"""Standard deviation of the Gaussian label map of a point, in cells."""
POINT_REACH = 3
"""Cells to each side of a label map's maximum whose weighted mean is the point's place."""
_TILE = 16
"""Side of the squares of cells that are compared together."""


@dataclass(frozen=True, slots=True)
class PropagationConfig:
    """Where labels are looked for; the defaults are the paper's for Stable Diffusion on DAVIS-2017."""

    context: int = 28
    """Last frames that are looked at besides the first."""
    top_k: int = 15
    """Cells whose labels a cell takes."""
    radius: int = 15
    """Cells to each side of a cell's own place that are looked at."""
    temperature: float = 0.2
    """Divides the cosine: lower trusts the best cells more."""

    def __post_init__(self) -> None:
        if self.context < 0 or self.top_k < 1 or self.radius < 0:
            raise ValueError("context and radius must not be negative, top_k must be positive")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


class LabelPropagator:
    """The labels of one video, frame after frame."""

    def __init__(self, config: PropagationConfig, features: Tensor, labels: Tensor) -> None:
        """Begin with the first frame: features (C, h, w), see `features_on`, and labels (L, h, w)."""
        check_shape("features", features, ("C", "h", "w"))
        check_shape("labels", labels, ("L", *features.shape[1:]))
        self.config = config
        self._first = features, labels.to(features)
        self._last: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.context)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add a further frame whose labels are known to the context."""
        self._last.append((features, labels.to(features)))

    @isolated()
    def step(self, features: Tensor) -> Tensor:
        """Return the labels (L, h, w) of the next frame of features (C, h, w), and add it to the context."""
        context = [self._first, *self._last]
        check_shape("features", features, self._first[0].shape)
        keys, values = torch.stack([f for f, _ in context]), torch.stack([v for _, v in context])
        labels = torch.zeros_like(self._first[1])
        rows, columns = features.shape[1:]
        for top in range(0, rows, _TILE):
            for left in range(0, columns, _TILE):
                here = (slice(None), slice(top, top + _TILE), slice(left, left + _TILE))
                labels[here] = self._tile(features[here], keys, values, top, left)
        self._last.append((features, labels))
        return labels

    def _tile(self, queries: Tensor, keys: Tensor, values: Tensor, top: int, left: int) -> Tensor:
        """Labels (L, a, b) of a rectangle of cells whose first is at (top, left)."""
        (rows, columns), radius, device = queries.shape[1:], self.config.radius, queries.device
        above, before = max(0, top - radius), max(0, left - radius)
        down, across = slice(above, top + rows + radius), slice(before, left + columns + radius)
        keys, values = keys[:, :, down, across], values[:, :, down, across]
        count = rows * columns
        found = queries.flatten(1).T @ keys.flatten(2)  # context frame, query, key
        off_y = _too_far(top, rows, above, keys.shape[2], radius, device)
        off_x = _too_far(left, columns, before, keys.shape[3], radius, device)
        off = off_y[:, None, :, None] | off_x[None, :, None, :]
        found.masked_fill_(off.reshape(count, -1), -torch.inf)
        found = found.transpose(0, 1).reshape(count, -1)
        best, places = found.topk(min(self.config.top_k, found.shape[1]), dim=1)
        weights = (best / self.config.temperature).softmax(1)
        labels = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        taken = (labels[places] * weights[:, :, None]).sum(1)
        return taken.T.reshape(-1, rows, columns)


def _too_far(start: int, count: int, first: int, length: int, radius: int, device: torch.device) -> Tensor:
    """(count, length) bool: cells more than the radius apart along one axis."""
    here = torch.arange(start, start + count, device=device)
    there = torch.arange(first, first + length, device=device)
    return (here[:, None] - there[None]).abs() > radius


def grid_for(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(w, h) of a grid of about square cells with ``short`` of them along an image's short side."""
    factor = short / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def features_on(feature_map: FeatureMap, cells: tuple[int, int]) -> Tensor:
    """(C, h, w) of unit length in every cell, on a grid of (w, h) ``cells``; all layers have equal weight."""
    parts = []
    for layer in feature_map.maps:
        if tuple(layer.shape[1:]) != (cells[1], cells[0]):
            shrinks = layer.shape[1] > cells[1] and layer.shape[2] > cells[0]
            layer = functional.interpolate(
                layer[None], (cells[1], cells[0]), mode="bilinear", align_corners=False, antialias=shrinks
            )[0]
        parts.append(functional.normalize(layer, dim=0))
    return functional.normalize(torch.cat(parts), dim=0)


def mask_labels(mask: NDArray[np.integer], cells: tuple[int, int], smooth: bool = True) -> Tensor:
    """(L, h, w) shares of background, 0, and objects 1 to L - 1 of a mask (H, W) in (w, h) ``cells``.

    Smooth labels are means over a cell's pixels; others are those of one pixel, as in DINO's protocol.
    """
    count = int(mask.max()) + 1
    if smooth:
        objects = ((mask == number).astype(np.float32) for number in range(count))
        parts = [cv2.resize(one, cells, interpolation=cv2.INTER_AREA) for one in objects]
        return torch.from_numpy(np.stack(parts))
    small = PILImage.fromarray(mask.astype(np.uint8)).resize(cells, PILImage.Resampling.NEAREST)
    numbers = torch.from_numpy(np.array(small)).long()
    return functional.one_hot(numbers, count).permute(2, 0, 1).float()


def mask_of(labels: Tensor, size: tuple[int, int], via: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(H, W) number of the strongest of labels (L, h, w) at every pixel of a (width, height) image.

    ``via`` is DINO's protocol: enlarge to this (width, height), stretch every label's values to 0..1, decide,
    and take the nearest pixel. It brings objects that have left the frame back, out of nothing.
    """
    width, height = via or size
    large = functional.interpolate(
        labels[None].float(), (height, width), mode="bilinear", align_corners=False
    )[0]
    if via is not None:
        low = large.amin((1, 2), keepdim=True)
        top = (large - low).amax((1, 2), keepdim=True)
        large = torch.where(large.amax((1, 2), keepdim=True) > 0, (large - low) / top.clamp(min=1e-30), large)
    numbers = large.argmax(0).to(torch.uint8).cpu().numpy()
    if via is None or via == size:
        return np.asarray(numbers, np.uint8)
    return np.asarray(PILImage.fromarray(numbers).resize(size, PILImage.Resampling.NEAREST))


def point_labels(points: NDArray[np.floating], size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """(N, h, w) Gaussian label maps of points (N, 2) of a (width, height) image on a grid of (w, h) cells."""
    places = (np.asarray(points, np.float64) + 0.5) * (np.array(cells) / np.array(size)) - 0.5
    x, y = np.arange(cells[0]) - places[:, :1], np.arange(cells[1]) - places[:, 1:]
    across, down = (np.exp(-(part**2) / (2 * POINT_SIGMA**2)) for part in (x, y))
    return torch.from_numpy((down[:, :, None] * across[:, None, :]).astype(np.float32))


def points_of(labels: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (N, 2) of label maps (N, h, w) in a (width, height) image, and their sums (N,) near there.

    NaN and 0 for a map without any height. The place is the mean of the cells around the maximum, weighed
    by their values. The maximum is that of sums over 3x3 cells, so that a single stray cell does not count;
    the mean of the best cells anywhere could lie between two parts of a map, where there is nothing.
    """
    places = np.full((len(labels), 2), np.nan)
    amounts = np.zeros(len(labels))
    for row, values in enumerate(labels.float().numpy(force=True)):
        sums = cv2.boxFilter(values, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        top, left = (int(place) for place in np.unravel_index(int(sums.argmax()), sums.shape))
        above, before = max(0, top - POINT_REACH), max(0, left - POINT_REACH)
        near = values[above : top + POINT_REACH + 1, before : left + POINT_REACH + 1].astype(np.float64)
        amounts[row] = near.sum()
        if amounts[row] > 0:
            y, x = np.mgrid[above : above + near.shape[0], before : before + near.shape[1]]
            places[row] = (near * x).sum() / amounts[row], (near * y).sum() / amounts[row]
    scale = np.array(size) / np.array((labels.shape[2], labels.shape[1]))
    return (places + 0.5) * scale - 0.5, amounts

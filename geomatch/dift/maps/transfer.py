"""Where points of one image lie in another: the most similar pixel, found exactly.

The usual way (Tang et al., NeurIPS 2023, ``eval_spair.py``) enlarges both feature maps to the size of their
images and compares the vectors of all pixels. Enlarging is linear, so the products with a point's vector can
be enlarged instead, and the length of an enlarged vector follows from the products of neighbouring cells: the
same similarities for the work of one number per pixel instead of a thousand.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.dift import FeatureMap
from geomatch.geometry import resize_points
from geomatch.isolation import isolated
from geomatch.types import Metric

Rule = Literal["argmax", "soft-argmax"]
"""``argmax``: the best pixel. ``soft-argmax``: the best cell of the finest map, then the mean of the cells
about it, weighed by the softmax of their similarities (Zhang et al., GeoAware-SC, CVPR 2024)."""
SOFT_RADIUS, SOFT_TEMPERATURE = 5, 0.02
"""The soft-argmax's cells to each side, and its temperature (GeoAware-SC's evaluation)."""
_AT_ONCE = 2**25  # similarities in memory at a time


@dataclass(frozen=True, eq=False, slots=True)
class Transferred:
    """Points of image 0 found in image 1."""

    points: NDArray[np.float64]  # (N, 2) pixels of image 1
    similarity: NDArray[np.float32]  # (N,) at the best place: the cosine, or minus the L2 distance


class PixelFeatures:
    """The features at every pixel of an image, compared without being computed."""

    @isolated()
    def __init__(self, feature_map: FeatureMap, metric: Metric, size: tuple[int, int] | None = None) -> None:
        """Prepare a map for a grid of ``size`` (width, height) over the image; None takes its pixels."""
        self.feature_map = feature_map
        self.metric: Metric = metric
        self.size = size or feature_map.image_size
        # a difference of large squares needs the digits, which MPS has not
        maps, device = feature_map.maps, feature_map.maps[0].device
        place = "cpu" if device.type == "mps" else device
        self._maps = maps if metric == "cosine" else tuple(layer.to(place).double() for layer in maps)
        self._squares = [_enlarged_squares(layer, self.size) for layer in self._maps]

    @isolated()
    def similarities(self, descriptors: Tensor) -> Tensor:
        """(N, height, width) similarities to descriptors (N, C), as `FeatureMap.sample_tensor` gives them."""
        channels = [len(layer) for layer in self._maps]
        rows = torch.split(descriptors.to(self._maps[0]), channels, dim=1)
        terms: list[Tensor] = []
        for own, layer, squares in zip(rows, self._maps, self._squares, strict=True):
            products = (own @ layer.flatten(1)).view(len(own), *layer.shape[1:])
            enlarged = _enlarged(products, self.size)
            if self.metric == "cosine":
                terms.append(enlarged / squares.sqrt().clamp(min=1e-12) / len(channels) ** 0.5)
            else:
                terms.append(own.square().sum(1)[:, None, None] - 2 * enlarged + squares)
        total: Tensor = sum(terms[1:], start=terms[0])
        return total if self.metric == "cosine" else -total.clamp(min=0).sqrt()


@isolated()
def transfer_points(
    map0: FeatureMap,
    map1: FeatureMap | PixelFeatures,
    points: NDArray[np.floating],
    metric: Metric = "cosine",
    rule: Rule = "argmax",
) -> Transferred:
    """Find points (N, 2) of image 0 in image 1 (see `target_of`); ValueError for points outside image 0."""
    check_inside(points, map0.image_size)
    target = map1 if isinstance(map1, PixelFeatures) else target_of(map1, metric, rule)
    found, best = [np.zeros((0, 2))], [np.zeros(0, np.float32)]
    descriptors, columns = map0.sample_tensor(map0.upload(points), metric), target.size[0]
    step = max(1, _AT_ONCE // (columns * target.size[1]))
    for start in range(0, len(descriptors), step):
        similarities = target.similarities(descriptors[start : start + step])
        values, places = similarities.flatten(1).max(1)
        cells = torch.stack([places % columns, places // columns], dim=1)
        best.append(values.float().cpu().numpy())
        where = cells if rule == "argmax" else _soft(similarities, cells)
        found.append(where.numpy(force=True).astype(np.float64))
    moved: NDArray[np.floating] = np.concatenate(found)
    size = target.feature_map.image_size
    if target.size != size:
        moved = resize_points(moved, target.size, size)
    return Transferred(np.asarray(moved, np.float64), np.concatenate(best))


def check_inside(points: NDArray[np.floating], size: tuple[int, int], name: str = "image 0") -> None:
    """Raise ValueError unless all points (N, 2) lie inside an image of (width, height)."""
    width, height = size
    inside = (points >= -0.5).all(1) & (points <= np.array([width - 0.5, height - 0.5])).all(1)
    if not inside.all():
        x, y = points[~inside][0]
        raise ValueError(
            f"the point ({x:g}, {y:g}) lies outside {name}, whose last pixel is {(width - 1, height - 1)}"
        )


def target_of(feature_map: FeatureMap, metric: Metric = "cosine", rule: Rule = "argmax") -> PixelFeatures:
    """A map prepared for `transfer_points`: by pixels, for the soft-argmax by cells of its finest layer."""
    if rule == "argmax":
        return PixelFeatures(feature_map, metric)
    finest = max(feature_map.maps, key=lambda layer: layer.shape[1] * layer.shape[2])
    return PixelFeatures(feature_map, metric, (finest.shape[2], finest.shape[1]))


def _soft(similarities: Tensor, best: Tensor) -> Tensor:
    """(N, 2) weighted means of the cells about the best ones (N, 2)."""
    rows, columns = similarities.shape[1:]
    device = similarities.device
    near_x = (torch.arange(columns, device=device)[None] - best[:, :1]).abs() <= SOFT_RADIUS
    near_y = (torch.arange(rows, device=device)[None] - best[:, 1:]).abs() <= SOFT_RADIUS
    near = near_y[:, :, None] & near_x[:, None, :]
    logits = (similarities / SOFT_TEMPERATURE).masked_fill(~near, -torch.inf)
    weights = logits.flatten(1).softmax(1).view_as(similarities)
    x = (weights.sum(1) * torch.arange(columns, device=device)).sum(1)
    y = (weights.sum(2) * torch.arange(rows, device=device)).sum(1)
    return torch.stack([x, y], dim=1)


def _enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) to (N, height, width), bilinear between the centres of cells, as `FeatureMap.sample` does."""
    return functional.interpolate(values[None], size[::-1], mode="bilinear", align_corners=False)[0]


def _enlarged_squares(layer: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width) squared lengths of the vectors that `_enlarged` would make of (C, h, w).

    A vector between four cells is a weighted sum of theirs, its square a sum of their products.
    """
    padded = functional.pad(layer[None], (0, 1, 0, 1), mode="replicate")[0]
    right, below = padded[:, :, 1:], padded[:, 1:]
    own = padded.square().sum(0)
    across = (padded[:, :, :-1] * right).sum(0)
    down = (padded[:, :-1] * below).sum(0)
    slanting = (padded[:, :-1, :-1] * below[:, :, 1:] + padded[:, :-1, 1:] * below[:, :, :-1]).sum(0)
    column, a = _places(layer.shape[2], size[0], layer)
    row, b = _places(layer.shape[1], size[1], layer)
    one = (1 - a) ** 2 * own[:, column] + 2 * a * (1 - a) * across[:, column] + a**2 * own[:, column + 1]
    two = (1 - a) ** 2 * down[:, column] + a * (1 - a) * slanting[:, column] + a**2 * down[:, column + 1]
    b = b[:, None]
    squares = (1 - b) ** 2 * one[row] + 2 * b * (1 - b) * two[row] + b**2 * one[row + 1]
    return squares.clamp(min=0)


def _places(cells: int, pixels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The cell at or before each pixel's centre, and how far on towards the next it lies."""
    centres = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5).clamp(0, cells - 1)
    before = centres.floor()
    return before.long().to(like.device), (centres - before).to(like)

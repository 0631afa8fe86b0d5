"""What the features see: similarity to one point, and principal components."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.dift import DIFTExtractor, FeatureMap
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.matching import Metric

GRID_SIDE = 640
"""Similarities are computed on a grid with this long side, or at every pixel of smaller images."""
PICTURE_SIDE = 960
"""Long side of each image in a picture."""


@dataclass(frozen=True, eq=False, slots=True)
class PointTransfer:
    """The place in image 1 that looks most like a point of image 0."""

    point0: tuple[float, float]
    """(x, y) in pixels of image 0."""
    point1: tuple[float, float]
    """(x, y) in pixels of image 1, the centre of the best grid cell."""
    similarity: NDArray[np.float32]
    """(h, w) over all of image 1: the cosine, or minus the L2 distance."""

    @property
    def best(self) -> float:
        """Similarity at `point1`."""
        return float(self.similarity.max())


def transfer_point(
    map0: FeatureMap, map1: FeatureMap, point: tuple[float, float], metric: Metric = "cosine"
) -> PointTransfer:
    """Compare the features at a pixel of image 0 with those all over image 1.

    Raises:
        ValueError: when the point lies outside image 0.
    """
    width, height = map0.image_size
    if not (0 <= point[0] <= width - 1 and 0 <= point[1] <= height - 1):
        raise ValueError(
            f"the point {point} lies outside image 0, whose last pixel is {(width - 1, height - 1)}"
        )
    query = map0.sample(np.array([point]), metric)[0]
    grid = _grid(map1.image_size)
    rows = [map1.sample(row, metric) for row in grid]
    if metric == "cosine":
        similarity = np.stack([row @ query for row in rows])
    else:
        similarity = np.stack([-np.linalg.norm(row - query, axis=1) for row in rows])
    best = np.unravel_index(similarity.argmax(), similarity.shape)
    x, y = grid[best]
    return PointTransfer(point, (float(x), float(y)), similarity.astype(np.float32))


def principal_components(feature_map: FeatureMap) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: the first three components of the features over the image, each stretched to 0..255.

    At the resolution of the finest layer, at most `GRID_SIDE`. Signs are fixed
    so that the largest weight of a component is positive.
    """
    finest = max(feature_map.maps, key=lambda layer: layer.shape[1] * layer.shape[2])
    cells = min(GRID_SIDE, max(finest.shape[1:]))
    grid = _grid(feature_map.image_size, cells)
    rows = torch.from_numpy(np.concatenate([feature_map.sample(row) for row in grid]))
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh((rows.T @ rows).double())
    leading = vectors.flip(1)[:, :3]
    leading = leading * leading.gather(0, leading.abs().argmax(0, keepdim=True)).sign()
    values = (rows.double() @ leading).numpy()
    low, high = np.percentile(values, [1, 99], axis=0)
    stretched = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    shown = np.zeros((*grid.shape[:2], 3))
    shown[..., : values.shape[1]] = stretched.reshape(*grid.shape[:2], -1)
    return np.asarray(np.round(shown * 255), np.uint8)


def draw_transfer(image0: Image, image1: Image, transfer: PointTransfer) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: image 0 with the point, beside image 1 under the heat map with the best match."""
    small0, small1 = reduce_image(image0, PICTURE_SIDE), reduce_image(image1, PICTURE_SIDE)
    left, right = small0.pixels.copy(), small1.pixels.copy()
    values = transfer.similarity
    low, high = np.percentile(values, 5), values.max()
    level = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.resize(level, small1.size), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    right = np.asarray(np.round(0.45 * right + 0.55 * heat), np.uint8)
    for picture, point, full in (
        (left, transfer.point0, image0.size),
        (right, transfer.point1, image1.size),
    ):
        x, y = resize_points(np.array([point]), full, (picture.shape[1], picture.shape[0]))[0]
        centre = (round(float(x)), round(float(y)))
        cv2.drawMarker(picture, centre, (0, 0, 0), cv2.MARKER_CROSS, 26, 5, cv2.LINE_AA)
        cv2.drawMarker(picture, centre, (80, 255, 120), cv2.MARKER_CROSS, 24, 2, cv2.LINE_AA)
    return _beside(left, right)


def draw_components(image: Image, feature_map: FeatureMap) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the image beside the first three principal components of its features."""
    small = reduce_image(image, PICTURE_SIDE)
    colours = cv2.resize(principal_components(feature_map), small.size, interpolation=cv2.INTER_NEAREST)
    return _beside(small.pixels, np.asarray(colours, np.uint8))


def show_point(
    extractor: DIFTExtractor, image0: Image, image1: Image, point: tuple[float, float]
) -> tuple[PointTransfer, NDArray[np.uint8]]:
    """The transfer of a point between two photographs, and its picture."""
    map0, map1 = extractor.dense_many([image0, image1])
    transfer = transfer_point(map0, map1, point, extractor.config.metric)
    return transfer, draw_transfer(image0, image1, transfer)


def _grid(size: tuple[int, int], side: int = GRID_SIDE) -> NDArray[np.float64]:
    """(h, w, 2) centres of cells that tile the image, at most one per pixel."""
    factor = min(1.0, side / max(size))
    columns, rows = (max(1, round(length * factor)) for length in size)
    xs = (np.arange(columns) + 0.5) * size[0] / columns - 0.5
    ys = (np.arange(rows) + 0.5) * size[1] / rows - 0.5
    return np.stack(np.meshgrid(xs, ys), axis=-1)


def _beside(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two pictures side by side, aligned at the top, on black."""
    canvas = np.zeros((max(len(left), len(right)), left.shape[1] + right.shape[1], 3), np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), left.shape[1] :] = right
    return canvas

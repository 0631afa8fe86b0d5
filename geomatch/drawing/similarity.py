"""What the features see: points found in other images, and principal components."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.describers import DenseDescriber, traits_of
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, Rule, Transferred, transfer_points
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.video.propagation import features_on

GRID_SIDE = 640
"""Most cells of a picture of principal components along its long side."""
PICTURE_SIDE = 960
"""Long side of each image in a picture."""
SINGLE = (80, 255, 120)


def show_points(
    describer: DenseDescriber,
    image0: Image,
    targets: Sequence[Image],
    points: NDArray[np.floating],
    rule: Rule = "argmax",
) -> tuple[list[Transferred], NDArray[np.uint8]]:
    """Find points (N, 2) of image 0 in others: what was found, per target, and a picture (H, W, 3) RGB.

    It has a row of `draw_transfer` per target, with the heat map where there is one point.
    """
    map0, metric = describer.dense(image0), traits_of(describer).metric
    found, rows = [], []
    for target in targets:
        map1 = describer.dense(target)
        found.append(transfer_points(map0, map1, points, metric, rule))
        heat = None
        if len(points) == 1:
            shown = PixelFeatures(map1, metric, reduce_image(target, PICTURE_SIDE).size)
            heat = (
                shown.similarities(map0.sample_tensor(map0.upload(points), metric))[0].float().cpu().numpy()
            )
        rows.append(draw_transfer(image0, target, points, found[-1].points, heat))
    return found, _on_black(rows, across=False)


@isolated()
def principal_components(feature_map: FeatureMap) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: the first three components of the features over the image, each stretched to 0..255.

    At the resolution of the finest layer, at most `GRID_SIDE`. The largest weight of a component is positive.
    """
    finest = max(feature_map.maps, key=lambda layer: layer.shape[1] * layer.shape[2])
    over = max(1.0, max(finest.shape[1:]) / GRID_SIDE)
    height, width = (max(1, round(side / over)) for side in finest.shape[1:])
    rows = features_on(feature_map, (width, height)).flatten(1).T.cpu()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh((rows.T @ rows).double())
    leading = vectors.flip(1)[:, :3]
    leading = leading * leading.gather(0, leading.abs().argmax(0, keepdim=True)).sign()
    values = (rows.double() @ leading).numpy()
    low, high = np.percentile(values, [1, 99], axis=0)
    stretched = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    shown = np.zeros((height, width, 3))
    shown[..., : values.shape[1]] = stretched.reshape(height, width, -1)
    return np.asarray(np.round(shown * 255), np.uint8)


def draw_transfer(
    image0: Image,
    image1: Image,
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    heat: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: image 0 beside image 1, a cross on each point (N, 2); several have colours and numbers.

    ``heat`` are (h, w) similarities that cover image 1, drawn over it.
    """
    left, right = (reduce_image(image, PICTURE_SIDE).pixels.copy() for image in (image0, image1))
    if heat is not None:
        low, high = np.percentile(heat, 5), heat.max()
        level = np.clip((heat - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        level = np.asarray(cv2.resize(level, right.shape[1::-1]), np.uint8)
        colours = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[:, :, ::-1]
        right = np.asarray(np.round(0.45 * right + 0.55 * colours), np.uint8)
    for picture, points, size in ((left, points0, image0.size), (right, points1, image1.size)):
        places = np.round(resize_points(points, size, picture.shape[1::-1])).astype(int)
        for number, centre in enumerate(places.tolist(), start=1):
            _mark(picture, centre, number, len(points))
    return _on_black([left, right], across=True)


def draw_components(image: Image, feature_map: FeatureMap) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: the image beside the first three principal components of its features."""
    small = reduce_image(image, PICTURE_SIDE)
    colours = cv2.resize(principal_components(feature_map), small.size, interpolation=cv2.INTER_NEAREST)
    return _on_black([small.pixels, np.asarray(colours, np.uint8)], across=True)


def _mark(picture: NDArray[np.uint8], centre: Sequence[int], number: int, total: int) -> None:
    """Draw one of ``total`` points: the colours of several go round the circle of hues."""
    colour: tuple[float, ...] = SINGLE
    if total > 1:
        colour = tuple(255 * part for part in colorsys.hsv_to_rgb((number - 1) / total, 0.75, 1.0))
    cv2.drawMarker(picture, centre, (0, 0, 0), cv2.MARKER_CROSS, 26, 5, cv2.LINE_AA)
    cv2.drawMarker(picture, centre, colour, cv2.MARKER_CROSS, 24, 2, cv2.LINE_AA)
    if total > 1:
        text = str(number)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 2)
        # to the right and above, or where there is room
        x = centre[0] + 6 if centre[0] + 6 + width <= picture.shape[1] else centre[0] - 6 - width
        y = centre[1] - 6 if centre[1] - 6 - height >= 0 else centre[1] + 6 + height
        for ink, thickness in (((0, 0, 0), 5), (colour, 2)):
            cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.7, ink, thickness, cv2.LINE_AA)


def _on_black(pictures: Sequence[NDArray[np.uint8]], across: bool) -> NDArray[np.uint8]:
    """Pictures in a row, aligned at the top, or in a column, aligned at the left."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    if across:
        return np.hstack([np.pad(one, ((0, height - len(one)), (0, 0), (0, 0))) for one in pictures])
    return np.vstack([np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0))) for one in pictures])

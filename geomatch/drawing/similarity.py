"""What the features see: points found in other images, and principal components."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.describers import DenseDescriber, traits_of
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, Rule, Transferred, transfer_points
from geomatch.drawing import canvas
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.video.propagation import features_on

GRID_SIDE = 640
"""Most cells of a picture of principal components along its long side."""
SINGLE = (80, 255, 120)


def show_points(
    describer: DenseDescriber,
    image0: Image,
    targets: Sequence[Image],
    points: NDArray[np.floating],
    rule: Rule = "argmax",
) -> tuple[list[Transferred], canvas.Picture]:
    """Find points (N, 2) of image 0 in others: what was found, per target, and a picture.

    It has a row of `draw_transfer` per target, with the heat map where there is one point.
    """
    map0, metric = describer.dense(image0), traits_of(describer).metric
    found, rows = [], []
    for target in targets:
        map1 = describer.dense(target)
        found.append(transfer_points(map0, map1, points, metric, rule))
        heat = None
        if len(points) == 1:
            shown = PixelFeatures(map1, metric, reduce_image(target, canvas.SIDE).size)
            sampled = map0.sample_tensor(map0.upload(points), metric)
            heat = shown.similarities(sampled)[0].float().cpu().numpy()
        rows.append(draw_transfer(image0, target, points, found[-1], heat))
    return found, canvas.arranged(rows, across=False)


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
    points: NDArray[np.floating],
    found: Transferred,
    heat: NDArray[np.float32] | None = None,
) -> canvas.Picture:
    """Image 0 beside image 1, a cross on each point (N, 2) and where it was found; several have numbers.

    ``heat`` are (h, w) similarities that cover image 1, drawn over it.
    """
    left, right, legends = canvas.photograph(image0), canvas.photograph(image1), []
    name0, name1 = (Path(image.name).name for image in (image0, image1))
    text = f"{len(points)} points of {name0} found in {name1}"
    if len(points) == 1:
        (x0, y0), (x1, y1) = points[0], found.points[0]
        text = f"{x0:g}, {y0:g} of {name0} found at {x1:.1f}, {y1:.1f} of {name1}"
    if heat is not None:
        low, high = np.percentile(heat, 5), heat.max()
        level = np.clip((heat - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        colours = canvas.colour_map(cv2.COLORMAP_INFERNO)
        heated = colours[np.asarray(cv2.resize(level, right.shape[1::-1]))]
        grey = cv2.cvtColor(cv2.cvtColor(right, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        right = np.asarray(cv2.addWeighted(grey, 0.4, heated, 0.6, 0), np.uint8)
        legends = [canvas.legend(colours, f"{low:.2f}", "similarity", f"{high:.2f}")]
    sides = [_marked(left, points, image0.size), _marked(right, found.points, image1.size)]
    return canvas.captioned(canvas.arranged(sides, across=True), text, *legends)


def draw_components(image: Image, feature_map: FeatureMap) -> canvas.Picture:
    """The image beside the first three principal components of its features."""
    photo, values = canvas.photograph(image), principal_components(feature_map)
    smooth = cv2.resize(values, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    text = f"{Path(image.name).name}, and the first three principal components of its features"
    return canvas.captioned(canvas.arranged([canvas.framed(photo), canvas.framed(smooth)], across=True), text)


def _marked(photo: NDArray[np.uint8], points: NDArray[np.floating], size: tuple[int, int]) -> canvas.Picture:
    """Crosses on points (N, 2) of an image of (width, height); several have colours and numbers."""
    marks: list[canvas.Line | canvas.Words] = []
    height, width = photo.shape[:2]
    for number, (x, y) in enumerate(resize_points(points, size, (width, height)).tolist()):
        colour: canvas.Colour = SINGLE
        if len(points) > 1:  # round the circle of hues
            colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / len(points), 0.75, 1.0))
            place = x + (-28 if x > width - 50 else 28), y + (28 if y < 50 else -28)  # where there is room
            marks += [canvas.Line([place, place], colour, 40), canvas.Words(str(number + 1), place, "center")]
        bars = [[(x - 13, y), (x + 13, y)], [(x, y - 13), (x, y + 13)]]
        marks += [canvas.Line(bar, *kind) for kind in ((canvas.BLACK, 6), (colour, 3)) for bar in bars]
    return canvas.framed(photo, *marks)

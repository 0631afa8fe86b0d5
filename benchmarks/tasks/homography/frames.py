"""The frames in which HPatches protocols look at an image, and where its pixels go."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.images import Image

Frame = Literal["original", "short480", "crop640x480", "crop320x240"]
"""``short480``: the short side is 480 pixels. ``crop...``: grey, reduced until it just covers
(width, height), and the centre cut out (SuperPoint's protocol)."""

_CROPS = {"crop640x480": (640, 480), "crop320x240": (320, 240)}


def framed(image: Image, frame: Frame) -> tuple[Image, NDArray[np.float64]]:
    """The image in that frame, and the (3, 3) matrix from its original pixels there.

    The matrix only scales and shifts: the published harnesses do not move
    pixel centres by (s - 1)/2, and so neither do their protocols here.
    Resizing is bilinear, smoothed where it shrinks.
    """
    if frame == "original":
        return image, np.eye(3)
    width, height = image.size
    if frame == "short480":
        factor = 480 / min(width, height)
        size = round(width * factor), round(height * factor)
        scale = np.diag([size[0] / width, size[1] / height, 1.0])
        return Image(_resized(PILImage.fromarray(image.pixels), size), image.name), scale
    target = _CROPS[frame]
    factor = max(target[0] / width, target[1] / height)
    size = max(target[0], int(width * factor)), max(target[1], int(height * factor))
    left, top = (size[0] - target[0]) // 2, (size[1] - target[1]) // 2
    grey = PILImage.fromarray(image.pixels).convert("L").convert("RGB")
    pixels = _resized(grey, size)[top : top + target[1], left : left + target[0]]
    matrix = np.array([[factor, 0.0, -left], [0.0, factor, -top], [0.0, 0.0, 1.0]])
    return Image(np.ascontiguousarray(pixels), image.name), matrix


def _resized(picture: PILImage.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(picture.resize(size, PILImage.Resampling.BILINEAR))

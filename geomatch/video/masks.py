"""Masks of objects: read, written and coloured."""

from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.errors import ImageError
from geomatch.files import replacing
from geomatch.images import open_image

MAX_OBJECTS = 254
"""Objects in a mask: 0 is the background, 255 the single object of a black and white one."""
_GOLDEN = (3 - 5**0.5) / 2
"""The golden angle as a share of the circle."""


def load_mask(path: Path) -> NDArray[np.uint8]:
    """Read (H, W) object numbers, 0 for the background.

    The indices of a palette image and the values of a grey one are the numbers, as in DAVIS; an image with
    no values but 0 and 255 (or one bit) has one object, number 1. All else is an `ImageError`.
    """
    with open_image(path) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise ImageError(
                f"{path}: a mask must be a palette or grey image of 8 bits, whose values number the objects; "
                f"got mode {picture.mode}"
            )
        mask = np.array(picture).astype(np.uint8)
    if not mask.any():
        raise ImageError(f"{path}: the mask is empty; mark the objects by values from 1, or one by 255")
    if set(np.unique(mask).tolist()) <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    if mask.max() > MAX_OBJECTS:
        raise ImageError(
            f"{path}: object numbers must lie in 1..{MAX_OBJECTS}, got {mask.max()} "
            "(255 is for a mask of one object, without other values)"
        )
    return mask


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write (H, W) object numbers as a PNG with the palette of `object_colours`."""
    picture = PILImage.fromarray(mask, "P")
    picture.putpalette(object_colours(256).tobytes())
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def object_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB: black, then hues a golden angle apart, so that neighbouring numbers differ."""
    hues = [hsv_to_rgb(n * _GOLDEN % 1, 0.75, 0.7 if n // 8 % 2 else 1.0) for n in range(1, count)]
    return (np.array([(0.0, 0.0, 0.0), *hues][:count]) * 255).round().astype(np.uint8)

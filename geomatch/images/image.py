"""A photograph in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import ImageError
from geomatch.files import write_whole
from geomatch.types import check_shape


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """A photograph in memory."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB, read-only."""
    name: str
    """The path it came from, or ``array`` or the like."""
    note: str = ""
    """What was done to its values that changes how they look: a stretch, bands, pixels filled."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8:
            raise ImageError(f"{self.name}: pixels must be uint8, got {self.pixels.dtype}")
        check_shape("Image.pixels", self.pixels, ("H", "W", 3))
        if self.pixels.size == 0:
            raise ImageError(f"{self.name}: the image has no pixels")
        pixels = np.ascontiguousarray(self.pixels)
        pixels = pixels.copy() if pixels.flags.writeable else pixels.view()  # it must not change later
        pixels.flags.writeable = False
        object.__setattr__(self, "pixels", pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def reduce_image(image: Image, max_side: int | None) -> Image:
    """The image with its long side at most ``max_side`` pixels, by area averaging; None for no limit."""
    if max_side is None or max(image.size) <= max_side:
        return image
    import cv2

    factor = max_side / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    pixels = cv2.resize(image.pixels, (width, height), interpolation=cv2.INTER_AREA)
    return Image(np.asarray(pixels, dtype=np.uint8), image.name, image.note)


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) RGB."""
    import cv2

    # OpenCV writes no file itself: it crashes on names that are not UTF-8
    _, code = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_whole(path, code.tobytes())

"""A photograph in memory."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import ImageError
from geomatch.files import write_whole
from geomatch.types import check_shape, checked


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """A photograph in memory."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB, read-only."""
    name: str
    """The path it came from, or ``array`` or the like."""
    note: str = ""
    """What was done to its values that changes how they look: a stretch, bands, pixels filled."""
    mask: NDArray[np.bool_] | None = None
    """(H, W) bool, false where no keypoints are wanted; None for the whole image."""

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
        if self.mask is not None:
            object.__setattr__(self, "mask", checked("Image.mask", self.mask, pixels.shape[:2], np.bool_))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def mirrored(self) -> "Image":
        """Turned over, left to right."""
        mask = None if self.mask is None else self.mask[:, ::-1]
        return replace(self, pixels=np.ascontiguousarray(self.pixels[:, ::-1]), mask=mask)

    def within(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(N,) which of the points (N, 2) the mask allows; those beyond the border as their nearest pixel."""
        if self.mask is None:
            return np.ones(len(points), np.bool_)
        columns, rows = np.clip(np.round(points), 0, np.array(self.size) - 1).astype(np.int64).T
        return np.asarray(self.mask[rows, columns])


def reduce_image(image: Image, max_side: int | None) -> Image:
    """The image with its long side at most ``max_side`` pixels, by area averaging; None for no limit."""
    if max_side is None or max(image.size) <= max_side:
        return image
    import cv2

    factor = max_side / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    pixels = cv2.resize(image.pixels, (width, height), interpolation=cv2.INTER_AREA)
    mask = image.mask
    if mask is not None:
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return Image(np.asarray(pixels, dtype=np.uint8), image.name, image.note, mask)


def add_mask(image: Image, mask: NDArray[np.bool_] | None, name: str, ignore_border: int) -> Image:
    """The image with a mask (H, W) and a border that are left out, beside what its own mask leaves out."""
    if mask is None and not ignore_border:
        return image
    allowed = np.ones(image.pixels.shape[:2], np.bool_) if image.mask is None else image.mask.copy()
    if mask is not None:
        if mask.shape != allowed.shape:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, allowed.shape)]
            raise ImageError(f"{name}: the mask has {sizes[0]} pixels, {image.name} has {sizes[1]}")
        allowed &= mask
    if ignore_border:
        inner = np.zeros_like(allowed)
        inner[ignore_border:-ignore_border, ignore_border:-ignore_border] = True
        allowed &= inner
    return replace(image, mask=allowed)


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) RGB."""
    import cv2

    # OpenCV writes no file itself: it crashes on names that are not UTF-8
    _, code = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_whole(path, code.tobytes())

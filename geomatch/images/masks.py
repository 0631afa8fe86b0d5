"""Masks: where in an image no keypoints are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import ImageError
from geomatch.images.image import Image


@dataclass(frozen=True, slots=True)
class Masks:
    """What is left out of each image of a folder or list; ImageError for a folder that does not exist."""

    folder: Path | None = None
    """Pictures of the images' sizes, as stored, black where no keypoints are wanted. That of ``a/b.jpg`` is
    ``a/b.jpg.png``, as COLMAP has it, or ``a/b.png`` or ``a/b.jpg``; images without one are used whole."""
    ignore_border: int = 0
    """Pixels left out along each side."""

    def __post_init__(self) -> None:
        if self.ignore_border < 0:
            raise ValueError(f"ignore_border must be 0 or more pixels, got {self.ignore_border}")
        if self.folder is not None and not self.folder.is_dir():
            raise ImageError(f"{self.folder}: no such folder of masks")

    def path(self, name: str, image: Path | None = None) -> Path | None:
        """The mask of an image by its path below its folder; None without one. An image is not its own."""
        if self.folder is None:
            return None
        own = self.folder / name.lstrip("/")
        tried = (own.with_name(own.name + ".png"), own.with_suffix(".png"), own)
        return next(
            (path for path in tried if path.is_file() and not (image and image.resolve() == path.resolve())),
            None,
        )

    def check(self, names: Sequence[str], folder: Path = Path()) -> None:
        """Raise ImageError when there is a mask of none of these images, which lie in ``folder``."""
        if self.folder is not None and not any(self.path(name, folder / name) for name in names):
            raise ImageError(
                f"{self.folder}: no mask of any image there; that of {names[0]} would be {names[0]}.png"
            )


NO_MASKS = Masks()


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

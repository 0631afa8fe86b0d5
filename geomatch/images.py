"""Images from files, arrays and PIL images, as RGB of 8 bits.

Rules: EXIF orientation is applied unless switched off; grey is repeated to RGB; transparency is composited
over white; 16-bit grey values are divided by 257 (of 16-bit colour Pillow keeps the upper byte); palettes are
expanded; floating-point values must lie in [0, 1]. CMYK, animated, truncated and too large images, and files
that are no images, are refused with an `ImageError` that names them.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from geomatch.errors import ImageError, first_line
from geomatch.files import replacing
from geomatch.types import check_shape

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files in a folder that count as images."""
MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own limit against decompression bombs)."""
_ORIENTATION = 0x0112
_TURN = PILImage.Transpose
# the transposition that undoes each EXIF orientation
_BACK = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE,
         6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270}  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """A photograph in memory."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB, read-only."""
    name: str
    """The path it came from, or ``array`` or the like."""

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


ImageLike = Image | str | os.PathLike[str] | NDArray[Any] | PILImage.Image
"""What the public functions accept as an image."""


def load_image(source: ImageLike, *, apply_exif: bool = True) -> Image:
    """Read an image by the rules of this module.

    Args:
        source: a path, an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8, uint16 or floats
            in [0, 1], or a PIL image. OpenCV's arrays are BGR: turn them first, ``array[..., ::-1]``.
        apply_exif: turn the picture as its EXIF orientation says; COLMAP reads raw pixels.

    Raises:
        ImageError: when it cannot be used; the message names the source.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, np.ndarray):
        return Image(_pixels_of_array(source, "array"), "array")
    if isinstance(source, PILImage.Image):
        name = str(getattr(source, "filename", "")) or "PIL image"
        return _decode(name, lambda: _pixels_of_pil(source, name, apply_exif))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _decode(str(path), lambda: _pixels_of_file(path, apply_exif))
    raise ImageError(f"cannot use {type(source).__name__} as an image: give a path, array or PIL image")


def _decode(name: str, read: Callable[[], NDArray[np.uint8]]) -> Image:
    """Decode; every failure becomes an `ImageError` that names the image."""
    try:
        pixels = read()
    except (ImageError, MemoryError):
        raise
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in a known format") from error
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise ImageError(f"{name}: damaged or truncated image ({first_line(error)})") from error
    if pixels.flags.owndata:
        pixels.flags.writeable = False  # ours alone: no copy is needed
    return Image(pixels, name)


def _too_large(name: str) -> ImageError:
    return ImageError(f"{name}: has more than {MAX_PIXELS / 1e6:.0f} million pixels; reduce it first")


def check_image_file(path: Path) -> None:
    """Raise `ImageError` unless there is a file that can be read and is not empty."""
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageError(f"{path}: the file is empty")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def _pixels_of_file(path: Path, apply_exif: bool) -> NDArray[np.uint8]:
    check_image_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that we report as errors
        warnings.simplefilter("error", PILImage.DecompressionBombWarning)
        with PILImage.open(path) as picture:
            return _pixels_of_pil(picture, str(path), apply_exif)


def _pixels_of_pil(picture: PILImage.Image, name: str, apply_exif: bool) -> NDArray[np.uint8]:
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(name)
    # phones append previews and depth maps as further frames (MPO): the first is the photograph
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise ImageError(f"{name}: animated or multi-page image; save one frame as a file of its own")
    if apply_exif:
        picture = ImageOps.exif_transpose(picture)
    elif orientation := _turned_by_pillow(picture):
        picture = picture.transpose(_BACK[orientation])
    mode = picture.mode
    if mode.startswith("I"):  # 16 bit of grey, which Pillow may keep in 32
        values = np.asarray(picture)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError(f"{name}: integer values must lie in 0..65535 (16 bit)")
        return _pixels_of_array(values.astype(np.uint16), name)
    if mode == "F":
        return _pixels_of_array(np.asarray(picture), name)
    if mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = PILImage.new("RGBA", layer.size, "white")
        return np.asarray(PILImage.alpha_composite(white, layer).convert("RGB"))
    if mode in ("1", "L", "P", "RGB"):
        return np.asarray(picture.convert("RGB"))
    raise ImageError(f"{name}: colour mode {mode} is not supported; convert it to RGB or grey first")


def raw_size(path: Path) -> tuple[int, int]:
    """(width, height) of a file's pixels as they are stored, whatever its EXIF orientation says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the image is large: its pixels are not read
            with PILImage.open(path) as picture:
                width, height = picture.size
                return (height, width) if _turned_by_pillow(picture) in (5, 6, 7, 8) else (width, height)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except Exception as error:  # Pillow raises many types on damaged files
        raise ImageError(f"{path}: not a readable image ({first_line(error)})") from error


def _turned_by_pillow(picture: PILImage.Image) -> int:
    """The EXIF orientation of a TIFF that is not loaded yet: Pillow turns these itself on loading."""
    if picture.format != "TIFF":
        return 0
    orientation = getattr(picture, "tag_v2", {}).get(_ORIENTATION, 0)
    return int(orientation) if orientation in _BACK else 0


def _pixels_of_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"{name}: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(name)
    pixels = _to_uint8(array, name)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.float32) / 255
        pixels = np.round(pixels[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array.size and (array.min() < 0 or array.max() > 1)):
            raise ImageError(f"{name}: floating-point values must be finite and lie in [0, 1]")
        return np.round(array * 255).astype(np.uint8)
    raise ImageError(f"{name}: dtype {array.dtype} is not supported; use uint8, uint16 or floats in [0, 1]")


def reduce_image(image: Image, max_side: int | None) -> Image:
    """The image with its long side at most ``max_side`` pixels, by area averaging; None for no limit."""
    if max_side is None or max(image.size) <= max_side:
        return image
    import cv2

    factor = max_side / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    pixels = cv2.resize(image.pixels, (width, height), interpolation=cv2.INTER_AREA)
    return Image(np.asarray(pixels, dtype=np.uint8), image.name)


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) RGB."""
    import cv2

    # OpenCV writes no file itself: it crashes on names that are not UTF-8
    _, code = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    with replacing(path) as temporary:
        temporary.write_bytes(code.tobytes())

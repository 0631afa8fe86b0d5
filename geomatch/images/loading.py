"""Images of every kind of source, by the rules of `geomatch.images`."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.errors import ImageError, reading
from geomatch.images.image import Image, add_mask
from geomatch.images.opening import DAMAGED, check_size, check_still, format_of, open_file, open_picture
from geomatch.images.tiff import Page, open_page, read_page
from geomatch.images.values import CONVERSION, Conversion, Values, choose_bands, opacity, to_pixels
from geomatch.stream import ahead

ImageLike = Image | str | os.PathLike[str] | NDArray[Any] | PILImage.Image
"""What the public functions accept as an image."""
_ORIENTATION = 0x0112


def load_image(
    source: ImageLike,
    *,
    apply_exif: bool = True,
    conversion: Conversion = CONVERSION,
    mask: ImageLike | None = None,
    ignore_border: int = 0,
) -> Image:
    """Read an image by the rules of `geomatch.images`.

    Args:
        source: a path, an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of integers up to 32 bits
            or floats, (H, W, C) when bands are chosen, or a PIL image. OpenCV's arrays are BGR: turn them
            first, ``array[..., ::-1]``.
        apply_exif: turn the picture as its EXIF orientation says; COLMAP reads raw pixels.
        conversion: how more than 8 bits and more than three bands become RGB.
        mask: a picture of the image's size, black (0) where no keypoints are wanted. It is of the pixels as
            they are stored, as for COLMAP, and turned with them; one that fits the turned image alone stays.
        ignore_border: pixels along each side without keypoints, as of a watermark.

    Raises ImageError, naming the source, when it cannot be used.
    """
    if isinstance(source, Image):
        return _with_mask(source, mask, ignore_border, 1)
    if isinstance(source, np.ndarray):
        name, turn = "array", 1
        if source.ndim not in (2, 3):
            raise ImageError(f"array: expected shape (H, W) or (H, W, C), got {source.shape}")
        check_size(source.shape[1], source.shape[0], name)
        values = with_opacity(source, conversion, name)
    elif isinstance(source, PILImage.Image):
        name = name_of(source)
        with open_image(source) as picture:
            array, turn = decode(picture, apply_exif, name)
            values = with_opacity(array, conversion, name)
    elif isinstance(source, (str, os.PathLike)):
        name = name_of(source)
        values, turn = _read(Path(source), apply_exif, conversion)
    else:
        raise ImageError(f"cannot use {type(source).__name__} as an image: give a path, array or PIL image")
    with reading(name, DAMAGED, ImageError):
        pixels, note = to_pixels(values, conversion.stretch, name)
    pixels = np.ascontiguousarray(turned(pixels, turn))
    if pixels.flags.owndata and pixels is not values.array:
        pixels.flags.writeable = False  # ours alone: no copy is needed
    return _with_mask(Image(pixels, name, note), mask, ignore_border, turn)


def _with_mask(image: Image, mask: ImageLike | None, ignore_border: int, turn: int) -> Image:
    if mask is None:
        return add_mask(image, None, "", ignore_border)
    if isinstance(mask, np.ndarray):
        name, allowed = "mask", np.asarray(mask.reshape(*mask.shape[:2], -1).any(axis=2))
    else:
        read = load_image(mask, apply_exif=False, conversion=Conversion("never"))
        name, allowed = read.name, np.asarray(read.pixels.any(axis=2))
    upright, shape = turned(allowed, turn), image.pixels.shape[:2]
    fits = upright.shape == shape or allowed.shape != shape
    return add_mask(image, upright if fits else allowed, name, ignore_border)


def stream_images(sources: Iterable[ImageLike]) -> Iterator[Image]:
    """`load_image` of each in turn; files are decoded by threads, as far ahead as `geomatch.stream` says."""
    for files, run in groupby(sources, lambda source: isinstance(source, (str, os.PathLike))):
        if files:
            with closing(ahead(load_image, run, _pixels)) as read:
                yield from read
        else:  # nothing to wait for; a picture of Pillow that is listed twice would be read by two threads
            yield from map(load_image, run)


def _pixels(source: Any) -> int:
    with suppress(ImageError):  # which is raised when its turn comes
        width, height = raw_size(source)
        return width * height
    return 0


def _read(path: Path, apply_exif: bool, conversion: Conversion) -> tuple[Values, int]:
    name = name_of(path)
    with open_file(path) as file:
        page = page_of(file, name)
        if page is None or page.suits_pillow:
            array, turn = decode(open_still(file, page, name), apply_exif, name)
            values = with_opacity(array, conversion, name)
            return (values if page is None else replace(values, nodata=page.nodata)), turn
        return read_page(page, file, conversion.bands, name), page.orientation if apply_exif else 1


def name_of(source: str | os.PathLike[str] | PILImage.Image) -> str:
    """What errors call it."""
    if isinstance(source, PILImage.Image):
        return str(getattr(source, "filename", "")) or "PIL image"
    return os.fspath(source)


@contextmanager
def open_image(source: str | os.PathLike[str] | PILImage.Image) -> Iterator[PILImage.Image]:
    """Open a still image, not decoded yet; what goes wrong in the block is an `ImageError` that names it."""
    name = name_of(source)
    if isinstance(source, PILImage.Image):
        with reading(name, DAMAGED, ImageError):
            check_still(source, name)
            yield source
    else:
        with open_file(Path(source)) as file:
            yield open_still(file, page_of(file, name), name)


def page_of(file: IO[bytes], name: str) -> Page | None:
    """The image of a TIFF; None for other formats."""
    file.seek(0)
    return open_page(file, name) if format_of(file.read(16)) == "TIFF" else None


def open_still(file: IO[bytes], page: Page | None, name: str) -> PILImage.Image:
    """Open by Pillow; raises `ImageError` for too many pixels, or several frames."""
    picture = open_picture(file, name)
    if page is None:
        check_still(picture, name)
    else:
        picture.seek(page.index)
        check_size(*picture.size, name)
    return picture


def raw_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of a file's pixels as they are stored, whatever its EXIF orientation says."""
    name = name_of(path)
    with open_file(Path(path)) as file:
        page = page_of(file, name)
        return open_picture(file, name).size if page is None else page.size


def _turn(picture: PILImage.Image, apply_exif: bool) -> int:
    """The orientation by which decoded pixels must be turned: Pillow turns TIFFs itself on decoding."""
    if picture.format == "TIFF":
        stored = getattr(picture, "tag_v2", {}).get(_ORIENTATION, 1)
        return 1 if apply_exif else {6: 8, 8: 6}.get(stored, stored)
    picture.load()
    try:
        return int(picture.getexif().get(_ORIENTATION, 1)) if apply_exif else 1
    except Exception:  # damaged tags are as good as none
        return 1


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (H, W, ...) as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def decode(picture: PILImage.Image, apply_exif: bool, name: str) -> tuple[NDArray[Any], int]:
    """(H, W) or (H, W, C) at full depth, and the orientation by which they must be turned."""
    mode, deep = picture.mode, _deep_colours(picture)
    turn = _turn(picture, apply_exif)  # it decodes, so that OpenCV sees no damaged file
    array: NDArray[Any] | None = None
    if deep:
        import cv2

        array = np.asarray(cv2.imdecode(np.frombuffer(deep, np.uint8), cv2.IMREAD_UNCHANGED))
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]
    if array is None and (mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info):
        array = np.asarray(picture.convert("RGBA"))
    elif array is None and mode in ("1", "P"):
        array = np.asarray(picture.convert("L" if mode == "1" else "RGB"))
    elif array is None and (mode in ("L", "RGB", "F") or mode.startswith("I")):
        array = np.asarray(picture)
    if array is None:
        raise ImageError(f"{name}: colour mode {mode} is not supported; convert it to RGB or grey first")
    if mode == "I" and array.min(initial=0) >= 0 and array.max(initial=0) <= 65535:
        array = array.astype(np.uint16)  # which Pillow may keep in 32 bits
    return array, turn


def _deep_colours(picture: PILImage.Image) -> bytes | None:
    """The file of a PNG or PPM with colours of 16 bits, of which Pillow decodes the upper bytes."""
    arguments = [tile.args for tile in getattr(picture, "tile", ())]  # of Pillow's decoders
    deep = ("RGB", 65535) in arguments or any(";16B" in str(one) for one in arguments)
    file: IO[bytes] | None = getattr(picture, "fp", None)
    if picture.format not in ("PNG", "PPM") or picture.mode.startswith("I") or not deep or file is None:
        return None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def with_opacity(array: NDArray[Any], conversion: Conversion, name: str) -> Values:
    """(H, W) or (H, W, C), whose fourth band is opacity unless bands are chosen."""
    array = array[:, :, None] if array.ndim == 2 else array
    count, alpha = array.shape[2], None
    if count == 4 and conversion.bands is None:
        array, alpha = array[:, :, :3], opacity(array[:, :, 3])
    chosen = choose_bands(array.shape[2], conversion.bands, name)
    if chosen != list(range(array.shape[2])):
        array = array[:, :, chosen]
    note = f"bands {', '.join(map(str, conversion.bands))} of {count}" if conversion.bands else ""
    return Values(array, alpha, note=note)

"""Files of images, opened as one of the formats on a list, whatever their names say."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image as PILImage

from geomatch.errors import ImageError, first_line, reading

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".heic", ".heif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes, in lower case, of the files in a folder that count as images."""
MAX_PIXELS = 89_478_485
"""Largest image accepted (Pillow's own limit against decompression bombs)."""
FORMATS = ("JPEG", "PNG", "TIFF", "PPM", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF")
"""What Pillow may open, and nothing else that it can: PostScript, for one, would run Ghostscript."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_START = 64  # bytes that tell the format
_MAX_PIPE = 1 << 30  # bytes read from a pipe
SEVERAL = "animated or multi-page image; save one frame as a file of its own"
DAMAGED = "image, damaged or truncated"
"""What a decoder's error says that it could not read."""


def check_image_file(path: Path) -> None:
    """Raise `ImageError` unless there is a file that can be read; of a pipe nothing is read yet."""
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not an image")
        path.stat()
        if path.is_file():
            with path.open("rb") as file:
                if not file.read(1):
                    raise ImageError(f"{path}: the file is empty")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open an image file, in which one can go back; what comes through a pipe is kept in memory."""
    check_image_file(path)
    with reading(path, DAMAGED, ImageError), path.open("rb") as file:
        if file.seekable():
            yield file
            return
        data = file.read(_START)
        if format_of(data):
            data += file.read(_MAX_PIPE)
        if len(data) > _MAX_PIPE:
            raise ImageError(f"{path}: more than {_MAX_PIPE >> 20} MiB came through the pipe; give a file")
        if not data:
            raise ImageError(f"{path}: nothing came through the pipe")
        yield io.BytesIO(data)


def format_of(start: bytes) -> str:
    """The format of a file that starts so: one of `FORMATS`, ``HEIF``, or nothing."""
    if start[4:8] == b"ftyp":  # ISO/IEC 14496-12: the length of the box, its type, then brands of 4 letters
        brands = start[8 : int.from_bytes(start[:4], "big")]
        if b"avif" not in brands and b"avis" not in brands:
            return "HEIF" if any(brand in brands for brand in _HEIF_BRANDS) else ""
    PILImage.init()
    for name in FORMATS:
        accepts: Callable[[bytes], Any] | None = PILImage.OPEN[name][1] if name in PILImage.OPEN else None
        if accepts is not None and accepts(start) is True:
            return name
    return ""


def open_picture(file: IO[bytes], name: str) -> PILImage.Image:
    """Open, but do not decode. Not by `PIL.Image.open`: it warns of large images, which our limit handles."""
    file.seek(0)
    kind = format_of(file.read(_START))
    file.seek(0)
    if not kind:
        raise ImageError(f"{name}: not an image in a known format; convert it to PNG, JPEG or TIFF")
    if kind != "HEIF":
        try:  # with a name Pillow maps grey pixels of a TIFF into memory, by the wrong size if it is turned
            return PILImage.OPEN[kind][0](file, "" if kind == "TIFF" else name)
        except SyntaxError as error:  # what Pillow's plugins raise on headers that they cannot read
            raise ImageError(
                f"{name}: not an image in a known format, or damaged ({first_line(error)})"
            ) from error
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            f"{name}: a HEIC image; to read it, install pillow-heif: pip install 'geomatch-dift[heif]'"
        ) from error
    heif: Callable[..., PILImage.Image] = HeifImageFile  # not registered with Pillow: that is for the process
    return heif(file, name)


def check_size(width: int, height: int, name: str) -> None:
    """Raise `ImageError` for more pixels than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: has more than {MAX_PIXELS / 1e6:.0f} million pixels; reduce it first")


def check_still(picture: PILImage.Image, name: str) -> None:
    """Raise `ImageError` for too many pixels, or several frames."""
    check_size(picture.width, picture.height, name)
    # phones append previews and depth maps as further frames (MPO, HEIF): the first is the photograph
    if picture.format not in ("MPO", "HEIF") and getattr(picture, "n_frames", 1) > 1:
        raise ImageError(f"{name}: {SEVERAL}")

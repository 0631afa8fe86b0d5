"""TIFFs that Pillow cannot read, or reads wrongly: deep, signed and floating-point values, many bands.

`tifffile` reads the header; strips and tiles are put together here, and decompressed by Pillow's libtiff,
which knows LZW where tifffile needs a further package. Codes are those of TIFF 6.0, and of GDAL's tag 42113.
"""

import io
import struct
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from geomatch.errors import ImageError
from geomatch.images.opening import MAX_PIXELS, check_size, several_pages
from geomatch.images.values import Values, choose_bands, opacity

_NODATA = 42113
_WHITE, _BLACK, _RGB = 0, 1, 2  # photometric interpretations
_ALPHA = {1: True, 2: False}  # extra samples that are opacity: true if colours are multiplied by it
_PACKBITS = 32773
_COMPRESSIONS = {1, 5, 8, 32946, _PACKBITS, 34925, 50000}  # none, LZW, deflate twice, LZMA, Zstandard
_MOST_PAGES = 100  # that are looked at
_MOST_SEGMENTS = 1 << 16  # strips or tiles: each takes half a millisecond
_LARGEST = 1 << 30  # bytes of a strip or tile, or of all values that are read


@dataclass(frozen=True, eq=False, slots=True)
class Page:
    """The one image of a file."""

    index: int
    """Among the pages."""
    tags: Any
    """The `tifffile.TiffPage`."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels as stored."""
        return self.tags.imagewidth, self.tags.imagelength

    @property
    def nodata(self) -> float | None:
        """GDAL's value that means none; None without, and for one that the type cannot hold."""
        tag = self.tags.tags.get(_NODATA)
        try:
            value = float(str(tag.value).strip("\0 ").replace(",", ".")) if tag else np.nan
            limits = (np.finfo if self.tags.dtype.kind == "f" else np.iinfo)(self.tags.dtype)
        except (ValueError, AttributeError):
            return None
        return value if float(limits.min) <= value <= float(limits.max) else None

    @property
    def orientation(self) -> int:
        """EXIF's."""
        tag = self.tags.tags.get(274)
        return int(tag.value) if tag and tag.value in range(1, 9) else 1

    def suits_pillow(self, bands: tuple[int, ...] | None) -> bool:
        """True for grey, colours and palettes of up to 8 bits, which Pillow reads rightly in every layout."""
        tags = self.tags
        shallow = tags.sampleformat == 1 and np.max(tags.bitspersample) <= 8
        colours = 1 if tags.photometric in (_WHITE, _BLACK) else 3
        several = tags.samplesperpixel > colours + (bands is None)  # of which it would leave some out
        ignored = tags.compression == _PACKBITS and tags.predictor != 1  # by libtiff, but not by its writers
        return bool(shallow and not several and not ignored)


def open_page(file: IO[bytes], name: str) -> Page:
    """Find the image among the pages of a file: neither a reduced copy nor a mask."""
    import tifffile

    file.seek(0)
    # neither microscopes' own readings of tags, nor other files that a file names
    tif = tifffile.TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False, _multifile=False)
    pages: list[Any] = list(islice(tif.pages, _MOST_PAGES))
    own = [number for number, page in enumerate(pages) if not page.subfiletype & 5]
    if not own:
        raise ImageError(f"{name}: holds previews only; develop a camera's raw file to TIFF or JPEG first")
    found = Page(own[0], pages[own[0]])
    if len(own) > 1 or found.tags.imagedepth != 1:
        raise several_pages(name)
    return found


def read_page(page: Page, file: IO[bytes], bands: tuple[int, ...] | None, name: str) -> Values:
    """Read the chosen bands; without a choice the colours that the file declares, and its opacity."""
    tags = page.tags
    check_size(*page.size, name)
    if tags.dtype is None or (tags.dtype.kind != "u" and tags.bitspersample != 8 * tags.dtype.itemsize):
        raise ImageError(f"{name}: values of {tags.bitspersample} bits are not supported; save it with 16")
    if tags.photometric not in (_WHITE, _BLACK, _RGB):
        kind = getattr(tags.photometric, "name", tags.photometric)
        raise ImageError(f"{name}: colour mode {kind} is not supported; convert it to RGB or grey first")
    if tags.compression not in _COMPRESSIONS or tags.fillorder != 1:
        kind = getattr(tags.compression, "name", tags.compression)
        raise ImageError(f"{name}: compression {kind} of such values is not supported; save it with LZW")
    count, extra = tags.samplesperpixel, dict(enumerate(tags.extrasamples, -len(tags.extrasamples)))
    alphas = [] if bands else [count + place for place, kind in extra.items() if kind in _ALPHA]
    if bands is None and tags.photometric == _RGB and count >= 3:
        chosen = [0, 1, 2]
    else:
        free = [band for band in range(count) if band not in alphas]
        chosen = [free[place] for place in choose_bands(len(free), bands, name)]
    used = len(chosen) + len(alphas[:1])
    if tags.imagewidth * tags.imagelength * used * tags.dtype.itemsize > _LARGEST:
        raise ImageError(f"{name}: over 1 GiB of values; choose one band (--bands 1), or reduce it first")
    array = _read(tags, file, [*chosen, *alphas[:1]])
    return Values(
        array[:, :, : len(chosen)],
        opacity(array[:, :, -1]) if alphas else None,
        bool(alphas) and _ALPHA[extra[alphas[0] - count]],
        tags.photometric == _WHITE,
        page.nodata,
        f"bands {', '.join(str(band + 1) for band in chosen)} of {count}" if bands or used < count else "",
    )


def _read(tags: Any, file: IO[bytes], bands: list[int]) -> NDArray[Any]:
    """(H, W, bands)"""
    (width, height), samples = (tags.imagewidth, tags.imagelength), tags.samplesperpixel
    across, down = (tags.tilewidth, tags.tilelength) if tags.is_tiled else (width, tags.rowsperstrip)
    columns, rows = -(-width // across), -(-height // down)
    if columns * across * rows * down > 2 * MAX_PIXELS:
        raise ValueError("tiles much larger than the image")
    if columns * rows > _MOST_SEGMENTS:
        raise ValueError(f"{columns * rows} strips or tiles")
    planes = samples if tags.planarconfig == 2 else 1
    if len(tags.dataoffsets) < columns * rows * planes or len(tags.databytecounts) < columns * rows * planes:
        raise ValueError("strips or tiles are missing")
    array = np.zeros((height, width, len(bands)), tags.dtype)
    end = file.seek(0, io.SEEK_END)
    for plane in range(planes):
        # places in the array, and the samples of a segment that go there
        there = [n for n, band in enumerate(bands) if planes == 1 or band == plane]
        taken = bands if planes == 1 else [0] * len(there)
        for place in range(columns * rows) if there else ():
            y, x = place // columns * down, place % columns * across
            tall = down if tags.is_tiled else min(down, height - y)
            number = plane * columns * rows + place
            shape = tall, across, samples // planes
            file.seek(tags.dataoffsets[number])
            data = file.read(min(tags.databytecounts[number], end))
            # GDAL leaves out what is empty
            part = (
                _segment(tags, data, shape) if data else np.broadcast_to(tags.dtype.type(tags.nodata), shape)
            )
            for n, band in zip(there, taken, strict=True):
                array[y : y + tall, x : x + across, n] = part[: height - y, : width - x, band]
    return array


def _segment(tags: Any, data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Decode a strip or tile of (rows, columns, samples)."""
    rows, columns, samples = shape
    bits = int(tags.bitspersample)
    wide = -(-columns * samples * bits // 8)  # bytes of a row
    if tags.compression != 1:
        if wide * rows > _LARGEST:
            raise ValueError(f"a strip or tile of {wide * rows} bytes")
        data = _decompressed(data, int(tags.compression), wide, rows)
    if len(data) < wide * rows:
        raise ValueError(f"{len(data)} bytes in a strip or tile of {wide * rows}")
    stored = np.frombuffer(data, np.uint8, wide * rows).reshape(rows, wide)
    order = tags.parent.byteorder
    if tags.predictor == 3:  # Adobe's, of floats: the bytes of a row by significance, as differences
        summed = np.cumsum(stored.reshape(rows, -1, samples), axis=1, dtype=np.uint8)
        stored = np.ascontiguousarray(summed.reshape(rows, bits // 8, -1).swapaxes(1, 2)).reshape(rows, wide)
        order = ">"
    if bits % 8:  # packed: each row begins with a byte of its own
        single = np.unpackbits(stored, axis=1)[:, : columns * samples * bits].reshape(-1, bits)
        filled = np.pad(single, ((0, 0), (8 * tags.dtype.itemsize - bits, 0)))
        stored, order = np.packbits(filled, axis=1), ">"
    values: NDArray[Any] = stored.reshape(-1).view(tags.dtype.newbyteorder(order)).reshape(shape)
    if tags.predictor == 2:  # differences along the row
        whole = values.astype(tags.dtype).view(f"u{tags.dtype.itemsize}")
        values = np.cumsum(whole, axis=1, dtype=whole.dtype).view(tags.dtype)
    return values


def _decompressed(data: bytes, compression: int, wide: int, rows: int) -> bytes:
    """Decompress by libtiff: as the one strip of a grey image of 8 bits."""
    # size, bits, compression, photometric interpretation, offset, samples, rows, bytes
    known = {256: wide, 257: rows, 258: 8, 259: compression, 262: _BLACK, 273: 8, 277: 1, 278: rows}
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in (known | {279: len(data)}).items()]
    data += bytes(len(data) % 2)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    whole = header + data + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(whole)) as picture:
        return picture.tobytes()

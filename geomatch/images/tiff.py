"""Windows of TIFFs, with values of any depth and many bands.

`tifffile` reads the header; strips and tiles are put together here, and decompressed by Pillow's libtiff,
which knows LZW where tifffile needs a further package. Codes are those of TIFF 6.0, and of GDAL's tag 42113.
"""

import io
import struct
from dataclasses import dataclass
from itertools import islice, product
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from geomatch.errors import ImageError
from geomatch.images.opening import MAX_PIXELS, SEVERAL, check_size
from geomatch.images.values import Values, choose_bands, opacity

_NODATA = 42113
_WHITE, _BLACK, _RGB, _MASK, _YCBCR = 0, 1, 2, 4, 6  # photometric interpretations
_ALPHA = {1: True, 2: False}  # extra samples that are opacity: true if colours are multiplied by it
_PACKBITS, _JPEG = 32773, 7
_COMPRESSIONS = {1, 5, 8, 32946, _PACKBITS, 34925, 50000}  # none, LZW, deflate twice, LZMA, Zstandard
_MOST_PAGES = 100  # that are looked at
_MOST_SEGMENTS = 1 << 16  # strips or tiles: each takes half a millisecond
_LARGEST = 1 << 30  # bytes of a strip or tile, or of all values that are read
_KEPT = 1 << 26  # bytes of decoded strips and tiles that are kept for further windows

Window = tuple[int, int, int, int]
"""(left, top, width, height) in pixels, within the image as it is stored."""
Segments = dict[tuple[int, int], NDArray[Any]]
"""Decoded strips and tiles, kept for further windows, by the numbers of page and segment; used last, last."""


@dataclass(frozen=True, eq=False, slots=True)
class Page:
    """The one image of a file."""

    index: int
    """Among the pages."""
    tags: Any
    """The `tifffile.TiffPage`."""
    mask: Any = None
    """That of GDAL's mask of the image, which is not zero where it has values; None without."""
    reduced: tuple["Page", ...] = ()
    """Smaller copies, as in a cloud-optimised GeoTIFF."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:  # damaged tags may hold several numbers, which raises, too
            raise ValueError("the image has no pixels")

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

    @property
    def opacity_band(self) -> tuple[int | None, bool]:
        """The first band that is opacity, from 0, or None; True if the colours are multiplied by it."""
        extra = self.tags.extrasamples
        found = enumerate(extra, self.tags.samplesperpixel - len(extra))
        return next(((n, _ALPHA[kind]) for n, kind in found if kind in _ALPHA), (None, False))

    @property
    def suits_pillow(self) -> bool:
        """True for what is left to Pillow: palettes, fewer than 8 bits, and rarer compressions of these."""
        tags, bits = self.tags, np.max(self.tags.bitspersample)
        grey = tags.photometric in (_WHITE, _BLACK)
        if bits > 8 or tags.sampleformat != 1 or tags.samplesperpixel > (2 if grey else 4):
            return False
        try:
            check_page(self, "")
        except ImageError:
            return True
        return bool(bits < 8)


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
    first = pages[own[0]]
    if len(own) > 1 or first.imagedepth != 1:
        raise ImageError(f"{name}: {SEVERAL}")
    masks = {(page.subfiletype & 1, page.shape): page for page in pages if page.photometric == _MASK}
    kind = first.dtype, first.samplesperpixel
    reduced = [
        Page(number, page, masks.get((1, page.shape[:2])))
        for number, page in enumerate(pages)
        if page.subfiletype == 1 and (page.dtype, page.samplesperpixel) == kind
    ]
    mask = masks.get((0, (first.imagelength, first.imagewidth)))
    return Page(own[0], first, mask, tuple(reduced))


def check_page(page: Page, name: str) -> None:
    """Raise `ImageError` for what is not read here: types, colours and compressions."""
    tags = page.tags
    kind, bits = (tags.dtype.kind if tags.dtype else ""), tags.bitspersample
    if not kind or kind not in "uif" or (kind != "u" and bits != 8 * tags.dtype.itemsize):
        raise ImageError(f"{name}: values of {bits} bits ({tags.dtype}) are not supported; save it with 16")
    jpeg = tags.compression == _JPEG and bits == 8 and tags.samplesperpixel in (1, 3)
    if tags.photometric not in (_WHITE, _BLACK, _RGB) and not (jpeg and tags.photometric == _YCBCR):
        kind = getattr(tags.photometric, "name", tags.photometric)
        raise ImageError(f"{name}: colour mode {kind} is not supported; convert it to RGB or grey first")
    if not (jpeg or tags.compression in _COMPRESSIONS) or tags.fillorder != 1:
        kind = getattr(tags.compression, "name", tags.compression)
        raise ImageError(f"{name}: compression {kind} of such values is not supported; save it with LZW")


def read_page(
    page: Page,
    file: IO[bytes],
    bands: tuple[int, ...] | Literal["all"] | None,
    name: str,
    window: Window | None = None,
    kept: Segments | None = None,
) -> Values:
    """Read bands of a window: those chosen, all but opacity, or the file's colours with its opacity."""
    tags, count = page.tags, page.tags.samplesperpixel
    if window is None:
        check_size(*page.size, name)
        window = (0, 0, *page.size)
    check_page(page, name)
    alpha, premultiplied = (None, False) if isinstance(bands, tuple) else page.opacity_band
    free = [band for band in range(count) if band != alpha]
    if bands is None and tags.photometric in (_RGB, _YCBCR) and count >= 3:
        chosen = [0, 1, 2]
    elif bands == "all":
        chosen = free
    else:
        chosen = [free[place] for place in choose_bands(len(free), bands, name)]
    used = chosen if alpha is None else [*chosen, alpha]
    if window[2] * window[3] * len(used) * tags.dtype.itemsize > _LARGEST:
        raise ImageError(f"{name}: over 1 GiB of values; choose one band (--bands 1), or reduce it first")
    array = _read(tags, file, used, window, kept)
    whole = bands == "all" or (bands is None and len(used) == count)
    return Values(
        array[:, :, : len(chosen)],
        None if alpha is None else opacity(array[:, :, -1]),
        premultiplied,
        tags.photometric == _WHITE,
        page.nodata,
        "" if whole else f"bands {', '.join(str(band + 1) for band in chosen)} of {count}",
        None if page.mask is None else _read(page.mask, file, [0], window, kept)[:, :, 0] != 0,
    )


def _read(
    tags: Any, file: IO[bytes], bands: list[int], window: Window, kept: Segments | None
) -> NDArray[Any]:
    """(H, W, bands) of a window."""
    (width, height), samples = (tags.imagewidth, tags.imagelength), tags.samplesperpixel
    left, top, wide, high = window
    across, down = (tags.tilewidth, tags.tilelength) if tags.is_tiled else (width, tags.rowsperstrip)
    columns, rows = -(-width // across), -(-height // down)
    if columns * across * rows * down > 2 * max(MAX_PIXELS, width * height):
        raise ValueError("tiles much larger than the image")
    lines = range(top // down, -(-(top + high) // down))
    touched = list(product(lines, range(left // across, -(-(left + wide) // across))))
    if len(touched) > _MOST_SEGMENTS:
        raise ValueError(f"{len(touched)} strips or tiles")
    planes = samples if tags.planarconfig == 2 else 1
    if len(tags.dataoffsets) < columns * rows * planes or len(tags.databytecounts) < columns * rows * planes:
        raise ValueError("strips or tiles are missing")
    array = np.zeros((high, wide, len(bands)), tags.dtype)
    end = file.seek(0, io.SEEK_END)
    plain = tags.compression == 1 and tags.predictor == 1  # of which rows can be read alone
    line = -(-across * (samples // planes) * int(tags.bitspersample) // 8)  # bytes of a row
    for plane in range(planes):
        # places in the array, and the samples of a segment that go there
        pairs = [(n, band * (planes == 1)) for n, band in enumerate(bands) if planes == 1 or band == plane]
        for row, column in touched if pairs else ():
            y, x, number = row * down, column * across, (plane * rows + row) * columns + column
            first, last = 0, down if tags.is_tiled else min(down, height - y)
            if plain:
                first, last = max(top - y, 0), min(top + high - y, last)
            shape = last - first, across, samples // planes
            part = kept.pop((tags.index, number), None) if kept else None
            if part is None and tags.databytecounts[number]:
                file.seek(tags.dataoffsets[number] + first * line)
                length = min(tags.databytecounts[number] - first * line, end)
                data = file.read(max(min(length, shape[0] * line) if plain else length, 0))
                part = _segment(tags, data, shape)
            elif part is None:  # GDAL leaves out what is empty
                part = np.broadcast_to(tags.dtype.type(tags.nodata), shape)
            if kept is not None and not plain:
                kept[tags.index, number] = part
                while len(kept) > 1 and len(kept) * part.nbytes > _KEPT:
                    del kept[next(iter(kept))]
            x0, x1 = max(x, left), min(x + across, left + wide)
            y0, y1 = max(y + first, top), min(y + last, top + high)
            cut = part[y0 - y - first : y1 - y - first, x0 - x : x1 - x]
            for n, band in pairs:
                array[y0 - top : y1 - top, x0 - left : x1 - left, n] = cut[:, :, band]
    return array


def _segment(tags: Any, data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Decode a strip or tile of (rows, columns, samples)."""
    rows, columns, samples = shape
    bits = int(tags.bitspersample)
    wide = -(-columns * samples * bits // 8)  # bytes of a row
    if tags.compression != 1:
        if wide * rows > _LARGEST:
            raise ValueError(f"a strip or tile of {wide * rows} bytes")
        data = _decompressed(data, tags, wide, shape)
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


def _decompressed(data: bytes, tags: Any, wide: int, shape: tuple[int, int, int]) -> bytes:
    """Decompress by libtiff: as the one strip of a grey image of 8 bits, JPEG with its colours."""
    rows, columns, samples = shape if (jpeg := tags.compression == _JPEG) else (shape[0], wide, 1)
    colours = int(tags.photometric) if samples == 3 else _BLACK
    # size, bits, compression, photometric interpretation, offset, samples, rows, bytes
    known = {256: columns, 257: rows, 258: 8, 259: int(tags.compression), 262: colours, 273: 8, 277: samples}
    known |= {278: rows, 279: len(data)}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in known.items()]
    data += bytes(len(data) % 2)
    if jpeg:  # tables that tiles share, and how the colours are subsampled
        tables = tags.jpegtables or b""
        entries += [struct.pack("<HHII", 347, 7, len(tables), 8 + len(data))] if tables else []
        entries += [struct.pack("<HHIHH", 530, 3, 2, *(tags.subsampling or (1, 1)))]
        data += tables + bytes(len(tables) % 2)
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    whole = header + data + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(whole)) as picture:
        return picture.tobytes()

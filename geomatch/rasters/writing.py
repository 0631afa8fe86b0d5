"""Pictures written block by block, whole or not at all."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.images import MAX_PIXELS
from geomatch.rasters.maps import Georeference, geotiff_tags
from geomatch.rasters.warping import Block

_TILE = 256
_LEVEL = 3  # of deflate: larger ones take several times as long for some hundredths


def suffix_for(dtype: DTypeLike, bands: int, size: tuple[int, int]) -> str:
    """``.png`` for what programs that show pictures read, else ``.tif``."""
    plain = np.dtype(dtype) in (np.uint8, np.uint16) and bands in (1, 3)
    return ".png" if plain and size[0] * size[1] <= MAX_PIXELS else ".tif"


def write_raster(
    path: str | os.PathLike[str],
    blocks: Iterable[Block],
    size: tuple[int, int],
    bands: int,
    dtype: DTypeLike,
    georeference: Georeference | None = None,
) -> None:
    """Write a picture and its opacity as a last band.

    ``.png`` has 8 or 16 bits and one band or three; ``.tif`` anything, in compressed tiles. Of the picture no
    more than a row of blocks is in memory.

    Args:
        path: the file; the suffix decides the format.
        blocks: of the picture, row by row, each row of one height.
        size: (width, height) in pixels.
        bands: number of bands, without the opacity.
        dtype: type of the values.
        georeference: that of the picture, which must be a TIFF; needs the extra ``geo``.

    Raises `GeomatchError` for a format that does not hold such values, OSError when it cannot be written.
    """
    kind, suffix = np.dtype(dtype), Path(path).suffix.lower()
    if suffix == ".png" and (suffix_for(kind, bands, (1, 1)) != ".png" or georeference is not None):
        what = "georeference" if georeference is not None else f"values of {kind} in {bands} bands"
        raise GeomatchError(f"{path}: PNG holds no {what}; name the file .tif")
    if suffix not in (".png", ".tif", ".tiff"):
        raise GeomatchError(f"{path}: pictures at full depth are written as .png or .tif")
    rows = _rows(blocks, size, bands, kind)
    tags = [] if georeference is None else geotiff_tags(georeference)
    with replacing(path) as temporary:
        (_write_png if suffix == ".png" else _write_tiff)(temporary, rows, size, bands, kind, tags)


def _rows(
    blocks: Iterable[Block], size: tuple[int, int], bands: int, dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Rows of blocks (h, width, bands + 1), the last band the opacity from 0 to the most of integers, or 1."""
    row, top, filled = np.empty(0, dtype), 0, 0
    for block in blocks:
        (height, width), left = block.opacity.shape, block.left
        if not filled:
            row = np.empty((height, size[0], bands + 1), dtype)
        if (block.top, left, height) != (top, filled, len(row)) or left + width > size[0]:
            raise ValueError(f"a block at {(left, block.top)}, where one at {(filled, top)} should follow")
        row[:, left : left + width, :-1] = block.values
        most = 1 if dtype.kind == "f" else np.iinfo(dtype).max
        opaque = block.opacity.astype(np.float64) * most
        row[:, left : left + width, -1] = opaque if dtype.kind == "f" else np.rint(opaque)
        filled += width
        if filled == size[0]:
            yield row
            top, filled = top + height, 0
    if top != size[1]:
        raise ValueError(f"blocks of {top} rows for a picture of {size[1]}")


def _write_png(
    path: Path, rows: Iterator[NDArray[Any]], size: tuple[int, int], bands: int, dtype: np.dtype[Any], _: Any
) -> None:
    """By the specification (W3C, 2003): OpenCV writes no opacity with grey, Pillow no colours of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    above = np.zeros((1, size[0] * (bands + 1) * dtype.itemsize), np.uint8)
    compressor = zlib.compressobj(_LEVEL)
    with path.open("wb") as file:
        header = struct.pack(">IIBBBBB", *size, 8 * dtype.itemsize, 4 if bands == 1 else 6, 0, 0, 0)
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        for row in rows:
            lines = np.ascontiguousarray(row, dtype.newbyteorder(">")).reshape(len(row), -1).view(np.uint8)
            differences = lines - np.concatenate([above, lines[:-1]])  # filter 2: to the row above
            above = lines[-1:]
            filtered = np.pad(differences, ((0, 0), (1, 0)), constant_values=2)
            file.write(chunk(b"IDAT", compressor.compress(filtered.tobytes())))
        file.write(chunk(b"IDAT", compressor.flush()) + chunk(b"IEND", b""))


def _write_tiff(
    path: Path,
    rows: Iterator[NDArray[Any]],
    size: tuple[int, int],
    bands: int,
    dtype: np.dtype[Any],
    tags: list[Any],
) -> None:
    import tifffile

    shape = size[1], size[0], bands + 1
    large = size[0] * size[1] * (bands + 1) * dtype.itemsize > 2**32 - 2**27  # offsets have 32 bits
    with tifffile.TiffWriter(path, bigtiff=large) as tif:
        tif.write(
            _tiles(rows),
            shape=shape,
            dtype=dtype,
            tile=(_TILE, _TILE),
            photometric="rgb" if bands == 3 else "minisblack",
            planarconfig="contig",
            extrasamples=[*[0] * (0 if bands == 3 else bands - 1), 2],
            compression="zlib",
            compressionargs={"level": _LEVEL},
            predictor=2 if dtype.kind in "ui" else None,
            extratags=tags,
            metadata=None,
            software="geomatch",
        )


def _tiles(rows: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Tiles in their order, filled up with zeros."""

    def cut(part: NDArray[Any]) -> Iterator[NDArray[Any]]:
        for left in range(0, part.shape[1], _TILE):
            tile = np.zeros((_TILE, _TILE, part.shape[2]), part.dtype)
            found = part[:, left : left + _TILE]
            tile[: found.shape[0], : found.shape[1]] = found
            yield tile

    rest: NDArray[Any] | None = None
    for row in rows:
        rest = row if rest is None else np.concatenate([rest, row])
        while len(rest) >= _TILE:
            yield from cut(rest[:_TILE])
            rest = rest[_TILE:]
    if rest is not None and len(rest):
        yield from cut(rest)

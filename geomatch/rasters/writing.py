"""Pictures written block by block, whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.images import MAX_PIXELS
from geomatch.rasters.maps import Georeference, geotiff_tags
from geomatch.rasters.warping import Block

_TILE = 256
_LEVEL = 1  # of deflate: 3 takes twice as long for files smaller by a seventh


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
    """Write a picture and its opacity as a last band; of a TIFF two rows of blocks are in memory.

    Args:
        path: ``.png`` has 8 or 16 bits and one band, written as three, or three; ``.tif`` anything, in
            compressed tiles.
        blocks: of the picture, row by row, each row of one height.
        size: (width, height) in pixels.
        bands: number of bands, without the opacity.
        dtype: type of the values.
        georeference: that of the picture, which must be a TIFF; needs the extra ``geo``.

    Raises `GeomatchError` for a format that does not hold such values, OSError when it cannot be written.
    """
    dtype, suffix = np.dtype(dtype), Path(path).suffix.lower()
    if suffix == ".png" and (suffix_for(dtype, bands, size) != ".png" or georeference is not None):
        what = (
            f"{size[0]} x {size[1]} x {bands} values of {dtype}" if georeference is None else "georeference"
        )
        raise GeomatchError(f"{path}: PNG holds no {what}; name the file .tif")
    if suffix not in (".png", ".tif", ".tiff"):
        raise GeomatchError(f"{path}: pictures at full depth are written as .png or .tif")
    tags = [] if georeference is None else geotiff_tags(georeference)
    rows, shape = _rows(blocks, size, bands, dtype), (size[1], size[0], bands + 1)
    with replacing(path) as temporary:
        if suffix == ".png":
            order = [2, 1, 0, 3] if bands == 3 else [0, 0, 0, 1]  # OpenCV writes no opacity with grey alone
            _, code = cv2.imencode(".png", np.concatenate(list(rows))[:, :, order])
            temporary.write_bytes(code.tobytes())
            return
        import tifffile

        large = size[0] * size[1] * shape[2] * dtype.itemsize > 4e9  # offsets of 32 bits end at 4 GiB
        with tifffile.TiffWriter(temporary, bigtiff=large) as tif:
            tif.write(
                _tiles(rows),
                shape=shape,
                dtype=dtype,
                tile=(_TILE, _TILE),
                photometric="rgb" if bands == 3 else "minisblack",
                planarconfig="contig",
                extrasamples=[2] if bands == 3 else [0] * (bands - 1) + [2],  # opacity, not multiplied
                compression="zlib",
                compressionargs={"level": _LEVEL},
                predictor=2 if dtype.kind in "ui" else None,
                extratags=tags,
                metadata=None,
                software="geomatch",
            )


def _rows(
    blocks: Iterable[Block], size: tuple[int, int], bands: int, dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Rows of blocks (h, width, bands + 1); the last band is opacity, from 0 to the type's most, or to 1."""
    row, top, filled = np.empty(0, dtype), 0, 0
    for block in blocks:
        height, width = block.opacity.shape
        row = row if filled else np.empty((height, size[0], bands + 1), dtype)
        stop = filled + width
        if (block.top, block.left, height) != (top, filled, len(row)) or stop > size[0]:
            where = block.left, block.top
            raise ValueError(f"a block at {where}, where one at {(filled, top)} should follow")
        opaque = block.opacity if dtype.kind == "f" else np.rint(block.opacity * float(np.iinfo(dtype).max))
        row[:, filled:stop, :-1], row[:, filled:stop, -1] = block.values, opaque
        filled = stop % size[0]
        if not filled:
            yield row
            top += height
    if top != size[1]:
        raise ValueError(f"blocks of {top} rows for a picture of {size[1]}")


def _tiles(rows: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Tiles in their order, filled up with zeros."""
    rest = next(rows)
    while len(rest):
        while len(rest) < _TILE and (row := next(rows, None)) is not None:
            rest = np.concatenate([rest, row])
        for left in range(0, rest.shape[1], _TILE):
            part = rest[:_TILE, left : left + _TILE]
            yield np.pad(part, ((0, _TILE - part.shape[0]), (0, _TILE - part.shape[1]), (0, 0)))
        rest = rest[_TILE:]
        if not len(rest):
            rest = next(rows, rest)

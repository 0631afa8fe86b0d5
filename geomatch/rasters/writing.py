"""Pictures written block by block, whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.images import MAX_PIXELS
from geomatch.rasters.maps import Georeference, geotiff_tags
from geomatch.rasters.warping import BLOCK, Block

_LEVEL = 1  # of deflate: 3 takes twice as long for files smaller by a seventh


def suffix_for(dtype: DTypeLike, bands: int, size: tuple[int, int]) -> str:
    """``.png`` for what programs that show pictures read, and is not too large for memory, else ``.tif``."""
    plain = np.dtype(dtype) in (np.uint8, np.uint16) and bands in (1, 3)
    return ".png" if plain and size[0] * size[1] * np.dtype(dtype).itemsize <= MAX_PIXELS else ".tif"


def write_raster(
    path: str | os.PathLike[str],
    blocks: Iterable[Block],
    size: tuple[int, int],
    bands: int,
    dtype: DTypeLike,
    georeference: Georeference | None = None,
) -> None:
    """Write a picture and its opacity as a last band; of a TIFF one block is in memory.

    Args:
        path: ``.png`` has 8 or 16 bits and one band, written as three, or three; ``.tif`` anything, in
            compressed tiles.
        blocks: of the picture, as `warp_blocks` makes them.
        size: (width, height) in pixels.
        bands: number of bands, without the opacity.
        dtype: type of the values.
        georeference: that of the picture, which must be a TIFF; needs the extra ``geo``.

    Raises `GeomatchError` for a format that does not hold such values, OSError when it cannot be written.
    """
    dtype, suffix = np.dtype(dtype), Path(path).suffix.lower()
    if suffix == ".png" and (suffix_for(dtype, bands, size) != ".png" or georeference is not None):
        what = "georeference" if georeference else f"{size[0]} x {size[1]} x {bands} values of {dtype}"
        raise GeomatchError(f"{path}: PNG holds no {what}; name the file .tif")
    if suffix not in (".png", ".tif", ".tiff"):
        raise GeomatchError(f"{path}: pictures at full depth are written as .png or .tif")
    tags = [] if georeference is None else geotiff_tags(georeference)
    shape = (size[1], size[0], bands + 1)
    with replacing(path) as temporary:
        if suffix == ".png":
            order = [2, 1, 0, 3] if bands == 3 else [0, 0, 0, 1]  # OpenCV writes no opacity with grey alone
            whole = np.empty(shape, dtype)
            for block in blocks:
                part = _layered(block, dtype)
                whole[block.top :, block.left :][: part.shape[0], : part.shape[1]] = part
            _, code = cv2.imencode(".png", whole[:, :, order])
            temporary.write_bytes(code.data)
            return
        import tifffile

        parts = (_layered(block, dtype) for block in blocks)
        large = size[0] * size[1] * shape[2] * dtype.itemsize > 4e9  # offsets of 32 bits end at 4 GiB
        with tifffile.TiffWriter(temporary, bigtiff=large) as tif:
            tif.write(
                (np.pad(own, [(0, BLOCK - n) for n in own.shape[:2]] + [(0, 0)]) for own in parts),
                shape=shape,
                dtype=dtype,
                tile=(BLOCK, BLOCK),
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


def _layered(block: Block, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(h, w, bands + 1); the last band is opacity, from 0 to the type's most, or to 1."""
    opaque = block.opacity if dtype.kind == "f" else np.rint(block.opacity * float(np.iinfo(dtype).max))
    return np.dstack([block.values, opaque.astype(dtype)])

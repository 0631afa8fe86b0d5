"""The pictures of a registration: an image warped onto a frame at full depth, and a page to judge it by."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.files import make_folder, write_whole
from geomatch.geometry import resize_homography, shift_homography, warp_points
from geomatch.images import READING, Reading
from geomatch.rasters.maps import georeference_of
from geomatch.rasters.reading import Raster, open_raster
from geomatch.rasters.warping import Interpolation, Send, canvas_of, through, warp_blocks
from geomatch.rasters.writing import suffix_for, write_raster

Pair = tuple[str, str]
"""Names of the reference and of the image that is warped onto it."""
PICTURES, PREVIEWS = "warped", "previews"
_SIDE = 1000  # long side of the previews in pixels
_SQUARES = 8  # of a checkerboard, along its long side


@dataclass(frozen=True, slots=True)
class Output:
    """What is written of a registration."""

    interpolation: Interpolation = "linear"
    canvas: Literal["reference", "union"] = "reference"
    """The reference's frame, or one that has room for the whole warped image, too."""
    inverse: bool = False
    """Warp the reference onto the image."""
    suffix: Literal["png", "tif"] | None = None
    """None takes PNG for 8 and 16 bits and one or three bands, TIFF for all else, and for maps."""
    pages: bool = True
    """Write index.html, where image and reference flicker, and checkerboards of both."""


OUTPUT = Output()


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """Where images come from, and where their pictures go."""

    folder: Path
    """Folder of the images, below which their names lie."""
    out: Path
    """Folder of the results."""
    names: Mapping[Pair, str]
    """What the pictures of a pair are called, without suffix."""
    reading: Reading = READING
    output: Output = OUTPUT
    canvas: tuple[tuple[int, int], tuple[int, int]] | None = None
    """One for all: (width, height), and the point of the reference at its first pixel."""


def write_warped(target: Target, pair: Pair, matrix: NDArray[np.float64]) -> tuple[str, tuple[int, int]]:
    """Warp the image of a pair onto its reference, from whose pixels the matrix (3, 3) leads to its own.

    Returns the picture's path below the results, and where its first pixel lies in the frame. Raises
    `GeomatchError` when an image cannot be read, or the canvas would be too large.
    """
    output, name = target.output, target.names[pair]
    opened = [partial(open_raster, target.folder / one, apply_exif=target.reading.apply_exif) for one in pair]
    with opened[0]() as reference, opened[1]() as image:
        there = through(matrix, image.size)
        back = through(np.linalg.inv(matrix), reference.size)
        frame, moved = (image, reference) if output.inverse else (reference, image)
        send, outline = (back, there) if output.inverse else (there, back)
        size, offset = target.canvas or canvas_of(frame.size, [(moved.size, outline)], output.canvas)
        place = georeference_of(frame)
        usual = "tif" if place else suffix_for(moved.dtype, moved.bands, size)[1:]
        path = target.out / PICTURES / f"{name}.{output.suffix or usual}"
        make_folder(path.parent)
        blocks = warp_blocks(moved, send, size, output.interpolation, offset)
        shifted = place.shifted(offset) if place and path.suffix == ".tif" else None
        write_raster(path, blocks, size, moved.bands, moved.dtype, shifted)
        if output.pages:
            with open_raster(path) as warped:
                write_previews(target, name, (frame, moved, warped), offset, send)
    return path.relative_to(target.out).as_posix(), offset


def write_previews(
    target: Target, name: str, rasters: tuple[Raster, Raster, Raster], offset: tuple[int, int], send: Send
) -> None:
    """Write the frame, the picture warped onto it and a checkerboard of both, as the page shows them.

    ``rasters`` are the frame, the image, and the image warped, whose first pixel lies at ``offset`` of the
    frame; ``send`` says where points of the frame lie in the image.
    """
    (frame, image, warped), conversion = rasters, target.reading.conversion
    shown = warped.overview(_SIDE, conversion)
    plain = frame.overview(_SIDE, conversion)
    to_shown = resize_homography(warped.size, shown.size) @ shift_homography(-offset[0], -offset[1])
    placed = (to_shown @ resize_homography(plain.size, frame.size))[:2]
    border: Any = (255, 255, 255)
    behind = cv2.warpAffine(plain.pixels, placed, shown.size, flags=cv2.INTER_LINEAR, borderValue=border)
    rows, columns = np.mgrid[: shown.size[1], : shown.size[0]]
    points = warp_points(np.linalg.inv(to_shown), np.stack([columns, rows], axis=-1).reshape(-1, 2))
    with np.errstate(invalid="ignore"):
        places = send(points)
        seen = ((places >= -0.5) & (places <= np.array(image.size) - 0.5)).all(axis=1).reshape(rows.shape)
    square = max(shown.size) / _SQUARES
    chosen = seen & ((rows // square + columns // square) % 2 < 1)
    pictures = {
        "frame": np.asarray(behind),
        "warped": np.where(seen[:, :, None], shown.pixels, 255),
        "checkerboard": np.where(chosen[:, :, None], shown.pixels, behind),
    }
    for kind, pixels in pictures.items():
        path = target.out / PREVIEWS / f"{name}.{kind}.jpg"
        make_folder(path.parent)
        _, code = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1], np.uint8))
        write_whole(path, code.tobytes())

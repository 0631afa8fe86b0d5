"""The picture of one registration: an image warped onto a frame at full depth."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geomatch.files import make_folder
from geomatch.images import READING, Reading
from geomatch.rasters.maps import georeference_of
from geomatch.rasters.reading import open_raster
from geomatch.rasters.warping import Interpolation, canvas_of, through, warp_blocks
from geomatch.rasters.writing import suffix_for, write_raster
from geomatch.registration.pages import write_previews
from geomatch.types import HomographyEstimate

Pair = tuple[str, str]
"""Names of the reference and of the image that is warped onto it."""
PICTURES = "warped"


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


def estimate_of(line: dict[str, Any]) -> HomographyEstimate | None:
    """The estimate of a line that `match_list` gave."""
    if line["reason"] is not None:
        return None
    given: dict[str, Any] = {name: line.get(name) for name in ("corner_deviations", "covariance", "score")}
    matrix, inliers = np.array(line["homography"]), np.array(line["inliers"], np.bool_)
    return HomographyEstimate(matrix, inliers, model=line["model"], **given)


def write_warped(target: Target, pair: Pair, found: HomographyEstimate) -> tuple[str, tuple[int, int]]:
    """Warp the image of a pair onto its reference.

    Returns the picture's path below the results, and where its first pixel lies in the frame. Raises
    `GeomatchError` when an image cannot be read, or the canvas would be too large.
    """
    output, name = target.output, target.names[pair]
    opened = [partial(open_raster, target.folder / one, apply_exif=target.reading.apply_exif) for one in pair]
    with opened[0]() as reference, opened[1]() as image:
        there = through(found.matrix, image.size)
        back = through(np.linalg.inv(found.matrix), reference.size)
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
                rasters = frame, moved, warped
                write_previews(target.out, name, rasters, offset, send, target.reading.conversion)
    return path.relative_to(target.out).as_posix(), offset

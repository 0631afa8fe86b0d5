"""Pictures to judge registrations by: both images in turn, and a checkerboard of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geomatch.files import make_folder, write_whole
from geomatch.images import Conversion
from geomatch.rasters.reading import Raster
from geomatch.rasters.warping import Send

SIDE = 1000
"""Long side of the pictures in pixels."""
_SQUARES = 8  # of a checkerboard, along its long side
PAGE, FOLDER = "index.html", "previews"


def write_previews(
    out: Path,
    name: str,
    rasters: tuple[Raster, Raster, Raster],
    offset: tuple[int, int],
    send: Send,
    conversion: Conversion,
) -> None:
    """Write the frame, the picture warped onto it and a checkerboard of both, as the page shows them.

    ``rasters`` are the frame, the image, and the image warped, whose first pixel lies at ``offset`` of the
    frame; ``send`` says where points of the frame lie in the image.
    """
    frame, image, warped = rasters
    shown = warped.overview(SIDE, conversion)
    scale = np.array(shown.size) / warped.size
    plain = frame.overview(SIDE, conversion)
    zoom = scale * frame.size / plain.size
    # pixels are areas: (x + 0.5) times the scale
    placed = np.array([[zoom[0], 0, -offset[0] * scale[0]], [0, zoom[1], -offset[1] * scale[1]]])
    placed[:, 2] += 0.5 * zoom - 0.5
    border: Any = (255, 255, 255)
    behind = cv2.warpAffine(plain.pixels, placed, shown.size, flags=cv2.INTER_LINEAR, borderValue=border)
    rows, columns = np.mgrid[: shown.size[1], : shown.size[0]]
    points = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) / scale - 0.5 + offset
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
        path = out / FOLDER / f"{name}.{kind}.jpg"
        make_folder(path.parent)
        _, code = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1], np.uint8))
        write_whole(path, code.tobytes())


def write_index(out: Path, rows: Sequence[Mapping[str, Any]], frame: str) -> None:
    """Write the page; rows are registrations, of which the ``frame``, reference or image, was not warped."""
    page = (Path(__file__).parent / "index.html").read_text(encoding="utf-8")
    data = json.dumps(list(rows)).replace("<", "\\u003c")
    page = page.replace('/*FRAME*/"reference"', json.dumps(frame))
    write_whole(out / PAGE, page.replace("/*ROWS*/[]", data))

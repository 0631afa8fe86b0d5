"""Pictures inside a page."""

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.drawing.pairs import RIGHT, WRONG, draw_lines
from geomatch.images import load_image

SIDE = 420  # long side of each image of a pair


def draw_points(
    paths: tuple[Path, Path],
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    right: NDArray[np.bool_],
) -> str:
    """Points (N, 2) of two images joined, green where ``right`` (N,), red elsewhere: a JPEG's data URL."""
    groups = [(points0[~right], points1[~right], WRONG), (points0[right], points1[right], RIGHT)]
    rgb = draw_lines(load_image(paths[0]), load_image(paths[1]), groups, SIDE)
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 72])
    return "data:image/jpeg;base64," + base64.b64encode(np.asarray(coded).tobytes()).decode()

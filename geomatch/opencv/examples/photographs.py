"""Reading the photographs that the scripts are given."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch


def read_two(parser: ArgumentParser, paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Two photographs as OpenCV reads them, BGR; the parser reports what is wrong."""
    if len(paths) != 2:
        parser.error("give two photographs, or none for the bundled ones")
    photos = []
    for path in paths:
        photo = cv2.imread(str(path))
        if photo is None:
            parser.error(f"cannot read {path} as an image")
        photos.append(np.asarray(photo, np.uint8))
    return photos


def bundled_photographs() -> list[NDArray[np.uint8]]:
    """The two that come with geomatch, BGR."""
    pair = geomatch.bundled_pair()
    return [np.asarray(cv2.imread(str(path)), np.uint8) for path in (pair.image0, pair.image1)]

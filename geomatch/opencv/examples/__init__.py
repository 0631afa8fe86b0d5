"""Examples, each a script: ``python -m geomatch.opencv.examples.find_object``."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch

Photo = NDArray[np.uint8]
"""(H, W, 3) BGR."""


def read_photographs(parser: ArgumentParser, paths: Sequence[Path]) -> list[Photo]:
    """The parser reports what cannot be read."""
    photos = []
    for path in paths:
        photo = cv2.imread(str(path))
        if photo is None:
            parser.error(f"cannot read {path} as an image")
        photos.append(np.asarray(photo, np.uint8))
    return photos


def bundled_photographs() -> list[Photo]:
    """The two that come with geomatch."""
    pair = geomatch.bundled_pair()
    return read_photographs(ArgumentParser(), [pair.image0, pair.image1])

"""The pair of photographs that comes with the package."""

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class BundledPair:
    """One openly licensed photograph, and a second view rendered from it in another light."""

    image0: Path
    image1: Path
    homography: NDArray[np.float64]
    """(3, 3) the true homography from image 0 to image 1."""
    credit: str
    """Author, title, source and licence."""


def bundled_pair() -> BundledPair:
    """The demo pair."""
    folder = Path(str(importlib.resources.files("geomatch.demo")))
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    matrix = np.array(truth["homography"], dtype=np.float64)
    return BundledPair(folder / "image0.jpg", folder / "image1.jpg", matrix, truth["credit"])

"""The pairs of photographs that come with the package."""

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class BundledPair:
    """Two openly licensed views of one place."""

    image0: Path
    image1: Path
    homography: NDArray[np.float64]
    """(3, 3) the true homography from image 0 to image 1."""
    credit: str
    """Author, title, source and licence."""


_FOLDER = Path(str(importlib.resources.files("geomatch.demo")))


def bundled_pair() -> BundledPair:
    """A photograph, and a view rendered from it in another light."""
    truth = json.loads((_FOLDER / "truth.json").read_text(encoding="utf-8"))
    matrix = np.array(truth["homography"], dtype=np.float64)
    return BundledPair(_FOLDER / "image0.jpg", _FOLDER / "image1.jpg", matrix, truth["credit"])


def real_pair() -> BundledPair:
    """Two photographs of one building, from two places; ``homography`` is NaN: nobody knows it."""
    credit = "Château Maupertuis, (c) 2020 NAVER Corp., from kapture 1.1.12, BSD 3-Clause"
    return BundledPair(_FOLDER / "chateau1.jpg", _FOLDER / "chateau3.jpg", np.full((3, 3), np.nan), credit)

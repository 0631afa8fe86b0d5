"""Data sets in the layout of the HPatches sequences.

A sequence is a folder with the images ``1`` to ``6`` (``.ppm``, or another
format) and text files ``H_1_2`` to ``H_1_6``, 3 x 3 homographies from image 1
to the others. Names begin with ``i_`` (illumination) or ``v_`` (viewpoint).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError
from geomatch.files import fingerprint_of

SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class HPatchesSequence:
    """One sequence on disk."""

    folder: Path
    reference: Path
    """Image 1."""
    targets: tuple[tuple[str, Path, NDArray[np.float64]], ...]
    """Number, path, and homography (3, 3) from image 1, of the other images."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all images and homographies."""
        paths = [self.reference]
        for number, path, _ in self.targets:
            paths += [path, self.folder / f"H_1_{number}"]
        return fingerprint_of(paths)


def find_sequences(data: Path) -> list[HPatchesSequence]:
    """The sequences under a folder, in order of their names.

    Raises:
        GeomatchError: when there are none, or one is incomplete, naming what is missing.
    """
    if not data.is_dir():
        raise GeomatchError(f"{data}: no such folder")
    folders = sorted(path for path in data.iterdir() if path.is_dir() and (path / "H_1_2").is_file())
    if not folders:
        raise GeomatchError(
            f"{data}: no HPatches sequences there (folders with images 1 to 6 and H_1_2 to H_1_6)"
        )
    return [_read_sequence(folder) for folder in folders]


def _read_sequence(folder: Path) -> HPatchesSequence:
    numbers = sorted(path.name.removeprefix("H_1_") for path in folder.glob("H_1_*"))
    return HPatchesSequence(
        folder,
        _image(folder, "1"),
        tuple((number, _image(folder, number), _homography(folder / f"H_1_{number}")) for number in numbers),
    )


def _image(folder: Path, number: str) -> Path:
    for suffix in SUFFIXES:
        path = folder / f"{number}{suffix}"
        if path.is_file():
            return path
    raise GeomatchError(f"{folder}: image {number} is missing ({', '.join(SUFFIXES)})")


def _homography(path: Path) -> NDArray[np.float64]:
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise GeomatchError(f"{path}: no readable homography ({error})") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[2, 2] == 0:
        raise GeomatchError(f"{path}: expected a 3 x 3 homography, got shape {matrix.shape}")
    return matrix


def split_of(name: str) -> str:
    """``illumination``, ``viewpoint`` or ``other``, by the first letters of a sequence's name."""
    return {"i_": "illumination", "v_": "viewpoint"}.get(name[:2], "other")

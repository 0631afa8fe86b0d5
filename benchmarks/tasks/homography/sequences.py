"""Data sets in the layout of the HPatches sequences.

A sequence is a folder with the images ``1`` to ``6`` (``.ppm``, or another format) and text files ``H_1_2``
to ``H_1_6``, 3 x 3 homographies from image 1 to the others. Names begin with ``i_`` (illumination) or ``v_``
(viewpoint).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair
from geomatch.errors import GeomatchError, reading
from geomatch.files import fingerprint_of

SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")

_ILLUMINATION = """
ajuntament autannes bologna books boutique bridger brooklyn castle chestnuts contruction crownday
crownnight dc dome duda fenis fog fruits gonnenberg greenhouse greentea indiana kions ktirio kurhaus
leuven lionday lionnight londonbridge melon miniature nescafe nijmegen nuts objects parking
partyfood pencils pinard pool porta resort salon santuario school ski smurf steps table tools toy
troulos veggies village whitebuilding yellowtent zion
"""
_VIEWPOINT = """
abstract adam apprentices artisans astronautis azzola bark bees beyus bip bird birdwoman blueprint
boat bricks busstop calder cartooncity charing churchill circus coffeehouse colors courses dirtywall
dogman eastsouth feast fest gardens grace graffiti home laptop london machines man maskedman
pomegranate posters samples soldiers strand sunseason tabletop talent tempera there underground
vitro wall wapping war weapons woman wormhole wounded yard yuri
"""
SEQUENCES = tuple(f"i_{n}" for n in _ILLUMINATION.split()) + tuple(f"v_{n}" for n in _VIEWPOINT.split())
"""All 116 of the release (hpatches-benchmark, ``python/utils/splits.json``)."""
LARGE = frozenset(
    ["i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans",
     "v_astronautis", "v_talent"]
)  # fmt: skip
"""Those with images over 1600 x 1200, which D2-Net's protocol and its heirs leave out."""


@dataclass(frozen=True)
class HPatchesSequence:
    """One sequence on disk."""

    folder: Path
    reference: Path  # image 1
    targets: tuple[tuple[str, Path, NDArray[np.float64]], ...]
    """Number, path, and homography (3, 3) from image 1, of the other images."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def pairs(self) -> list[ImagePair]:
        """Image 1 with each of the others."""
        split = split_of(self.name)
        return [
            ImagePair(f"{self.name} 1-{number}", split, (self.reference, path), truth)
            for number, path, truth in self.targets
        ]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all images and homographies."""
        paths = [self.reference]
        for number, path, _ in self.targets:
            paths += [path, self.folder / f"H_1_{number}"]
        return fingerprint_of(paths)


def read_hpatches(folder: Path, split: str | None = None) -> DataSet[HPatchesSequence]:
    """The sequences under a folder, in order of their names; those that cannot be used, with the reason."""
    if split is not None:
        raise ValueError(f"hpatches has no splits, got {split!r}")
    if not folder.is_dir():
        raise GeomatchError(f"{folder}: no such folder")
    places = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("H_1_[2-6]")))
    if not places:
        raise GeomatchError(
            f"{folder}: no HPatches sequences there (folders with images 1 to 6 and H_1_2 to H_1_6)"
        )
    sequences, broken = [], {}
    for place in places:
        try:
            sequences.append(_read_sequence(place))
        except GeomatchError as error:
            broken[place.name] = str(error)
    if not sequences:
        raise GeomatchError(f"{folder}: no usable sequence; {next(iter(broken.values()))}")
    whole = {sequence.name for sequence in sequences if len(sequence.targets) == 5}
    missing = tuple(name for name in SEQUENCES if name not in whole)
    complete = not missing and not broken and len(sequences) == len(SEQUENCES)
    known = len(SEQUENCES) - len(missing)
    return DataSet(folder, sequences, broken, complete, missing=missing, known=known)


def _read_sequence(folder: Path) -> HPatchesSequence:
    numbers = sorted(path.name.removeprefix("H_1_") for path in folder.glob("H_1_[2-6]"))
    for image in sorted(folder.glob("[2-6].*")):
        if image.suffix in SUFFIXES and image.stem not in numbers:
            raise GeomatchError(f"{folder}: H_1_{image.stem} is missing")
    targets = ((number, _image(folder, number), _homography(folder / f"H_1_{number}")) for number in numbers)
    return HPatchesSequence(folder, _image(folder, "1"), tuple(targets))


def _image(folder: Path, number: str) -> Path:
    for suffix in SUFFIXES:
        path = folder / f"{number}{suffix}"
        if path.is_file():
            return path
    raise GeomatchError(f"{folder}: image {number} is missing ({', '.join(SUFFIXES)})")


def _homography(path: Path) -> NDArray[np.float64]:
    with reading(path, "homography"):
        lines = path.read_text(encoding="utf-8").splitlines()
        matrix = np.array([line.split() for line in lines if line.strip()], np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[2, 2] == 0:
        raise GeomatchError(f"{path}: expected a 3 x 3 homography, got shape {matrix.shape}")
    return matrix


def split_of(name: str) -> str:
    """``illumination``, ``viewpoint`` or ``other``, by the first letters of a sequence's name."""
    return {"i_": "illumination", "v_": "viewpoint"}.get(name[:2], "other")

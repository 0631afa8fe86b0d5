"""Data sets of planes: images with homographies between them, in the layouts of their releases.

A sequence of HPatches is a folder with the images ``1`` to ``6`` (``.ppm``, or another format) and text files
``H_1_2`` to ``H_1_6``, 3 x 3 homographies from image 1 to the others. Names begin with ``i_`` (illumination)
or ``v_`` (viewpoint).
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import (
    SUFFIXES,
    DataSet,
    chosen_split,
    find_image,
    read_lines,
    read_matrix,
)
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairScene
from geomatch.errors import GeomatchError
from geomatch.files import digest_of

_KINDS = {"i_": "illumination", "v_": "viewpoint"}  # splits, by how names begin
LARGE = frozenset(
    ["i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans",
     "v_astronautis", "v_talent"]
)  # fmt: skip
"""Those with images over 1600 x 1200, which D2-Net's protocol and its heirs leave out."""


class Listed(NamedTuple):
    """A pair of a data set; its images may lack their suffix."""

    scene: str
    label: str  # tells the pair within the scene
    image0: Path
    image1: Path
    truth: Path
    backwards: bool = False  # True if the truth sends image 1 to image 0


@dataclass(frozen=True)
class Layout:
    """How a data set lies in its folder."""

    title: str
    words: str  # what is expected there
    listed: Callable[[Path], Iterable[Listed]]  # by scene
    whole: int = 0  # scenes of the release, if there is one
    names: str = ""  # SHA-256 of the sorted list of their names
    pairs: int = 1  # of each scene


def _numbered(folder: Path, image: str, truth: str, end: str = "") -> Iterator[Listed]:
    pattern = re.compile(rf"{truth}([1-9]\d*){end}|{image}([1-9]\d*)({'|'.join(SUFFIXES)})")
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        names = [path.name for path in place.iterdir()]
        numbers = {int(own[1] or own[2]) for own in map(pattern.fullmatch, names) if own} - {1}
        for k in sorted(numbers) if any(name.startswith(truth) for name in names) else ():
            images = place / f"{image}1", place / f"{image}{k}"
            yield Listed(place.name, f"1-{k}", *images, place / f"{truth}{k}{end}")


def _evd(folder: Path) -> Iterator[Listed]:
    root = folder / "EVD" if (folder / "EVD").is_dir() else folder
    for name in sorted({path.stem for path in (*root.glob("h/*.txt"), *root.glob("1/*.png"))}):
        yield Listed(name, "1-2", root / "1" / name, root / "2" / name, root / "h" / f"{name}.txt")


def _homogr(folder: Path) -> Iterator[Listed]:
    for truth in sorted(folder.glob("*_model.txt")):
        name = truth.name.removesuffix("_model.txt")
        images = folder / f"{name}A", folder / f"{name}B"
        yield Listed(name, "A-B", *images, truth, True)


def _pairs(folder: Path) -> Iterator[Listed]:
    listed = folder if folder.is_file() else folder / "pairs.txt"
    if not listed.is_file():
        yield from _numbered(folder, "", "H_1_")
        return
    for count, line in enumerate(read_lines(listed), 1):
        words = line.partition("#")[0].split()
        if len(words) not in (0, 3):
            raise GeomatchError(f"{listed}, line {count}: expected IMAGE0 IMAGE1 HFILE, got {line!r}")
        if words:
            paths = [listed.parent / word for word in words]
            names = [os.path.relpath(path, listed.parent) for path in paths]  # where the list has no other
            yield Listed(names[0], names[1], paths[0], paths[1], paths[2])


_NUMBERED = "folders with images 1 to 6 and H_1_2 to H_1_6"
_OXFORD_WORDS = "NAME/img1.ppm to img6.ppm and NAME/H1to2p to H1to6p"
_EVD_WORDS = "EVD/1/NAME.png, EVD/2/NAME.png and EVD/h/NAME.txt"
LAYOUTS = {
    "hpatches": Layout("HPatches", _NUMBERED, partial(_numbered, image="", truth="H_1_"), 116,
                       "be21f03d2a9cadc393d94db563a9b5416fdc8047dd3eba782a82313166fe9b5f", 5),
    "evd": Layout("Extreme View Dataset", _EVD_WORDS, _evd, 15,
                  "2690744a78fb164109ab64c89e656decc98923aaa5e91536c5b896afb04e1e86"),
    "homogr": Layout("homogr", "NAMEA.png, NAMEB.png and NAME_model.txt", _homogr, 16,
                     "4fbc4038869e5f3495d5b52c4e0f3ded291c5b5c02b3975ef11bed821aa994da"),
    "oxford": Layout("Oxford-Affine", _OXFORD_WORDS, partial(_numbered, image="img", truth="H1to", end="p"),
                     8, "86ed3a66577c26f33dd845c1263841420ad833bfbd8bee08b7e4ce78de8c79ee", 5),
    "pairs": Layout("Pairs", "a list of lines IMAGE0 IMAGE1 HFILE, pairs.txt, or images 1, 2, H_1_2", _pairs),
}  # fmt: skip
"""By the names of their tasks."""


def read_planes(name: str, folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """The scenes of a data set in `LAYOUTS`, in order of their names; broken ones with the reason."""
    chosen_split(name, split)
    if not (folder.is_dir() or (name == "pairs" and folder.is_file())):
        raise GeomatchError(f"{folder}: no such folder")
    layout, found = LAYOUTS[name], dict[str, list[Listed]]()
    for one in layout.listed(folder):
        scene = re.sub(r"\s", "_", one.scene)  # rows name a pair by its scene, a space, and its label
        found.setdefault(scene, []).append(one)
    if not found:
        raise GeomatchError(f"{folder}: no {layout.title} there ({layout.words})")
    scenes, broken = [], {}
    for scene, listed in found.items():
        try:
            scenes.append(_scene(scene, listed, _KINDS.get(scene[:2], "other")))
        except GeomatchError as error:
            broken[scene] = str(error)
    if not scenes:
        raise GeomatchError(f"{folder}: no usable scene; {next(iter(broken.values()))}")
    named = digest_of(sorted(found)) == layout.names
    whole = named and not broken and all(len(scene.pairs) == layout.pairs for scene in scenes)
    return DataSet(folder, scenes, broken, whole or not layout.whole)


read_hpatches = partial(read_planes, "hpatches")


def _scene(name: str, listed: Sequence[Listed], split: str) -> PairScene:
    pairs, files = dict[str, ImagePair](), dict[Path, None]()
    for one in listed:
        paths = find_image(one.image0), find_image(one.image1)
        matrix = read_homography(one.truth)
        files |= dict.fromkeys([*paths, one.truth])
        if one.backwards:
            matrix = np.asarray(np.linalg.inv(matrix), np.float64)
        if one.label in pairs:
            raise GeomatchError(f"{name} {one.label} is listed twice")
        pairs[one.label] = ImagePair(f"{name} {one.label}", split, paths, matrix)
    return PairScene(name, tuple(pairs.values()), tuple(files))


def read_homography(path: Path) -> NDArray[np.float64]:
    """(3, 3) from a text file; raises `GeomatchError`, naming it, for anything else and for singular ones."""
    matrix = read_matrix(path, "homography", 3)
    if matrix.shape != (3, 3) or matrix[2, 2] == 0 or np.linalg.matrix_rank(matrix) < 3:
        raise GeomatchError(f"{path}: expected a homography, 3 x 3 and not singular, got {matrix.tolist()}")
    return matrix

"""DAVIS-2017 (Pont-Tuset et al., 2017) as its archives unpack, at 480p.

``ImageSets/2017/<split>.txt`` lists the videos, ``JPEGImages/480p/<video>/00000.jpg`` are their frames,
``Annotations/480p/<video>/00000.png`` palettes whose indices are objects. The field evaluates ``val``: 30
videos, 61 objects.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, absent, chosen_split, read_words, sums_of
from geomatch.errors import GeomatchError
from geomatch.files import digest_of
from geomatch.images import open_image

SPLITS = {"val": 30, "train": 60}  # numbers of videos of the splits with public annotations
VOID = 255  # index of pixels that belong to nothing; here background, as the official evaluation has it


@dataclass(frozen=True, eq=False)
class MaskedVideo:
    """One video with the objects of every frame; what is evaluated alone."""

    name: str
    frames: tuple[Path, ...]  # in order; some may be missing
    masks: tuple[Path, ...]  # one per frame

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over frames and masks; a missing frame counts as missing."""
        return digest_of([self.name, sums_of((*self.frames, *self.masks))])


def read_davis(folder: Path, split: str | None = None) -> DataSet[MaskedVideo]:
    """The videos of a split; None is ``val``."""
    split = chosen_split("davis", split, SPLITS)
    names = folder / "ImageSets" / "2017" / f"{split}.txt"
    videos = []
    for where, words in read_words(names):
        name = " ".join(words)
        annotations, images = folder / "Annotations" / "480p" / name, folder / "JPEGImages" / "480p" / name
        masks = tuple(sorted(annotations.glob("*.png")))
        if not masks:
            raise GeomatchError(f"{where}: no annotation in {annotations}")
        without = sorted({path.stem for path in images.glob("*.jpg")} - {path.stem for path in masks})
        if without:
            raise GeomatchError(f"{masks[0].with_name(without[0] + '.png')}: missing, the frame is there")
        _check(masks)
        frames = tuple(images / f"{path.stem}.jpg" for path in masks)
        videos.append(MaskedVideo(name, frames, masks))
    if not videos:
        raise GeomatchError(f"{names}: lists no video")
    broken = absent(folder, (path for video in videos for path in video.frames), "no such frame")
    return DataSet(folder, videos, broken, len(videos) == SPLITS[split] and not broken, split)


def _check(masks: tuple[Path, ...]) -> None:
    """All of one size, readable, and with at least one object in the first, three frames at least."""
    sizes = {}
    for path in masks:
        with open_image(path) as picture:
            sizes[path] = picture.size
            mode = picture.mode
            picture.verify()
        if mode not in ("P", "L", "1"):
            raise GeomatchError(f"{path}: expected a palette of objects, got colour mode {mode}")
    other = [path for path in masks if sizes[path] != sizes[masks[0]]]
    if other:
        raise GeomatchError(f"{other[0]}: has {sizes[other[0]]} pixels, the first frame {sizes[masks[0]]}")
    if len(masks) < 3:
        raise GeomatchError(f"{masks[0].parent}: {len(masks)} frames; the measures leave out first and last")
    if not read_mask(masks[0]).any():
        raise GeomatchError(f"{masks[0]}: no object in the first frame")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """(H, W) numbers of objects, 0 for the background."""
    with open_image(path) as picture:
        mask = np.array(picture.convert("L") if picture.mode == "1" else picture, np.uint8)
    mask[mask == VOID] = 0
    return mask

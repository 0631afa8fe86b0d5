"""DAVIS-2017 and JHMDB as their archives unpack: videos with the truth of every frame."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, absent, chosen_split, read_words, sums_of
from geomatch.errors import GeomatchError, reading, require
from geomatch.files import digest_of
from geomatch.images import open_image

SPLITS = {"davis": {"val": 30, "train": 60}, "jhmdb": {"1": 268, "2": 270, "3": 267}}
"""Numbers of videos of the splits with public annotations; of JHMDB those to test on."""
JOINTS = 15
VOID = 255  # index of pixels that belong to nothing; here background, as the official evaluation has it


@dataclass(frozen=True, eq=False)
class Video:
    """One video with the objects or joints of every frame; what is evaluated alone."""

    name: str
    frames: tuple[Path, ...]  # in order; some may be missing
    masks: tuple[Path, ...] = ()  # one per frame
    joints: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, JOINTS, 2)))
    """(T, 15, 2) pixels, in place of masks."""
    action: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over frames and truth; a missing frame counts as missing."""
        if self.masks:
            return digest_of([self.name, sums_of((*self.frames, *self.masks))])
        return digest_of([self.name, self.action, sums_of(self.frames), self.joints.tolist()])


def read_videos(name: str, folder: Path, split: str | None = None) -> DataSet[Video]:
    """The videos of a split of ``davis`` or ``jhmdb``; None is the one that is reported."""
    split = chosen_split(name, split, SPLITS[name])
    videos = list((_davis if name == "davis" else _jhmdb)(folder, split))
    if not videos:
        raise GeomatchError(f"{folder}: the lists of split {split} have no video")
    broken = absent(folder, (path for video in videos for path in video.frames), "no such frame")
    return DataSet(folder, videos, broken, len(videos) == SPLITS[name][split] and not broken, split)


def _davis(folder: Path, split: str) -> Iterator[Video]:
    """DAVIS-2017 (Pont-Tuset et al., 2017) at 480p.

    ``ImageSets/2017/<split>.txt`` lists the videos, ``JPEGImages/480p/<video>/00000.jpg`` are their frames,
    ``Annotations/480p/<video>/00000.png`` palettes whose indices are objects. The field evaluates ``val``: 30
    videos, 61 objects.
    """
    names = folder / "ImageSets" / "2017" / f"{split}.txt"
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
        yield Video(name, frames, masks)


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


def _jhmdb(folder: Path, split: str) -> Iterator[Video]:
    """JHMDB (Jhuang et al., ICCV 2013).

    ``splits/<action>_test_split<k>.txt`` lists the videos of an action with 1 for training and 2 for test,
    ``Rename_Images/<action>/<video>/00001.png`` are frames, ``joint_positions/<action>/<video>/
    joint_positions.mat`` has ``pos_img``, 15 joints per frame counted from one. The field evaluates split 1.
    """
    lists = sorted((folder / "splits").glob(f"*_test_split{split}.txt"))
    if not lists:
        raise GeomatchError(f"{folder / 'splits'}: no list ..._test_split{split}.txt there")
    for path in lists:
        action = path.name.removesuffix(f"_test_split{split}.txt")
        for where, words in read_words(path):
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise GeomatchError(f"{where}: expected VIDEO.avi and 1 or 2, got {words}")
            if words[1] == "2":
                yield _video(folder, action, words[0].removesuffix(".avi"), where)


def _video(folder: Path, action: str, name: str, where: str) -> Video:
    path = folder / "joint_positions" / action / name / "joint_positions.mat"
    if not path.is_file():
        raise GeomatchError(f"{where}: {path} is missing")
    scipy: Any = require("scipy.io", "jhmdb", "reading the joints of JHMDB")
    with reading(path, "file of joints"):
        positions = np.asarray(scipy.loadmat(path)["pos_img"], np.float64)
    if positions.ndim != 3 or positions.shape[:2] != (2, JOINTS) or not np.isfinite(positions).all():
        raise GeomatchError(f"{path}: pos_img must be (2, {JOINTS}, frames), got {positions.shape}")
    if positions.shape[2] < 2:
        raise GeomatchError(f"{path}: a single frame, of which nothing can be carried on")
    joints = positions.transpose(2, 1, 0) - 1
    images = folder / "Rename_Images" / action / name
    frames = tuple(images / f"{number + 1:05d}.png" for number in range(len(joints)))
    return Video(name.replace(" ", "_"), frames, (), joints, action)

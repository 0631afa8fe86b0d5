"""JHMDB (Jhuang et al., ICCV 2013) as its archives unpack.

``splits/<action>_test_split<k>.txt`` lists the videos of an action with 1 for training and 2 for test,
``Rename_Images/<action>/<video>/00001.png`` are frames, ``joint_positions/<action>/<video>/
joint_positions.mat`` has ``pos_img``, 15 joints per frame counted from one. The field evaluates the test
videos of split 1: 268.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, absent, chosen_split, read_words, sums_of
from geomatch.errors import GeomatchError, reading, require
from geomatch.files import digest_of

SPLITS = {"1": 268, "2": 270, "3": 267}  # numbers of test videos
JOINTS = 15


@dataclass(frozen=True, eq=False)
class PoseVideo:
    """One video with the joints of every frame; what is evaluated alone."""

    name: str
    action: str
    frames: tuple[Path, ...]  # in order; some may be missing
    joints: NDArray[np.float64]  # (T, 15, 2) pixels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over frames and joints; a missing frame counts as missing."""
        return digest_of([self.name, self.action, sums_of(self.frames), self.joints.tolist()])


def read_jhmdb(folder: Path, split: str | None = None) -> DataSet[PoseVideo]:
    """The test videos of a split; None is the first."""
    split = chosen_split("jhmdb", split, SPLITS)
    lists = sorted((folder / "splits").glob(f"*_test_split{split}.txt"))
    if not lists:
        raise GeomatchError(f"{folder / 'splits'}: no list ..._test_split{split}.txt there")
    videos = []
    for path in lists:
        action = path.name.removesuffix(f"_test_split{split}.txt")
        for where, words in read_words(path):
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise GeomatchError(f"{where}: expected VIDEO.avi and 1 or 2, got {words}")
            if words[1] == "2":
                videos.append(_video(folder, action, words[0].removesuffix(".avi"), where))
    if not videos:
        raise GeomatchError(f"{folder / 'splits'}: the lists of split {split} have no test video")
    broken = absent(folder, (path for video in videos for path in video.frames), "no such frame")
    return DataSet(folder, videos, broken, len(videos) == SPLITS[split] and not broken, split)


def _video(folder: Path, action: str, name: str, where: str) -> PoseVideo:
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
    return PoseVideo(name.replace(" ", "_"), action, frames, joints)

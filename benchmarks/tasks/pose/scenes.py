"""Pairs of images whose cameras are known, by scene."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch import cameras
from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairScene
from geomatch.errors import GeomatchError
from geomatch.geometry import warp_points

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """The camera of an image."""

    matrix: NDArray[np.float64]  # (3, 3), pixels
    size: tuple[int, int] | None = None  # (width, height) of the image that it is for; None: of the file
    corner_origin: bool = False  # True if its pixels count from the corner of the first one
    lens: cameras.Camera | None = None  # where it distorts

    def rays(self, points: Points) -> Points:
        """(N, 2) x / z and y / z of its pixels (N, 2), with x right, y down and z forward."""
        if self.lens is None:
            return warp_points(np.linalg.inv(self.matrix), points)
        return self.lens.rays(points - 0.5)


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The truth of a pair."""

    cameras: tuple[Camera, Camera]
    matrix: NDArray[np.float64]  # (4, 4) from camera 0 to 1; the length of its translation is not used

    def is_usable(self) -> bool:
        """True if the numbers can be two cameras and a pose."""
        turn = self.matrix[:3, :3]
        numbers = np.concatenate([camera.matrix.ravel() for camera in self.cameras] + [self.matrix.ravel()])
        positive = all(camera.matrix[k, k] > 0 for camera in self.cameras for k in (0, 1))
        turns = np.allclose(turn @ turn.T, np.eye(3), atol=0.01) and np.linalg.det(turn) > 0
        return bool(np.isfinite(numbers).all() and positive and turns and self.matrix[:3, 3].any())


Listed = tuple[str, str, tuple[Path, Path], RelativePose]
"""The scene of a pair, its own name there, its images and its truth."""


def _scene(name: str, pairs: Iterable[ImagePair]) -> PairScene:
    own = tuple(pairs)
    files = tuple(dict.fromkeys(path for pair in own for path in pair.paths))
    truths = tuple(
        [[files.index(path) for path in pair.paths], pair.truth.matrix.tolist(),
         [[one.matrix.tolist(), one.size, one.corner_origin,
           one.lens and (one.lens.model, one.lens.params)] for one in pair.truth.cameras]]
        for pair in own
    )  # fmt: skip
    return PairScene(name, own, files, truths)


def by_scene(
    folder: Path, split: str | None, listed: Iterable[Listed], layout: str, whole: int | None = None
) -> DataSet[PairScene]:
    """Pairs by scene; those without their images are left out and listed as broken. There are no splits.

    ``layout`` says what belongs into the folder, ``whole`` is the number of pairs of the release.
    """
    if split is not None:
        raise ValueError(f"pairs with known cameras have no splits, got {split!r}")
    scenes: dict[str, dict[str, ImagePair]] = {}
    lacking: dict[str, list[Path]] = {}
    for scene, name, paths, truth in listed:
        unit, name = re.sub(r"\s", "_", scene), re.sub(r"\s", "_", name)
        if not truth.is_usable():
            raise GeomatchError(
                f"{folder}: {unit} {name} needs camera matrices, a rotation and a translation, not zero"
            )
        absent = [path for path in paths if not path.is_file()]
        if absent:
            lacking.setdefault(unit, []).append(absent[0])
            continue
        own = scenes.setdefault(unit, {})
        name += f"#{len(own)}" if name in own else ""
        own[name] = ImagePair(f"{unit} {name}", "all", paths, truth)
    units = [_scene(name, own.values()) for name, own in sorted(scenes.items())]
    if not units:
        first = next((paths[0] for paths in lacking.values()), "no pair is listed")
        raise GeomatchError(f"{folder}: no pair with both images there ({first}); expected {layout}")
    broken = {unit: f"{len(own)} pairs lack an image, such as {own[0]}" for unit, own in lacking.items()}
    count = sum(len(unit.pairs) for unit in units)
    lost = whole - count if whole else sum(map(len, lacking.values()))
    return DataSet(folder, units, broken, not lost, missing=(f"{lost} pairs",) if lost > 0 else ())

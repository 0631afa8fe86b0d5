"""Folders of one's own: SuperGlue's lists of pairs, or a model of COLMAP with its images."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from geomatch import cameras
from geomatch.benchmarks.harness.data import DataSet, read_lines
from geomatch.benchmarks.tasks.pairs.evaluation import PairScene
from geomatch.benchmarks.tasks.pose.scenes import Camera, Listed, RelativePose, by_scene
from geomatch.errors import GeomatchError, reading

MIN_COVISIBILITY = 0.1
"""Least share of points that both images of a pair see, of those of the image with fewer."""
_COLUMNS = 38
_LAYOUT = (
    "a text file of 38 columns (image 0, image 1, two rotations, K0, K1 and T_0to1 by rows), or a model of "
    "COLMAP (sparse/0, sparse or the folder itself) beside its images; several such folders in one are scenes"
)


def read_pose(folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """Pairs of a folder, or of the folders in it, in either layout.

    A list's K counts from the centre of the first pixel, a model's from its corner.
    """
    if not folder.is_dir():
        raise GeomatchError(f"{folder}: no such folder")
    found = list(_pairs(folder))
    if not found:
        found = [pair for place in sorted(folder.iterdir()) if place.is_dir() for pair in _pairs(place)]
    return by_scene(folder, split, found, _LAYOUT)


def _pairs(folder: Path) -> Iterator[Listed]:
    for path in sorted(folder.glob("*.txt")):
        lines = read_lines(path)
        if lines and len(lines[0].split()) == _COLUMNS:
            yield from _listed(folder, path, lines)
            return
    for place in (folder / "sparse" / "0", folder / "sparse", folder):
        if any(place.glob("cameras.*")) and any(place.glob("images.*")):
            yield from _modelled(folder, place)
            return


def _listed(folder: Path, path: Path, lines: list[str]) -> Iterator[Listed]:
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        with reading(f"{path}:{number}", f"line of {_COLUMNS} columns"):
            turn0, turn1, *numbers = map(float, parts[2:])
            if len(parts) != _COLUMNS or turn0 or turn1:
                raise ValueError(f"it has {len(parts)}, or images that are to be turned first")
            first, second = (Camera(np.reshape(numbers[k : k + 9], (3, 3))) for k in (0, 9))
            truth = RelativePose((first, second), np.reshape(numbers[18:], (4, 4)))
        images = folder / parts[0], folder / parts[1]
        place = [part for part in Path(parts[0]).parent.parts if part not in ("images", "color")]
        names = [Path(name).stem for name in parts[:2]]
        yield "_".join(place) or folder.name, "-".join(names), images, truth


def _modelled(folder: Path, place: Path) -> Iterator[Listed]:
    with reading(place, "model of COLMAP"):
        model = cameras.pycolmap().Reconstruction(str(place))
        images = sorted((one for one in model.images.values() if one.has_pose), key=lambda one: one.name)
        own = [_camera(image.camera) for image in images]
    rows = {image.image_id: row for row, image in enumerate(images)}
    seen = np.zeros((len(images), len(images)), np.int64)
    for point in model.points3D.values():
        track = sorted({rows[element.image_id] for element in point.track.elements})
        seen[np.ix_(track, track)] += 1
    root = folder / "images" if (folder / "images").is_dir() else folder
    poses = [np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for image in images]
    for i, k in combinations(range(len(images)), 2):
        if seen[i, k] >= MIN_COVISIBILITY * max(1, min(seen[i, i], seen[k, k])):
            names = images[i].name, images[k].name
            truth = RelativePose((own[i], own[k]), poses[k] @ np.linalg.inv(poses[i]))
            yield folder.name, "-".join(names), (root / names[0], root / names[1]), truth


def _camera(camera: Any) -> Camera:
    name, size = camera.model.name, (camera.width, camera.height)
    plain = name in ("SIMPLE_PINHOLE", "PINHOLE")
    lens = None if plain else cameras.Camera(name, size, camera.params)
    return Camera(np.array(camera.calibration_matrix()), size, True, lens)

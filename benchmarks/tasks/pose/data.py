"""Pairs of images whose cameras are known, by scene: releases in their layouts, and folders of one's own."""

import io
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch import cameras
from geomatch.benchmarks.harness.data import DataSet, chosen_split, read_lines
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairScene
from geomatch.benchmarks.tasks.sfm.data import images_below, model_below
from geomatch.errors import GeomatchError, reading
from geomatch.files import read_npz
from geomatch.geometry import warp_points
from geomatch.reconstruction.models import posed_images, read_model

Points = NDArray[np.float64]
MIN_COVISIBILITY = 0.1
"""Least share of points that both images of a pair see, of those of the image with fewer."""
_COLUMNS = 38
_LAYOUT = (
    "a text file of 38 columns (image 0, image 1, two rotations, K0, K1 and T_0to1 by rows), or a model of "
    "COLMAP (sparse/0, sparse or the folder itself) beside its images; several such folders in one are scenes"
)
_MEGADEPTH = (
    "0015_0.1_0.3.npz and its kin, and Undistorted_SfM/SCENE/images or megadepth_test_1500 with that in it "
    "(geomatch data megadepth gets them)"
)
_SCANNET = (
    "test.npz of LoFTR's repository (assets/scannet_test_1500), intrinsics.npz from there unless each scene "
    "has its intrinsic/intrinsic_color.txt, and scans_test/SCENE/color/FRAME.jpg. The photographs cannot be "
    "downloaded here: ScanNet gives them to those who sign its terms of use (www.scan-net.org)"
)
_PAIRS = 1500
_DEPTH_SIZE = (640, 480)  # LoFTR's intrinsics are for the colour images at the size of the depth maps
_MADE: dict[str, Any] = {"_reconstruct": np.zeros(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
_KNOWN: dict[str, dict[str, Any]] = {"numpy": {"ndarray": np.ndarray, "dtype": np.dtype},
          "numpy.core.multiarray": _MADE, "numpy._core.multiarray": _MADE}  # fmt: skip


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


def read_cameras(name: str, folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """Pairs of ``megadepth``, ``scannet`` or ``pose`` by scene; those that lack images are broken."""
    chosen_split(name, split)
    listed, layout, whole = _SETS[name]
    scenes: dict[str, dict[str, ImagePair]] = {}
    lacking: dict[str, list[Path]] = {}
    for scene, label, paths, truth in listed(folder):
        unit, label = re.sub(r"\s", "_", scene), re.sub(r"\s", "_", label)
        if not truth.is_usable():
            raise GeomatchError(
                f"{folder}: {unit} {label} needs cameras, a rotation and a shift that is not 0"
            )
        absent = [path for path in paths if not path.is_file()]
        if absent:
            lacking.setdefault(unit, []).append(absent[0])
            continue
        own = scenes.setdefault(unit, {})
        label += f"#{len(own)}" if label in own else ""
        own[label] = ImagePair(f"{unit} {label}", "all", paths, truth)
    units = [_scene(unit, own.values()) for unit, own in sorted(scenes.items())]
    if not units:
        first = next((paths[0] for paths in lacking.values()), "no pair is listed")
        raise GeomatchError(f"{folder}: no pair with both images there ({first}); expected {layout}")
    broken = {unit: f"{len(own)} pairs lack an image, such as {own[0]}" for unit, own in lacking.items()}
    count = sum(len(unit.pairs) for unit in units)
    lost = whole - count if whole else sum(map(len, lacking.values()))
    return DataSet(folder, units, broken, not lost, missing=f"{lost} pairs" if lost > 0 else "")


def _folders(folder: Path) -> Iterator[Listed]:
    """Pairs of a folder, or of the folders in it: SuperGlue's lists, or a model of COLMAP with its images.

    A list's K counts from the centre of the first pixel, a model's from its corner.
    """
    if not folder.is_dir():
        raise GeomatchError(f"{folder}: no such folder")
    found = list(_one_folder(folder))
    if not found:
        found = [pair for place in sorted(folder.iterdir()) if place.is_dir() for pair in _one_folder(place)]
    yield from found


def _one_folder(folder: Path) -> Iterator[Listed]:
    for path in sorted(folder.glob("*.txt")):
        lines = read_lines(path)
        if lines and len(lines[0].split()) == _COLUMNS:
            yield from _listed(folder, path, lines)
            return
    if place := model_below(folder):
        yield from _modelled(folder, place)


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
    model = read_model(place)
    images = posed_images(model)
    own = [_camera(image.camera) for image in images]
    rows = {image.image_id: row for row, image in enumerate(images)}
    seen = np.zeros((len(images), len(images)), np.int64)
    for point in model.points3D.values():
        track = sorted({rows[element.image_id] for element in point.track.elements})
        seen[np.ix_(track, track)] += 1
    root = images_below(folder)
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


class _Arrays(pickle.Unpickler):
    """Makes numpy's arrays and scalars, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if name not in _KNOWN.get(module, {}):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no index needs")
        return _KNOWN[module][name]


def _megadepth(folder: Path) -> Iterator[Listed]:
    """MegaDepth-1500 (Sun et al., LoFTR, 2021): its index files are raw pickles of a dict of arrays.

    Poses go from the world to the camera; K counts from the corner of the first pixel.
    """
    root = next(path.parent for path in (*folder.glob("*/Undistorted_SfM"), folder / "Undistorted_SfM"))
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*/*.npz")]):
        with reading(path, "index of MegaDepth-1500"):
            found = _Arrays(io.BytesIO(path.read_bytes())).load()
            for (one, two), *_ in found["pair_infos"]:
                names, poses, matrices = (
                    [found[key][k] for k in (one, two)] for key in ("image_paths", "poses", "intrinsics")
                )
                rows = np.array(matrices, np.float64)  # the principal point is the middle of the image
                first, second = (Camera(k, (round(2 * k[0, 2]), round(2 * k[1, 2])), True) for k in rows)
                truth = RelativePose((first, second), poses[1] @ np.linalg.inv(poses[0]))
                paths = root / names[0], root / names[1]
                yield paths[0].parent.parent.name, f"{one}-{two}", paths, truth


def _scannet(folder: Path) -> Iterator[Listed]:
    """ScanNet-1500 (Sarlin et al., SuperGlue, 2020) by LoFTR's index; poses go from camera 0 to 1."""
    index, calibration = folder / "test.npz", folder / "intrinsics.npz"
    if not index.is_file():
        raise GeomatchError(f"{index}: no such file; expected {_SCANNET}")
    places = folder / "scans_test", folder / "scannet_test_1500", folder
    root = next((place for place in places if any(place.glob("scene*"))), folder)
    with reading(f"{index} or {calibration.name}", "index of ScanNet-1500"):
        found = read_npz(index.read_bytes())
        matrices = read_npz(calibration.read_bytes()) if calibration.is_file() else {}
        for (number, part, *frames), pose in zip(found["name"].tolist(), found["rel_pose"], strict=True):
            scene = f"scene{number:04d}_{part:02d}"
            own = root / scene / "intrinsic" / "intrinsic_color.txt"
            if own.is_file():
                camera = Camera(np.loadtxt(own)[:3, :3])
            else:
                camera = Camera(matrices[scene].astype(np.float64), _DEPTH_SIZE)
            first, second = (root / scene / "color" / f"{frame}.jpg" for frame in frames)
            matrix = np.vstack([pose.reshape(3, 4), [0, 0, 0, 1]]).astype(np.float64)
            yield scene, f"{frames[0]}-{frames[1]}", (first, second), RelativePose((camera, camera), matrix)


_SETS: dict[str, tuple[Callable[[Path], Iterator[Listed]], str, int]] = {
    "megadepth": (_megadepth, _MEGADEPTH, _PAIRS),
    "scannet": (_scannet, _SCANNET, _PAIRS),
    "pose": (_folders, _LAYOUT, 0),
}
"""What lists the pairs, what belongs into the folder, and the number of pairs of the release."""

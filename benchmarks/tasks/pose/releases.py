"""MegaDepth-1500 and ScanNet-1500 in the layouts in which they are published."""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.tasks.pairs.evaluation import PairScene
from geomatch.benchmarks.tasks.pose.scenes import Camera, Listed, RelativePose, by_scene
from geomatch.errors import GeomatchError, reading
from geomatch.files import read_npz

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


class _Arrays(pickle.Unpickler):
    """Makes numpy's arrays and scalars, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if name not in _KNOWN.get(module, {}):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no index needs")
        return _KNOWN[module][name]


def read_megadepth(folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """MegaDepth-1500 (Sun et al., LoFTR, 2021): its index files are raw pickles of a dict of arrays.

    Poses go from the world to the camera; K counts from the corner of the first pixel.
    """
    return by_scene(folder, split, _megadepth(folder), _MEGADEPTH, _PAIRS)


def _megadepth(folder: Path) -> Iterator[Listed]:
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


def read_scannet(folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """ScanNet-1500 (Sarlin et al., SuperGlue, 2020) by LoFTR's index; poses go from camera 0 to 1."""
    return by_scene(folder, split, _scannet(folder), _SCANNET, _PAIRS)


def _scannet(folder: Path) -> Iterator[Listed]:
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

"""COLMAP models on disk: found, read and counted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.errors import GeomatchError, reading

_PARTS = ("cameras", "images", "points3D")


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One connected model."""

    registered: int
    """Images with a pose."""
    points: int
    observations: int
    mean_track_length: float
    """Images per point."""
    mean_reprojection_error: float
    """Pixels."""


def find_model(path: Path) -> Path:
    """The folder of a model: ``path``, its ``sparse/0``, ``sparse`` or ``0``; GeomatchError without one."""
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "0"):
        if any(all((folder / f"{part}{end}").is_file() for part in _PARTS) for end in (".bin", ".txt")):
            return folder
    needed = "cameras.bin, images.bin and points3D.bin, or .txt"
    raise GeomatchError(f"{path}: no COLMAP model there, which needs {needed}")


def read_model(path: Path) -> Any:
    """Read the ``pycolmap.Reconstruction`` of `find_model`; raises GeomatchError when it cannot be read."""
    folder = find_model(path)
    with reading(folder, "model of COLMAP"):
        return pycolmap().Reconstruction(str(folder))


def posed_images(model: Any) -> list[Any]:
    """The images of a ``pycolmap.Reconstruction`` that have a pose, by name."""
    return sorted((image for image in model.images.values() if image.has_pose), key=lambda one: str(one.name))


def nearest_rotation(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """(3, 3); of the sum of rotations their mean (chordal distance: Hartley et al., IJCV 2013)."""
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left * [1, 1, np.linalg.det(left @ right)] @ right)


def merit(model: Any) -> tuple[int, int]:
    """Numbers of registered images and of points: the larger is the better of two models."""
    return model.num_reg_images(), model.num_points3D()


def summarise_model(model: Any) -> ModelSummary:
    """Count and average over a ``pycolmap.Reconstruction``."""
    length, error = model.compute_mean_track_length(), model.compute_mean_reprojection_error()
    means = float(np.nan_to_num(length)), float(np.nan_to_num(error))
    return ModelSummary(*merit(model), model.compute_num_observations(), *means)

"""Scenes with surveyed poses: photographs, a COLMAP model of the truth, and perhaps a scan."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, chosen_split
from geomatch.benchmarks.tasks.sfm.measures import extent_of, points_of, poses_of
from geomatch.cameras import pycolmap
from geomatch.collection import find_images
from geomatch.errors import GeomatchError, first_line, reading
from geomatch.files import fingerprint_of
from geomatch.reconstruction.models import find_model, read_model

_MODELS = ("", "dslr_calibration_undistorted", "dslr_calibration_jpg")
"""Where a model lies below a scene's folder: beside the images, or as in ETH3D's releases."""
_LAYOUT = "images/ and a COLMAP model (sparse/0, sparse, or as in ETH3D), or folders of scenes with them"


@dataclass(frozen=True)
class Scene:
    """Photographs whose poses are known, evaluated alone."""

    name: str
    images: Path
    """The folder that names in the model are relative to."""
    model: Path
    scan: Path | None
    """Points of the truth as a PLY file; None takes those of the model."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All images of the folder, sorted; some may have no pose in the model."""
        return find_images(self.images).names

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images, the model and the scan."""
        parts = sorted(path for path in self.model.iterdir() if path.suffix in (".bin", ".txt"))
        images = [self.images / name for name in self.names]
        return fingerprint_of([*images, *parts, *([self.scan] if self.scan else [])])

    def points(self, model: Any) -> NDArray[np.float64]:
        """(N, 3) true points, of the scan or else of the true model; in its frame and unit."""
        if self.scan:
            model = pycolmap().Reconstruction()
            with reading(self.scan, "PLY file of points"):
                model.import_PLY(str(self.scan))
        return points_of(model)


def read_scenes(folder: Path, split: str | None = None) -> DataSet[Scene]:
    """Read a scene, or those in the folders of ``folder``, which may be broken; GeomatchError for none."""
    chosen_split("sfm", split)
    if not folder.is_dir():
        raise GeomatchError(f"{folder}: no such folder")
    scenes, broken = list[Scene](), dict[str, str]()
    places = [folder] if model_below(folder) else [part for part in sorted(folder.iterdir()) if part.is_dir()]
    for place in places:
        if (model := model_below(place)) is None:
            continue
        scan = place / "points.ply"
        name = place.resolve().name.replace(" ", "_")
        scene = Scene(name, images_below(place).absolute(), model, scan if scan.is_file() else None)
        try:
            poses = poses_of(read_model(model))
            centres = [poses[name][1] for name in scene.names if name in poses]
            if len(centres) < 3:
                some = f", which names images such as {min(poses)!r}" if poses else ""
                raise GeomatchError(f"{scene.images}: fewer than 3 images with a pose in the model{some}")
            if not extent_of(np.array(centres)) > 0:
                raise GeomatchError(f"{scene.images}: all were taken from one place, there is nothing to map")
            scenes.append(scene)
        except GeomatchError as error:
            broken[name] = first_line(error)
    if not scenes:
        why = next(iter(broken.values()), f"expected {_LAYOUT}")
        raise GeomatchError(f"{folder}: no scene with surveyed poses there ({why})")
    return DataSet(folder, scenes, broken, not broken)


def images_below(folder: Path) -> Path:
    """The folder of a scene's images."""
    return folder / "images" if (folder / "images").is_dir() else folder


def model_below(folder: Path) -> Path | None:
    """The folder of a scene's model, if it has one."""
    for name in _MODELS:
        try:
            return find_model(folder / name).absolute()
        except GeomatchError:
            continue
    return None

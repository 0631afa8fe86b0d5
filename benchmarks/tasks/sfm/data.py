"""Scenes with surveyed poses: photographs, a COLMAP model of the truth, and perhaps a scan."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, chosen_split
from geomatch.cameras import pycolmap
from geomatch.collection import find_images
from geomatch.errors import GeomatchError, first_line
from geomatch.files import fingerprint_of
from geomatch.reconstruction.models import find_model, read_model

_MODELS = ("", "dslr_calibration_undistorted", "dslr_calibration_jpg", "gt", "colmap")
"""Where a model lies below a scene's folder: beside the images, or as in ETH3D's releases."""
_SCANS = ("points.ply", "scan.ply", "gt.ply")
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
    names: tuple[str, ...]
    """All images of the folder, sorted; some may have no pose in the model."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images, the model and the scan."""
        files = [self.images / name for name in self.names] + sorted(self.model.glob("*.*"))
        return fingerprint_of([*files, *([self.scan] if self.scan else [])])

    def truth(self) -> Any:
        """The true ``pycolmap.Reconstruction``."""
        return read_model(self.model)

    def points(self) -> NDArray[np.float64]:
        """(N, 3) true points, of the scan or else of the model; in the model's frame and unit."""
        model = self.truth()
        if self.scan:
            try:
                model = pycolmap().Reconstruction()
                model.import_PLY(str(self.scan))
            except (RuntimeError, ValueError) as error:
                text = f"{self.scan}: this is no PLY file of points ({first_line(error)})"
                raise GeomatchError(text) from error
        return np.array([point.xyz for point in model.points3D.values()], np.float64).reshape(-1, 3)


def read_scenes(folder: Path, split: str | None = None) -> DataSet[Scene]:
    """Read a scene, or the scenes in the folders of ``folder``.

    Raises GeomatchError when there is none, ValueError for a split, which there are none of.
    """
    chosen_split("sfm", split)
    if not folder.is_dir():
        raise GeomatchError(f"{folder}: no such folder")
    scenes, broken = list[Scene](), dict[str, str]()
    for place in (folder, *sorted(part for part in folder.iterdir() if part.is_dir())):
        if (model := _model_below(place)) is None:
            continue
        found = _scene(place, model)
        known = {image.name for image in found.truth().images.values() if image.has_pose} & set(found.names)
        if len(known) < 3:
            broken[found.name] = f"{len(known)} of the model's images are in {found.images}; 3 are needed"
        else:
            scenes.append(found)
        if place == folder:
            break
    if not scenes:
        why = next(iter(broken.values()), f"expected {_LAYOUT}")
        raise GeomatchError(f"{folder}: no scene with surveyed poses there ({why})")
    return DataSet(folder, scenes, broken, not broken)


def _model_below(folder: Path) -> Path | None:
    for name in _MODELS:
        try:
            return find_model(folder / name)
        except GeomatchError:
            continue
    return None


def _scene(folder: Path, model: Path) -> Scene:
    images = folder / "images" if (folder / "images").is_dir() else folder
    names = find_images(images).names
    scan = next((folder / name for name in _SCANS if (folder / name).is_file()), None)
    return Scene(folder.resolve().name.replace(" ", "_"), images.absolute(), model.absolute(), scan, names)

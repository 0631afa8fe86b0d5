"""Cameras as COLMAP describes them: from pixels to rays, through any of its models of distortion."""

import signal
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError, reading, require

del zlib  # loaded before pycolmap: the other way round, writing a PNG later aborts the process (4.1, 4.2)
_ASTRAY = 0.1  # pixels that a point may be off after a ray was found for it


@cache
def pycolmap() -> ModuleType:
    """The library, quiet but for errors; raises `MissingDependencyError` when it is not installed."""
    library = require("pycolmap", "all", "COLMAP")
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # its glog took it over, to print a stack and leave all behind
    library.logging.minloglevel = 3  # what matters is compared afterwards and reported by us
    return library


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera with a model of distortion, in COLMAP's words and COLMAP's coordinates.

    In ``params``, unlike everywhere else here, the image's upper left corner is (0, 0), so that the centre of
    the first pixel is (0.5, 0.5): a principal point in the middle of 640x480 pixels is 320, 240. Numbers from
    OpenCV, whose centre of the first pixel is (0, 0), need 0.5 added to cx and cy.
    `GeomatchError` for a model that COLMAP does not have or that sees no plane, and for wrong parameters.
    """

    model: str
    """COLMAP's name, such as ``SIMPLE_RADIAL`` or ``OPENCV_FISHEYE``."""
    size: tuple[int, int]
    """(width, height) of the image in pixels."""
    params: tuple[float, ...]
    """Focal length(s), principal point, distortion, in COLMAP's order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", tuple(float(value) for value in self.params))
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        check_model(self.model)
        if self.model == "EQUIRECTANGULAR":
            raise GeomatchError("EQUIRECTANGULAR cameras see all around; a perspective model is needed")
        check_params(self.model, self.params, list(self.params))

    def rays(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) x / z and y / z of what points (N, 2), first pixel (0, 0), see; NaN without a ray."""
        (width, height), params = self.size, np.array(self.params)
        camera = pycolmap().Camera(model=self.model, width=width, height=height, params=params)
        pixels = np.asarray(points, np.float64) + 0.5
        finite = np.isfinite(pixels).all(axis=1)
        rays = np.full(pixels.shape, np.nan)
        rays[finite] = camera.cam_from_img(np.ascontiguousarray(pixels[finite]))
        back = camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
        with np.errstate(invalid="ignore"):
            rays[~(np.linalg.norm(back - pixels, axis=1) <= _ASTRAY)] = np.nan
        return rays


def check_model(model: str) -> None:
    """Raise `GeomatchError` unless COLMAP has the camera model."""
    models = [name for name in pycolmap().CameraModelId.__members__ if name != "INVALID"]
    if model not in models:
        raise GeomatchError(f"COLMAP has no camera model {model!r}; choose one of: {', '.join(models)}")


def check_params(model: str, values: Sequence[float], given: object) -> None:
    """Raise `GeomatchError` unless the parameters fit the model; ``given`` is what the message shows."""
    camera = pycolmap().Camera.create_from_model_name(1, model, 1.0, 1, 1)
    if len(values) != len(camera.params) or not np.isfinite(values).all():
        text = f"camera model {model} has {len(camera.params)} parameters ({camera.params_info})"
        raise GeomatchError(f"{text}: give as many numbers, got {given!r}")
    if (np.asarray(values)[camera.focal_length_idxs()] <= 0).any():
        raise GeomatchError(f"focal lengths must be positive, got {given!r} for {camera.params_info}")


def read_camera_file(path: str | PathLike[str]) -> dict[int, Camera]:
    """The cameras of COLMAP's ``cameras.txt`` by number; `GeomatchError` when it cannot be read."""
    with reading(path, "cameras.txt of COLMAP"):
        lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        rows = [line for line in lines if line and not line[0].startswith("#")]
        try:
            made = {int(r[0]): Camera(r[1], (int(r[2]), int(r[3])), tuple(map(float, r[4:]))) for r in rows}
        except GeomatchError as error:
            raise GeomatchError(f"{path}: {error}") from None
        if len(made) < len(rows):
            raise ValueError("two of its cameras have one number")
        return made


def read_cameras(path: str | PathLike[str]) -> tuple[Camera, Camera]:
    """The cameras of images 0 and 1 in a ``cameras.txt``: its only one, or its two; else `GeomatchError`."""
    made = list(read_camera_file(path).values())
    if len(made) not in (1, 2):
        raise GeomatchError(f"{path}: one camera, or one for each image, is needed, got {len(made)}")
    return made[0], made[-1]


def camera_of(path: str | PathLike[str], size: tuple[int, int]) -> Camera | None:
    """A camera with the focal length of the file's EXIF data, as COLMAP reads it; None without one.

    ``size`` is (width, height) of the image as it is used, in whose middle the principal point is put.
    """
    try:
        found = pycolmap().infer_camera_from_image(str(path))
    except (RuntimeError, ValueError):  # no file of an image that COLMAP reads
        return None
    if not found.has_prior_focal_length or {found.width, found.height} != set(size):
        return None
    return Camera("SIMPLE_PINHOLE", size, (found.mean_focal_length(), size[0] / 2, size[1] / 2))

"""Cameras as COLMAP describes them: from pixels to rays, through any of its models of distortion."""

import zlib
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.errors import GeomatchError, first_line, reading, require
from geomatch.types import check_shape

del zlib  # loaded before pycolmap: the other way round, writing a PNG later aborts the process (4.1, 4.2)
_ASTRAY = 0.1  # pixels that a point may be off after a ray was found for it


@cache
def pycolmap() -> ModuleType:
    """The library, quiet but for errors; raises `MissingDependencyError` when it is not installed."""
    library = require("pycolmap", "all", "COLMAP")
    library.logging.minloglevel = 3  # what matters is compared afterwards and reported by us
    return library


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera with a model of distortion, in COLMAP's words and COLMAP's coordinates.

    In ``params``, unlike everywhere else here, the image's upper left corner is (0, 0), so that the centre of
    the first pixel is (0.5, 0.5): a principal point in the middle of 640x480 pixels is 320, 240. Numbers from
    OpenCV, whose centre of the first pixel is (0, 0), need 0.5 added to cx and cy.

    Raises:
        GeomatchError: for a model that COLMAP does not have or that sees no plane, and for wrong parameters.
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
        models = pycolmap().CameraModelId.__members__
        if self.model not in models or self.model in ("INVALID", "EQUIRECTANGULAR"):
            known = ", ".join(name for name in models if name not in ("INVALID", "EQUIRECTANGULAR"))
            raise GeomatchError(f"COLMAP has no perspective model {self.model!r}; choose one of: {known}")
        camera = self._colmap()
        if not camera.verify_params() or not np.isfinite(self.params).all():
            count, names = len(pycolmap().Camera.create_from_model_name(1, self.model, 1.0, 1, 1).params), ""
            names = pycolmap().Camera.create_from_model_name(1, self.model, 1.0, 1, 1).params_info
            raise GeomatchError(
                f"camera model {self.model} has {count} parameters ({names}), got {list(self.params)}"
            )
        if (camera.params[camera.focal_length_idxs()] <= 0).any():
            raise GeomatchError(f"focal lengths must be positive, got {list(self.params)}")

    def rays(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) x / z and y / z of what points (N, 2) see, centre of the first pixel (0, 0).

        NaN where the model has no such ray, as beyond the circle that a fisheye lens fills.
        """
        camera, pixels = self._colmap(), np.asarray(points, np.float64) + 0.5
        finite = np.isfinite(pixels).all(axis=1)
        rays = np.full(pixels.shape, np.nan)
        rays[finite] = camera.cam_from_img(np.ascontiguousarray(pixels[finite]))
        back = camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
        with np.errstate(invalid="ignore"):
            rays[~(np.linalg.norm(back - pixels, axis=1) <= _ASTRAY)] = np.nan
        return rays

    def _colmap(self) -> Any:
        width, height = self.size
        return pycolmap().Camera(
            model=self.model, width=width, height=height, params=np.array(self.params, np.float64)
        )

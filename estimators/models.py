"""What `geomatch.match` may estimate besides a homography."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, camera_of
from geomatch.errors import GeomatchError, ImageError
from geomatch.estimators.determinacy import determines_lines
from geomatch.estimators.epipolar import CameraLike
from geomatch.estimators.evidence import epipolar_support
from geomatch.estimators.gate import ENOUGH, by_chance
from geomatch.estimators.pose import relative_pose
from geomatch.estimators.two_view import epipolar_distances, estimate_two_view
from geomatch.images import Image
from geomatch.transforms import PLANES
from geomatch.types import EstimationFailure, RelativePose, TwoViewGeometry

Size = tuple[int, int]


class Model(Protocol):
    """Estimates what relates two images."""

    def estimate(
        self, points0: NDArray[np.floating], points1: NDArray[np.floating], size0: Size, size1: Size
    ) -> RelativePose | TwoViewGeometry | EstimationFailure:
        """From matched points (M, 2) and the images' (width, height)."""


@dataclass(frozen=True, slots=True)
class Fundamental:
    """The fundamental matrix of two images by `estimate_two_view`; a plane does not determine one."""

    threshold: float = 3.0
    """Largest distance of an inlier from the epipolar lines in pixels."""

    def estimate(
        self, points0: NDArray[np.floating], points1: NDArray[np.floating], size0: Size, size1: Size
    ) -> TwoViewGeometry | EstimationFailure:
        """Estimate it, see `Model`."""
        found = estimate_two_view(points0, points1, size0, size1, threshold=self.threshold)
        if not found:
            return found
        if found.config == "planar":
            return EstimationFailure(
                f"a homography explains {found.num_inliers} of {len(points0)} matches, as of a plane or a "
                "camera that only turned: no fundamental matrix is determined; ask for a homography",
                planar=found.num_inliers >= ENOUGH,
            )
        used = slice(None) if found.watermark is None else ~found.watermark
        p0, p1 = (np.asarray(points, np.float64)[used] for points in (points0, points1))
        agree, matrix, limit = found.inliers[used], found.matrix, self.threshold
        weights, _, nfa = epipolar_support(
            lambda i, j: epipolar_distances(matrix, p0[i], p1[j]), agree, p0, p1, limit, 7, 3
        )
        reason = by_chance(int(agree.sum()), len(p0), "fundamental matrix", nfa)
        if not reason and not determines_lines(matrix, p0[agree], p1[agree], weights[agree], limit):
            reason = f"{agree.sum()} of {len(p0)} matches agree, but determine no fundamental matrix"
        return EstimationFailure(reason) if reason else found


@dataclass(frozen=True, eq=False, slots=True)
class Essential:
    """The relative pose of two images whose cameras are known, by `relative_pose`."""

    camera0: CameraLike
    """A `Camera`, or a matrix K (3, 3) in our coordinates."""
    camera1: CameraLike
    """That of image 1."""
    threshold: float = 2.0
    """Largest distance of an inlier from the epipolar geometry in pixels."""

    def estimate(
        self, points0: NDArray[np.floating], points1: NDArray[np.floating], size0: Size, size1: Size
    ) -> RelativePose | EstimationFailure:
        """Estimate it, see `Model`; `GeomatchError` for cameras of images of other sizes."""
        self.check_sizes(size0, size1)
        return relative_pose(points0, points1, self.camera0, self.camera1, self.threshold)

    def check_sizes(self, size0: Size, size1: Size) -> None:
        """Raise `GeomatchError` for cameras of images of other sizes."""
        for number, (camera, size) in enumerate(((self.camera0, size0), (self.camera1, size1))):
            if isinstance(camera, Camera) and camera.size != size:
                raise GeomatchError(
                    f"camera {number} is of images of {camera.size[0]}x{camera.size[1]} pixels, image "
                    f"{number} has {size[0]}x{size[1]} (if EXIF data turned it: apply_exif=False)"
                )


PLANE_MODELS = (*PLANES, "auto")
"""What estimators of a plane find, by name."""
MODELS = (*PLANE_MODELS, "fundamental", "essential")
EXIF = "focal lengths are those of the EXIF data, without distortion: no more than nearly right"
"""The remark on cameras that were not given."""


def create_model(model: str | Model, threshold: float, images: Sequence[Image]) -> Model:
    """``fundamental``, or ``essential`` with focal lengths of EXIF data; an object is given back.

    `ImageError` when an image has no focal length, `GeomatchError` when a camera is of another size.
    """
    if isinstance(model, Essential):
        model.check_sizes(*(image.size for image in images))  # before the work, not after
    if not isinstance(model, str):
        return model
    if model == "fundamental":
        return Fundamental(threshold)
    cameras: list[Camera] = []
    for image in images:
        camera = camera_of(image.name, image.size) if Path(image.name).is_file() else None
        if camera is None:
            raise ImageError(
                f"{image.name}: no focal length in EXIF data; give the cameras: "
                "model=Essential(camera0, camera1), on the command line --cameras FILE"
            )
        cameras.append(camera)
    return Essential(cameras[0], cameras[1], threshold)

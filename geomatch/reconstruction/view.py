"""A sparse model as one page of HTML that needs nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.files import as_base64, fill_page

_SEED = 0


@dataclass(frozen=True, eq=False, slots=True)
class SparseModel:
    """N registered images and M points, in the model's units; errors are in pixels, NaN where unknown."""

    names: tuple[str, ...]
    centres: NDArray[np.float64]  # (N, 3) of projection
    rotations: NDArray[np.float64]  # (N, 3, 3) from the world to the camera: x right, y down, z forward
    image_sizes: NDArray[np.int64]  # (N, 2) width and height, pixels
    focal_lengths: NDArray[np.float64]  # (N,) pixels
    num_points: NDArray[np.int64]  # (N,) points seen by each image
    errors: NDArray[np.float64]  # (N,) mean reprojection error of each image
    points: NDArray[np.float32]  # (M, 3)
    colours: NDArray[np.uint8]  # (M, 3) RGB; all zero when never extracted
    track_lengths: NDArray[np.int64]  # (M,) images that see each point
    point_errors: NDArray[np.float64]  # (M,) mean reprojection error of each point


def sparse_model(reconstruction: Any) -> SparseModel:
    """Convert a ``pycolmap.Reconstruction``; images are sorted by name, those without a pose left out."""
    placed = [image for image in reconstruction.images.values() if image.has_pose]
    images = sorted(placed, key=lambda one: str(one.name))
    points = reconstruction.points3D
    found = list(points.values())
    row_of = {number: row for row, number in enumerate(points)}
    xyz = _rows([point.xyz for point in found], 3)
    cameras = [image.camera for image in images]
    poses = [np.asarray(image.cam_from_world().matrix(), np.float64) for image in images]
    return SparseModel(
        names=tuple(str(image.name) for image in images),
        centres=_rows([image.projection_center() for image in images], 3),
        rotations=np.array([pose[:, :3] for pose in poses], np.float64).reshape(-1, 3, 3),
        image_sizes=np.array([(c.width, c.height) for c in cameras], np.int64).reshape(-1, 2),
        # panoramas have none; any frustum will do
        focal_lengths=np.array(
            [c.mean_focal_length() if c.focal_length_idxs() else c.width / 2 for c in cameras]
        ),
        num_points=np.array([image.num_points3D for image in images], np.int64),
        errors=np.array([_image_error(image, xyz, row_of) for image in images], np.float64),
        points=xyz.astype(np.float32),
        colours=np.array([point.color for point in found], np.uint8).reshape(-1, 3),
        track_lengths=np.array([point.track.length() for point in found], np.int64),
        point_errors=np.array([p.error if p.has_error() else math.nan for p in found], np.float64),
    )


def write_view(model: SparseModel, path: Path, title: str, max_points: int = 100_000) -> None:
    """Write an interactive page: ``max_points`` points, chosen at random, cameras, and a list of images."""
    count = len(model.points)
    chosen = np.sort(np.random.default_rng(_SEED).choice(count, min(count, max_points), replace=False))
    centre, radius = _first_view(model)

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    content = {
        "names": list(model.names), "sizes": model.image_sizes.tolist(),
        "focals": model.focal_lengths.tolist(), "counts": model.num_points.tolist(),
        "errors": [known(value) for value in model.errors.tolist()],
        "centres": model.centres.tolist(), "rotations": model.rotations.reshape(-1, 9).tolist(),
        "points": as_base64(model.points[chosen], "<f4"), "colours": as_base64(model.colours[chosen], "u1"),
        "tracks": as_base64(np.minimum(model.track_lengths[chosen], 65535), "<u2"),
        "pointErrors": as_base64(model.point_errors[chosen], "<f4"), "coloured": bool(model.colours.any()),
        "centre": centre.tolist(), "radius": radius, "turn": _upright(model).ravel().tolist(),
        "title": title, "total": count, "track": known(_mean(model.track_lengths)),
        "error": known(_mean(model.point_errors)),
    }  # fmt: skip
    fill_page(path, "geomatch.reconstruction", "view.html", content)


def title_of(images: Path) -> str:
    """Name of a folder of images, of the one above when it is called ``images``."""
    folder = images.resolve()
    return folder.parent.name if folder.name == "images" and folder.parent.name else folder.name


def _image_error(image: Any, xyz: NDArray[np.float64], row_of: dict[int, int]) -> float:
    seen = image.get_observation_points2D()
    if not len(seen):
        return math.nan
    world = xyz[[row_of[one.point3D_id] for one in seen]]
    pose = np.asarray(image.cam_from_world().matrix(), np.float64)
    projected = image.camera.img_from_cam(world @ pose[:, :3].T + pose[:, 3])
    return _mean(np.linalg.norm(projected - _rows([one.xy for one in seen], 2), axis=1))


def _rows(values: Sequence[Any], columns: int) -> NDArray[np.float64]:
    return np.array(values, np.float64).reshape(-1, columns)


def _mean(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _first_view(model: SparseModel) -> tuple[NDArray[np.float64], float]:
    """Centre (3,) and radius of the first view, without points and cameras that lie far off."""
    points = model.points[np.isfinite(model.points).all(axis=1)].astype(np.float64)
    shown = points if len(points) else model.centres
    if not len(shown):
        return np.zeros(3), 1.0
    centre = np.median(shown, axis=0)
    reach, away = (np.linalg.norm(part - centre, axis=1) for part in (shown, model.centres))
    radius = float(np.quantile(reach, 0.9))
    near = away[away <= 5 * radius]  # farther ones would shrink the points to a clump
    return centre, max(radius, float(np.quantile(near, 0.9)) if len(near) else 0.0) or 1.0


def _upright(model: SparseModel) -> NDArray[np.float64]:
    """(3, 3) rotation nearest to the cameras' in the mean (Hartley et al., IJCV 2013, chordal distance)."""
    left, _, right = np.linalg.svd(model.rotations.sum(axis=0))
    return np.asarray(left * [1, 1, np.linalg.det(left @ right)] @ right)

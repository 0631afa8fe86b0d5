"""A sparse model as one page of HTML that needs nothing else."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.files import as_base64, fill_page
from geomatch.reconstruction.models import nearest_rotation, posed_images

Array = NDArray[np.float64]
_SEED = 0


def write_view(model: Any, path: Path, title: str, max_points: int = 100_000) -> None:
    """Write an interactive page of a ``pycolmap.Reconstruction``: its points, cameras, and a list of images.

    Of the points ``max_points`` are chosen at random; images without a pose are left out.
    """
    images, points = posed_images(model), list(model.points3D.values())
    xyz, tracks = _rows([point.xyz for point in points], 3), np.array([p.track.length() for p in points])
    errors = np.array([point.error if point.has_error() else math.nan for point in points], np.float64)
    colours = np.array([point.color for point in points], np.uint8)  # all zero when never extracted
    chosen = np.random.default_rng(_SEED).choice(len(points), min(len(points), max_points), replace=False)
    chosen.sort()
    centres = _rows([image.projection_center() for image in images], 3)
    turns = _rows([image.cam_from_world().rotation.matrix().ravel() for image in images], 9)
    centre, radius = first_view(xyz, centres)
    row_of, cameras = {number: row for row, number in enumerate(model.points3D)}, [i.camera for i in images]

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    content = {
        "names": [image.name for image in images], "sizes": [(one.width, one.height) for one in cameras],
        # panoramas have no focal length; any frustum will do
        "focals": [c.mean_focal_length() if c.focal_length_idxs() else c.width / 2 for c in cameras],
        "counts": [image.num_points3D for image in images],
        "errors": [known(_image_error(image, xyz, row_of)) for image in images],
        "centres": centres.tolist(), "rotations": turns.tolist(),
        "points": as_base64(xyz[chosen], "<f4"), "colours": as_base64(colours[chosen], "u1"),
        "tracks": as_base64(np.minimum(tracks[chosen], 65535), "<u2"),
        "pointErrors": as_base64(errors[chosen], "<f4"), "coloured": bool(colours.any()),
        "centre": centre.tolist(), "radius": radius,
        "turn": nearest_rotation(turns.sum(axis=0).reshape(3, 3)).ravel().tolist(),
        "title": title, "total": len(points), "track": known(_mean(tracks)), "error": known(_mean(errors)),
    }  # fmt: skip
    fill_page(path, "geomatch.reconstruction", "view.html", content)


def title_of(images: Path) -> str:
    """Name of a folder of images, of the one above when it is called ``images``."""
    folder = images.resolve()
    return folder.parent.name if folder.name == "images" and folder.parent.name else folder.name


def _image_error(image: Any, xyz: Array, row_of: dict[int, int]) -> float:
    seen = image.get_observation_points2D()
    if not len(seen):
        return math.nan
    world = xyz[[row_of[one.point3D_id] for one in seen]]
    pose = np.asarray(image.cam_from_world().matrix(), np.float64)
    projected = image.camera.img_from_cam(world @ pose[:, :3].T + pose[:, 3])
    return _mean(np.linalg.norm(projected - _rows([one.xy for one in seen], 2), axis=1))


def _rows(values: list[Any], columns: int) -> Array:
    return np.array(values, np.float64).reshape(-1, columns)


def _mean(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def first_view(points: Array, centres: Array) -> tuple[Array, float]:
    """Centre (3,) and radius of the first view, without points and cameras (N, 3) that lie far off."""
    points = points[np.isfinite(points).all(axis=1)]
    shown = points if len(points) else centres
    if not len(shown):
        return np.zeros(3), 1.0
    centre = np.median(shown, axis=0)
    reach, away = (np.linalg.norm(part - centre, axis=1) for part in (shown, centres))
    radius = float(np.quantile(reach, 0.9))
    near = away[away <= 5 * radius]  # farther ones would shrink the points to a clump
    return centre, max(radius, float(np.quantile(near, 0.9)) if len(near) else 0.0) or 1.0

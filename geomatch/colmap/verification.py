"""Two-view geometries of matched pairs: by COLMAP, or ours in its configuration and convention."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.colmap.conventions import (
    PAIR_BASE,
    camera_matrix,
    from_colmap,
    fundamental_to_colmap,
    homography_to_colmap,
)
from geomatch.colmap.library import database, interruptible, pycolmap
from geomatch.estimators import estimate_two_view
from geomatch.types import EstimationFailure, TwoViewGeometry

_BATCH = 64
_TODO = "FROM matches WHERE rows > 0 AND pair_id NOT IN (SELECT pair_id FROM two_view_geometries)"
Found = TwoViewGeometry | EstimationFailure


def verify_with_colmap(path: Path, seed: int, progress: bool) -> None:
    """Have COLMAP estimate the geometry of every pair that has matches and none."""
    library = pycolmap()
    options = library.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    with closing(sqlite3.connect(path)) as connection:

        def left() -> int:
            return int(connection.execute(f"SELECT count(*) {_TODO}").fetchone()[0])

        total = left()
        if not total:
            return
        with tqdm(total=total, desc="verification", unit="pair", disable=None if progress else True) as bar:
            interruptible(
                lambda token: library.geometric_verification(
                    str(path), two_view_geometry_options=options, cancellation_token=token
                ),
                lambda: bar.update(total - left() - bar.n),
            )
            bar.update(total - bar.n)


def verify_with_ours(path: Path, progress: bool) -> None:
    """Estimate and write a geometry for every pair that has matches and none.

    Pairs that fail are written as degenerate without inliers, which mappers ignore.
    """
    with closing(sqlite3.connect(path)) as connection:
        pair_ids = [row[0] for row in connection.execute(f"SELECT pair_id {_TODO} ORDER BY pair_id")]
    with database(str(path)) as opened, pycolmap().DatabaseTransaction(opened):
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        views = {image.image_id: cameras[image.camera_id] for image in opened.read_all_images()}
        bar = tqdm(total=len(pair_ids), desc="verification", unit="pair", disable=None if progress else True)
        with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(pair_ids), _BATCH):
                batch = pair_ids[start : start + _BATCH]
                pairs = [_read_pair(opened, views, pair_id) for pair_id in batch]
                for pair, found in zip(pairs, pool.map(_estimate, pairs), strict=True):
                    geometry = to_two_view_geometry(found, pair.indices)
                    opened.write_two_view_geometry(*pair.image_ids, geometry)
                    bar.update()


class _Pair(NamedTuple):
    """Matched points of two images, in our coordinates."""

    image_ids: tuple[int, int]
    indices: NDArray[np.int64]
    points: list[NDArray[np.float32]]
    sizes: list[tuple[int, int]]
    calibrations: list[NDArray[np.float64] | None]


def _read_pair(opened: Any, views: dict[int, Any], pair_id: int) -> _Pair:
    image_ids = divmod(pair_id, PAIR_BASE)
    indices = np.asarray(opened.read_matches(*image_ids), np.int64)
    points = [
        from_colmap(np.asarray(opened.read_keypoints(image_id))[rows, :2])
        for image_id, rows in zip(image_ids, indices.T, strict=True)
    ]
    cameras = [views[image_id] for image_id in image_ids]
    sizes = [(camera.width, camera.height) for camera in cameras]
    return _Pair(image_ids, indices, points, sizes, [_calibration(camera) for camera in cameras])


def _estimate(pair: _Pair) -> Found:
    (points0, points1), (size0, size1), (camera0, camera1) = pair.points, pair.sizes, pair.calibrations
    return estimate_two_view(points0, points1, size0, size1, camera0, camera1)


def to_two_view_geometry(found: Found, indices: NDArray[np.int64]) -> Any:
    """As pycolmap's object.

    Args:
        found: from image 0 to image 1, in our pixels.
        indices: (M, 2) the matches it was estimated from.
    """
    library = pycolmap()
    kinds = library.TwoViewGeometryConfiguration
    geometry = library.TwoViewGeometry()
    if not found:
        geometry.config = int(kinds.DEGENERATE)
        return geometry
    if found.kind == "planar":
        # a plane, or a camera that only turned: without poses COLMAP itself does not say which
        geometry.config = int(kinds.PLANAR_OR_PANORAMIC)
        geometry.H = homography_to_colmap(found.matrix)
    elif found.kind == "calibrated":
        geometry.config = int(kinds.CALIBRATED)
        geometry.E = found.matrix
    else:
        geometry.config = int(kinds.UNCALIBRATED)
        geometry.F = fundamental_to_colmap(found.matrix)
    geometry.inlier_matches = indices[found.inliers].astype(np.uint32)
    return geometry


def _calibration(camera: Any) -> NDArray[np.float64] | None:
    if not camera.has_prior_focal_length:
        return None
    return camera_matrix(np.asarray(camera.params), len(camera.focal_length_idxs()))

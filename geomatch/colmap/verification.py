"""Two-view geometries of matched pairs: by COLMAP, or ours in its configuration and convention."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.colmap import conventions
from geomatch.colmap.cameras import known_camera
from geomatch.colmap.conventions import CONFIGURATIONS, PAIR_BASE
from geomatch.colmap.library import database, interruptible
from geomatch.engine import BlockTask, FailedItem, RunContext, Work
from geomatch.engine.run import LazyBlock, grouped, in_blocks
from geomatch.errors import GeomatchError
from geomatch.estimators import estimate_two_view
from geomatch.progress import progress_bar
from geomatch.types import EstimationFailure, TwoViewGeometry

Verification = Literal["colmap", "geomatch", "none"]
_BATCH = 64
_TODO = "FROM matches WHERE rows > 0 AND pair_id NOT IN (SELECT pair_id FROM two_view_geometries)"
Found = TwoViewGeometry | EstimationFailure


def verify_database(path: Path, verification: Verification, seed: int, context: RunContext) -> dict[str, int]:
    """Give every pair with matches the geometry that it lacks; count all by configuration."""
    if verification == "colmap":
        verify_with_colmap(path, seed, context.progress)
    elif verification == "geomatch":
        with context.started() as run:
            verify_with_ours(path, run.work())
    known = f"WHERE config < {len(CONFIGURATIONS)} GROUP BY config ORDER BY config"
    query = f"SELECT config, count(*) FROM two_view_geometries {known}"
    with closing(sqlite3.connect(path)) as connection:
        return {CONFIGURATIONS[kind]: number for kind, number in connection.execute(query)}


def verify_with_colmap(path: Path, seed: int, progress: bool) -> None:
    """Have COLMAP estimate the geometry of every pair that has matches but no geometry."""
    library = pycolmap()
    options = library.TwoViewGeometryOptions()
    options.ransac.random_seed = seed

    def verify(token: Any) -> None:
        library.geometric_verification(str(path), two_view_geometry_options=options, cancellation_token=token)

    with closing(sqlite3.connect(path)) as connection:

        def left() -> int:
            return int(connection.execute(f"SELECT count(*) {_TODO}").fetchone()[0])

        total = left()
        if not total:
            return
        with progress_bar(None, "verification", "pair", total, progress) as bar:
            interruptible(verify, lambda: bar.update(total - left() - bar.n))
            bar.update(total - bar.n)


def verify_with_ours(path: Path, work: Work) -> None:
    """Estimate the geometries that pairs lack; failures are written as degenerate, which mappers ignore."""
    with closing(sqlite3.connect(path)) as connection:
        todo = [row[0] for row in connection.execute(f"SELECT pair_id {_TODO} ORDER BY pair_id")]
    failed = {}
    with database(str(path)) as opened, pycolmap().DatabaseTransaction(opened):
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        views = {image.image_id: cameras[image.camera_id] for image in opened.read_all_images()}
        blocks = [LazyBlock(part, partial(_read_pair, opened, views)) for part in in_blocks(todo, _BATCH)]
        results: Iterator[tuple[_Pair, Found | FailedItem]]
        results = work.results(BlockTask(_verify), blocks, "verification", "pair")
        for pair, result in results:
            image_ids = divmod(pair.pair_id, PAIR_BASE)
            if isinstance(result, FailedItem):
                failed["images {} and {}".format(*image_ids)] = result.reason
                continue
            indices = np.asarray(opened.read_matches(*image_ids), np.int64)
            opened.write_two_view_geometry(*image_ids, to_two_view_geometry(result, indices))
        if failed:
            raise GeomatchError("pairs could not be verified: " + "; ".join(grouped(failed)))


class _Pair(NamedTuple):
    """Matched points of two images, undistorted where a focal length is known, NaN where that fails."""

    pair_id: int
    points: tuple[NDArray[np.floating], NDArray[np.floating]]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    calibrations: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]


def _verify(block: Sequence[_Pair]) -> list[Found | FailedItem]:
    results: list[Found | FailedItem] = []
    for pair in block:
        points0, points1 = pair.points
        seen = np.asarray(np.isfinite(points0 + points1).all(axis=1))
        found = estimate_two_view(points0[seen], points1[seen], *pair.sizes, *pair.calibrations)
        if found:
            inliers = seen.copy()
            inliers[seen] = found.inliers
            found = replace(found, inliers=inliers, watermark=None)  # which nothing here asks for
        results.append(found)
    return results


def _read_pair(opened: Any, views: dict[int, Any], pair_id: int) -> _Pair:
    ids = divmod(pair_id, PAIR_BASE)
    rows = np.asarray(opened.read_matches(*ids), np.int64).T

    def view(image_id: int, own: NDArray[np.int64]) -> tuple[Any, tuple[int, int], Any]:
        camera = views[image_id]
        points = conventions.from_colmap(np.asarray(opened.read_keypoints(image_id))[own, :2])
        known, size = known_camera(camera), (camera.width, camera.height)
        if known is None:
            return points, size, None
        matrix = conventions.camera_from_colmap(camera.calibration_matrix())
        return known.rays(points) @ matrix[:2, :2].T + matrix[:2, 2], size, matrix

    return _Pair(pair_id, *zip(*map(view, ids, rows), strict=True))


def to_two_view_geometry(found: Found, indices: NDArray[np.int64]) -> Any:
    """Convert a geometry in our pixels, estimated from matches (M, 2), to pycolmap's object."""
    geometry = pycolmap().TwoViewGeometry()
    if not found:
        geometry.config = CONFIGURATIONS.index("watermark" if found.watermark else "degenerate")
        return geometry
    if found.config == "planar":
        geometry.H = conventions.homography_to_colmap(found.matrix)
    elif found.config == "calibrated":
        geometry.E = found.matrix
    else:
        geometry.F = conventions.fundamental_to_colmap(found.matrix)
    # a plane, or a camera that only turned: without poses COLMAP itself does not say which
    kind = "planar or panoramic" if found.config == "planar" else found.config
    geometry.config = CONFIGURATIONS.index(kind)
    geometry.inlier_matches = indices[found.inliers].astype(np.uint32)
    return geometry

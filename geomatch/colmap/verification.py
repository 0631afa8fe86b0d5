"""Two-view geometries of matched pairs: by COLMAP, or ours in its configuration and convention."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.cameras import pycolmap
from geomatch.colmap import conventions
from geomatch.colmap.conventions import PAIR_BASE
from geomatch.colmap.library import database, interruptible
from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import LazyBlock, grouped, in_blocks
from geomatch.errors import GeomatchError
from geomatch.estimators import estimate_two_view
from geomatch.types import EstimationFailure, TwoViewGeometry

Verification = Literal["colmap", "geomatch", "none"]
_BATCH = 64
_TODO = "FROM matches WHERE rows > 0 AND pair_id NOT IN (SELECT pair_id FROM two_view_geometries)"
Found = TwoViewGeometry | EstimationFailure


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
        with tqdm(total=total, desc="verification", unit="pair", disable=None if progress else True) as bar:
            interruptible(verify, lambda: bar.update(total - left() - bar.n))
            bar.update(total - bar.n)


def verify_with_ours(path: Path, work: Work) -> None:
    """Estimate the geometry of every pair that has matches but no geometry.

    Pairs that fail are written as degenerate without inliers, which mappers ignore.
    """
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


def _verify(block: "Sequence[_Pair]") -> list[Found | FailedItem]:
    return [estimate_two_view(*pair.points, *pair.sizes, *pair.calibrations) for pair in block]


class _Pair(NamedTuple):
    """Matched points of two images, in our coordinates."""

    pair_id: int
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    calibrations: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]


def _read_pair(opened: Any, views: dict[int, Any], pair_id: int) -> _Pair:
    id0, id1 = divmod(pair_id, PAIR_BASE)
    indices = np.asarray(opened.read_matches(id0, id1), np.int64)

    def points(image_id: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return conventions.from_colmap(np.asarray(opened.read_keypoints(image_id))[rows, :2])

    camera0, camera1 = views[id0], views[id1]
    return _Pair(
        pair_id,
        (points(id0, indices[:, 0]), points(id1, indices[:, 1])),
        ((camera0.width, camera0.height), (camera1.width, camera1.height)),
        (_calibration(camera0), _calibration(camera1)),
    )


def to_two_view_geometry(found: Found, indices: NDArray[np.int64]) -> Any:
    """Convert a geometry in our pixels, estimated from matches (M, 2), to pycolmap's object."""
    library = pycolmap()
    kinds = library.TwoViewGeometryConfiguration
    geometry = library.TwoViewGeometry()
    if not found:
        geometry.config = int(kinds.WATERMARK if found.watermark else kinds.DEGENERATE)
        return geometry
    if found.config == "planar":
        # a plane, or a camera that only turned: without poses COLMAP itself does not say which
        geometry.config = int(kinds.PLANAR_OR_PANORAMIC)
        geometry.H = conventions.homography_to_colmap(found.matrix)
    elif found.config == "calibrated":
        geometry.config = int(kinds.CALIBRATED)
        geometry.E = found.matrix
    else:
        geometry.config = int(kinds.UNCALIBRATED)
        geometry.F = conventions.fundamental_to_colmap(found.matrix)
    geometry.inlier_matches = indices[found.inliers].astype(np.uint32)
    return geometry


def _calibration(camera: Any) -> NDArray[np.float64] | None:
    if not camera.has_prior_focal_length:
        return None
    return conventions.camera_from_colmap(camera.calibration_matrix())

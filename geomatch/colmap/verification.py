"""Our own two-view geometries, in COLMAP's configuration and convention."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.collection.correspondences import Correspondences, MatchedPair
from geomatch.colmap.conventions import camera_matrix, fundamental_to_colmap, homography_to_colmap
from geomatch.colmap.library import pycolmap
from geomatch.estimators import estimate_two_view
from geomatch.types import EstimationFailure, TwoViewGeometry

_BATCH = 64
Found = TwoViewGeometry | EstimationFailure


def write_own_geometries(
    opened: Any, ids: Mapping[str, int], correspondences: Correspondences, progress: bool
) -> None:
    """Estimate and write a two-view geometry for every pair with matches in the database.

    Pairs that fail are written as degenerate without inliers, which mappers ignore.
    """
    images = {image.image_id: image for image in opened.read_all_images()}
    cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
    calibrations = {name: _calibration(cameras[images[image_id].camera_id]) for name, image_id in ids.items()}
    features = correspondences.features

    def work(pair: MatchedPair) -> Found:
        first, second = features[pair.name0], features[pair.name1]
        i, j = pair.matches.indices.T
        return estimate_two_view(
            first.keypoints[i],
            second.keypoints[j],
            first.image_size,
            second.image_size,
            calibrations[pair.name0],
            calibrations[pair.name1],
        )

    def wanted() -> Iterator[MatchedPair]:
        for pair in correspondences.pairs:
            known = pair.name0 in ids and pair.name1 in ids and len(pair.matches) > 0
            if known and not opened.exists_two_view_geometry(ids[pair.name0], ids[pair.name1]):
                yield pair

    bar = tqdm(desc="verification", unit="pair", disable=not progress)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        batch: list[MatchedPair] = []
        done: set[tuple[str, ...]] = set()
        for pair in (*wanted(), None):
            if pair is not None:
                key = tuple(sorted((pair.name0, pair.name1)))
                if key in done:
                    continue
                done.add(key)
                batch.append(pair)
            if len(batch) == _BATCH or pair is None:
                for one, geometry in zip(batch, pool.map(work, batch), strict=True):
                    opened.write_two_view_geometry(
                        ids[one.name0], ids[one.name1], to_two_view_geometry(geometry, one.matches.indices)
                    )
                    bar.update()
                batch = []


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

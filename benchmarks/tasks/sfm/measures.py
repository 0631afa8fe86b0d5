"""A model against the truth: aligned, then poses and points compared."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import pycolmap
from geomatch.reconstruction.models import posed_images

Array = NDArray[np.float64]
Poses = dict[str, tuple[Array, Array]]
"""By image: the rotation (3, 3) from the world to the camera, and the centre (3,) of the camera."""


def poses_of(model: Any) -> Poses:
    """The poses of a ``pycolmap.Reconstruction``, sorted by name."""
    posed = posed_images(model)
    return {one.name: (one.cam_from_world().rotation.matrix(), one.projection_center()) for one in posed}


def points_of(model: Any) -> Array:
    """(N, 3) points of a ``pycolmap.Reconstruction``."""
    return np.array([point.xyz for point in model.points3D.values()], np.float64).reshape(-1, 3)


def extent_of(centres: Array) -> float:
    """Diagonal of the box around camera centres (N, 3), the unit of distances in percent."""
    return float(np.linalg.norm(np.ptp(centres, axis=0)))


def align(centres: Array, truth: Array, extent: float) -> Any:
    """The ``pycolmap.Sim3d`` that takes camera centres (N, 3) to their true places; None if there is none.

    By COLMAP's LO-RANSAC, which ends with Umeyama's least squares (PAMI 1991) of the inliers. These lie
    within three times the least of nine distances, 0.01 to 100 % of the extent, within which more than half
    of the centres do, so that wrong ones pull nothing. The turn about centres on one line is open.
    """
    library = pycolmap()
    options = library.RANSACOptions()
    options.random_seed = 0
    for near in np.geomspace(1e-4, 1, 9):
        options.max_error = near * extent
        found = library.estimate_sim3d_robust(centres, truth, options)
        if found and found["num_inliers"] >= max(3, len(truth) // 2 + 1):
            options.max_error *= 3
            return (library.estimate_sim3d_robust(centres, truth, options) or found)["tgt_from_src"]
    return None


def pair_errors(found: Poses, truth: Poses) -> Array:
    """(N, N) degrees between the relative poses of every two images of ``truth``, in its order.

    The larger of the angles of rotation and of translation, whose sign counts; of pairs as in the Image
    Matching Challenge (Jin et al., IJCV 2021). Infinite where an image is not in ``found``, NaN on the
    diagonal and for a true baseline of zero.
    """
    known = np.array([name in found for name in truth])
    turns, shifts = _relative([truth[name] for name in truth])
    own_turns, own_shifts = _relative([found.get(name, truth[name]) for name in truth])
    lengths = np.linalg.norm(shifts, axis=-1), np.linalg.norm(own_shifts, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        angles = [
            ((turns * own_turns).sum((-2, -1)) - 1) / 2,
            np.where(lengths[1] > 0, (shifts * own_shifts).sum(-1) / (lengths[0] * lengths[1]), -1.0),
        ]
    errors = np.degrees(np.arccos(np.clip(angles, -1.0, 1.0))).max(axis=0)
    errors[~known], errors[:, ~known] = np.inf, np.inf
    errors[~(lengths[0] > 0)] = np.nan
    return np.asarray(errors, np.float64)


def _relative(poses: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(N, N, 3, 3) and (N, N, 3): rotation and translation from camera i to k."""
    turns, centres = (np.array(part) for part in zip(*poses, strict=True))
    away = centres[:, None] - centres[None]
    return np.einsum("kab,icb->ikac", turns, turns), np.einsum("kab,ikb->ika", turns, away)


def nearest(points: Array, others: Array) -> Array:
    """(N,) distance of each point (N, 3) from the nearest of ``others``; infinite if there is none."""
    from scipy.spatial import cKDTree

    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    return np.asarray(cKDTree(others).query(points)[0], np.float64)

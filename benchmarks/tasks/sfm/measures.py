"""A model against the truth: aligned, then poses and points compared."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.epipolar import angles_between

Array = NDArray[np.float64]
_ROUNDS = 50  # of the reweighted alignment; it has settled by then


@dataclass(frozen=True, eq=False, slots=True)
class Similarity:
    """``scale * rotation @ x + shift``."""

    scale: float
    rotation: Array
    """(3, 3)"""
    shift: Array
    """(3,)"""

    def send(self, points: Array) -> Array:
        """Move points (N, 3)."""
        return self.scale * points @ self.rotation.T + self.shift


def align(points: Array, truth: Array) -> Similarity:
    """The similarity that takes points (N, 3), at least 3, to their true places: least absolute distances.

    Umeyama's solution (PAMI 1991) with each point weighted by the inverse of its last distance, so that
    single wrong cameras do not pull the others along.
    """
    weights, floor = np.ones(len(points)), 1e-6 * float(np.ptp(truth, axis=0).max())
    for _ in range(_ROUNDS):
        share = (weights / weights.sum())[:, None]
        middle, true_middle = (share * points).sum(axis=0), (share * truth).sum(axis=0)
        centred, true_centred = points - middle, truth - true_middle
        left, values, right = np.linalg.svd((share * true_centred).T @ centred)
        signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
        rotation = left * signs @ right
        scale = float((values * signs).sum() / max((share * centred**2).sum(), 1e-300))
        found = Similarity(scale, rotation, true_middle - scale * rotation @ middle)
        weights = 1 / np.maximum(np.linalg.norm(found.send(points) - truth, axis=1), floor)
    return found


def poses_of(model: Any) -> dict[str, tuple[Array, Array]]:
    """Rotation (3, 3) from the world to the camera and centre (3,) of each image with a pose, by name."""
    return {
        image.name: (
            np.asarray(image.cam_from_world().rotation.matrix(), np.float64),
            np.asarray(image.projection_center(), np.float64),
        )
        for image in model.images.values()
        if image.has_pose
    }


def extent_of(centres: Array) -> float:
    """Diagonal of the box around camera centres (N, 3), the unit of distances in percent."""
    return float(np.linalg.norm(np.ptp(centres, axis=0)))


def pair_errors(found: dict[str, tuple[Array, Array]], truth: dict[str, tuple[Array, Array]]) -> Array:
    """(N, N) degrees between relative poses of every two images of ``truth``, sorted by name.

    The larger of the angles of rotation and of translation, as in the Image Matching Challenge (Jin et al.,
    IJCV 2021); infinite where an image has no pose, NaN on the diagonal and for a true baseline of zero.
    """
    names = sorted(truth)
    errors = np.full((len(names), len(names)), np.inf)
    for i, one in enumerate(names):
        for k, other in enumerate(names):
            right = _relative(truth[one], truth[other])
            if i == k or not np.linalg.norm(right[1]) > 0:
                errors[i, k] = np.nan
            elif one in found and other in found:
                own = _relative(found[one], found[other])
                turn, way = angles_between(right, own) if np.linalg.norm(own[1]) > 0 else (180.0, 180.0)
                errors[i, k] = max(turn, way)
    return errors


def _relative(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Rotation and translation from the one camera to the other."""
    return other[0] @ one[0].T, other[0] @ (one[1] - other[1])


def rotation_error(found: Array, truth: Array) -> float:
    """Degrees between two rotations (3, 3)."""
    cosine = (float(np.trace(found @ truth.T)) - 1) / 2
    sine = float(np.linalg.norm(found @ truth.T - truth @ found.T)) / (2 * np.sqrt(2))
    return float(np.degrees(np.arctan2(sine, cosine)))


def nearest(points: Array, others: Array) -> Array:
    """(N,) distance of each point (N, 3) from the nearest of ``others``; infinite if there is none."""
    from scipy.spatial import cKDTree

    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    return np.asarray(cKDTree(others).query(points)[0], np.float64)

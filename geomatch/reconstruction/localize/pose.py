"""Pose of a camera from pixels and the model's points: solved, and believed only where it is determined."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from math import ceil, hypot
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, pycolmap
from geomatch.colmap.conventions import to_colmap
from geomatch.estimators.determinacy import inverse_of, leaned_on, noise_variance
from geomatch.estimators.evidence import FINEST, Points, independence, log10_nfa
from geomatch.estimators.gate import MAX_LOG10_NFA
from geomatch.types import EstimationFailure

THRESHOLD = 0.005
"""Largest reprojection error of an inlier as a share of the image's diagonal: 4 px of 640x480."""
_FREE_IS_BETTER = 1.25  # times the inliers: a focal length that the matches want is taken against a known one
_MODELS = 4  # poses that three points give at most (Gao et al., PAMI 2003)
_OCTAVES = 7  # how often the threshold is doubled to measure how densely keypoints lie
_DEVIATIONS = (
    2.0,
    0.05,
)  # degrees, and share of the distance to the points, from which on it is not determined
_CELLS = 8  # per side of the image, of which inliers must lie in the share that follows
_COVERAGE = 0.15


class Trial(NamedTuple):
    """A camera to solve with, and what is not known of it."""

    camera: Camera
    estimate: bool = False  # find the focal length among the matches
    refine: bool = False  # fit it at the end


@dataclass(frozen=True, eq=False, slots=True)
class Pose:
    """A camera's pose in the model."""

    cam_from_world: Points
    """(3, 4), COLMAP's: from the model to the camera, x right, y down, z forward."""
    camera: Camera
    inliers: NDArray[np.bool_]
    """(M,) matches that agree."""
    rotation_deviation: float
    """Standard deviation in degrees."""
    centre_deviation: float
    """In the model's units."""


class _Solved(NamedTuple):
    matrix: Points
    camera: Any
    residuals: Points  # (M, 2) pixels
    free: bool

    def inliers(self, threshold: float) -> NDArray[np.bool_]:
        return np.asarray(np.linalg.norm(self.residuals, axis=1) <= threshold)


def estimate_pose(
    pixels: Points, points: Points, trials: Sequence[Trial], around: Points, seed: int = 0
) -> Pose | EstimationFailure:
    """Solve with COLMAP, and accept what is beyond chance, spread over the view and determined.

    Pixels (M, 2), centre of the first pixel (0, 0), show points (M, 3) of the model. The last of the trials
    has a free focal length. ``around`` (S, 3) are the points that images seen from about there show.
    """
    total, threshold = len(pixels), THRESHOLD * hypot(*trials[0].camera.size)
    best: _Solved | None = None
    for trial in trials if total > _MODELS else ():
        found = _solve(pixels, points, trial, threshold, seed)
        if found is not None:
            margin = 1.0 if best is None else _FREE_IS_BETTER * best.inliers(threshold).sum()
            best = found if found.inliers(threshold).sum() >= margin else best
    if best is None:
        return EstimationFailure(f"no pose agrees with {total} 2D-3D matches")
    agree = best.inliers(threshold)
    weights = independence(pixels[agree], pixels[agree], FINEST * threshold)
    least = _least_inliers(pixels, pixels - best.residuals, threshold, 4 if best.free else 3)
    text = f"{agree.sum()} of {total} 2D-3D matches agree with one pose"
    if (places := ceil(weights.sum() - 1e-6)) < least:
        return EstimationFailure(f"{text}, at {places} separate places; beyond chance are {least}")
    share = _coverage(best, pixels[agree], around)
    if share < _COVERAGE:
        return EstimationFailure(
            f"{text}, but in {share:.0%} of the view alone: it may be an object elsewhere"
        )
    depth = float(np.median(best.matrix[2, :3] @ points[agree].T + best.matrix[2, 3]))
    (turn, shift), leaning = _deviations(best, points[agree], weights, depth, threshold)
    if turn > _DEVIATIONS[0] or shift > _DEVIATIONS[1] or max(leaning) > 5 * _DEVIATIONS[0]:
        return EstimationFailure(
            f"{text}, but they do not determine it: uncertain by {min(turn, 180.0):.1f} degrees, and "
            f"{min(shift, 9.99):.0%} of the distance to the points"
        )
    camera = Camera(best.camera.model_name, (best.camera.width, best.camera.height), best.camera.params)
    return Pose(best.matrix, camera, agree, turn, shift * depth)


def _solve(pixels: Points, points: Points, trial: Trial, threshold: float, seed: int) -> _Solved | None:
    library, (width, height) = pycolmap(), trial.camera.size
    camera = library.Camera(
        model=trial.camera.model, width=width, height=height, params=np.array(trial.camera.params)
    )
    estimation, refinement = library.AbsolutePoseEstimationOptions(), library.AbsolutePoseRefinementOptions()
    estimation.estimate_focal_length, refinement.refine_focal_length = trial.estimate, trial.refine
    estimation.ransac.max_error, estimation.ransac.random_seed = threshold, seed
    estimation.ransac.min_inlier_ratio = 0.02
    found = library.estimate_and_refine_absolute_pose(
        to_colmap(pixels), points, camera, estimation, refinement
    )
    if found is None:
        return None
    matrix = np.asarray(found["cam_from_world"].matrix(), np.float64)
    return _Solved(matrix, camera, pixels - project(camera, matrix, points), trial.refine)


def project(camera: Any, matrix: Points, points: Points) -> Points:
    """(N, 2) our pixels of points (N, 3); far away for those behind the camera."""
    local = points @ matrix[:, :3].T + matrix[:, 3]
    seen = local[:, 2] > 0
    pixels = np.full((len(points), 2), -1e6)
    pixels[seen] = np.nan_to_num(np.asarray(camera.img_from_cam(local[seen])) - 0.5, nan=-1e6)
    return pixels


def _least_inliers(pixels: Points, projected: Points, threshold: float, sample: int) -> int:
    """The fewest inliers that chance does not explain, see `log10_nfa`.

    Chance is that a keypoint lies where the point of another, elsewhere in the image, is projected.
    """
    total = len(pixels)
    shifts = np.unique(np.linspace(1, total - 1, 20).astype(int))
    away = [np.linalg.norm(np.roll(projected, s, 0) - pixels, axis=1) for s in shifts]
    same = [np.linalg.norm(np.roll(pixels, s, 0) - pixels, axis=1) <= 2 * threshold for s in shifts]
    others = np.concatenate(away)[~np.concatenate(same)]
    chance = max(float((others <= threshold * 2**k).mean()) / 4**k for k in range(_OCTAVES))
    counts = range(sample + 1, total + 1)
    good = (k for k in counts if log10_nfa(total, k, chance, sample, _MODELS) <= MAX_LOG10_NFA)
    return next(good, total + 1)


def _coverage(solved: _Solved, inliers: Points, around: Points) -> float:
    """Share of the cells in which the model has points, under the pose, that have inliers.

    A poster, or another thing that is found in several places, gives a pose that its part alone supports.
    """
    size = np.array([solved.camera.width, solved.camera.height])
    shown = project(solved.camera, solved.matrix, around)
    cells = []
    for places in (shown, inliers):
        inside = places[((places > -0.5) & (places < size - 0.5)).all(axis=1)]
        cells.append({tuple(cell) for cell in ((inside + 0.5) * _CELLS / size).astype(int).tolist()})
    return len(cells[0] & cells[1]) / max(1, len(cells[0] | cells[1]))


def _deviations(
    solved: _Solved, points: Points, weights: Points, depth: float, threshold: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Standard deviations of rotation (degrees) and centre (in ``depth``): all inliers, and without the fifth
    of them that the fit leans on most; ``inf`` where they do not determine the pose."""
    import cv2

    rotation, step = solved.matrix[:, :3], 1e-6
    centre = -rotation.T @ solved.matrix[:, 3]
    index = solved.camera.focal_length_idxs()

    def moved(change: Points) -> Points:
        turned = cv2.Rodrigues(change[:3])[0] @ rotation
        camera, params = copy(solved.camera), np.array(solved.camera.params)
        params[index] *= 1 + change[6]
        camera.params = params
        return project(camera, np.column_stack([turned, -turned @ (centre + depth * change[3:6])]), points)

    freedom = 7 if solved.free else 6
    axes = step * np.eye(7)[:freedom]
    rows = np.stack([(moved(axis) - moved(-axis)) / (2 * step) for axis in axes], axis=2)
    residuals = solved.residuals[solved.inliers(threshold)]
    squares = (weights[:, None] * residuals**2).sum()
    variance = noise_variance(squares, 2 * weights.sum() - freedom, threshold)
    normal = np.einsum("m,mki,mkj->ij", weights, rows, rows)

    def of(matrix: Points) -> tuple[float, float]:
        inverse = inverse_of(matrix)
        if inverse is None:
            return np.inf, np.inf
        variances = variance * np.diag(inverse)
        return float(np.degrees(variances[:3].sum() ** 0.5)), float(variances[3:6].sum() ** 0.5)

    return of(normal), of(normal - leaned_on(rows, weights, normal))

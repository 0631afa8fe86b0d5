"""Pose of a camera from pixels and the model's points: solved, and believed only where it is determined."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from math import ceil, hypot, inf
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera, pycolmap
from geomatch.colmap.conventions import to_colmap
from geomatch.estimators.determinacy import inverse_of, leaned_on, noise_variance
from geomatch.estimators.evidence import FINEST, Points, independence, log10_nfa
from geomatch.estimators.gate import MAX_LOG10_NFA

THRESHOLD = 0.005
"""Largest reprojection error of an inlier as a share of the image's diagonal: 4 px of 640x480."""
_BETTER = 1.25  # times the inliers, for which another focal length is taken than a known one
_POSES = 4  # that three points give at most (Gao et al., PAMI 2003)
_OCTAVES = 7  # how often the threshold is doubled to measure how densely keypoints lie
_DEVIATIONS = (2.0, 0.05)  # degrees, and share of the points' distance, that determine nothing
_CELLS = 8  # per side of the image
_SHARE, _COVERAGE = 0.25, 0.15  # of the matches in a cell, and of the cells in which so many must agree
_FAR = -1e6  # pixels of what is behind the camera


@dataclass(frozen=True, eq=False, slots=True)
class Localization:
    """Where an image was taken; false when that is not known."""

    reason: str = ""
    """Why there is no pose; empty if there is one."""
    num_matches: int = 0
    """2D-3D matches."""
    inliers: int = 0
    """Those that agree with the pose."""
    cam_from_world: NDArray[np.float64] | None = None
    """(3, 4), COLMAP's: from the model to the camera, x right, y down, z forward, of raw pixels."""
    camera: Camera | None = None
    rotation_deviation: float | None = None
    """Standard deviation in degrees, as that of the centre if the model is exact."""
    centre_deviation: float | None = None
    """Standard deviation in the model's units."""
    centre_percent: float | None = None
    """The same in percent of the model's extent."""
    retrieved: tuple[str, ...] = ()
    """The model's images that look alike, the most alike first."""

    def __bool__(self) -> bool:
        return self.cam_from_world is not None

    @property
    def centre(self) -> NDArray[np.float64] | None:
        """(3,) centre of projection, in the model's units."""
        pose = self.cam_from_world
        return None if pose is None else -pose[:, :3].T @ pose[:, 3]

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        arrays = {"cam_from_world": self.cam_from_world, "centre": self.centre}
        return asdict(self) | {name: None if a is None else a.tolist() for name, a in arrays.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave."""
        values = {name: content[name] for name in cls.__dataclass_fields__}
        if values["cam_from_world"] is not None:
            pose = np.array(values["cam_from_world"], np.float64).reshape(3, 4)
            values |= {"cam_from_world": pose, "camera": Camera(**values["camera"])}
        return cls(**values | {"retrieved": tuple(values["retrieved"])})


class Trial(NamedTuple):
    """A camera to solve with, and what is not known of it."""

    camera: Camera
    estimate: bool = False  # the focal length is found among the matches
    refine: bool = False  # and fitted at the end


class _Solved(NamedTuple):
    matrix: Points
    camera: Any
    residuals: Points  # (M, 2) pixels
    agree: NDArray[np.bool_]
    freedom: int


def estimate_pose(pixels: Points, points: Points, trials: Sequence[Trial], extent: float) -> Localization:
    """Solve with COLMAP, and accept what is beyond chance, spread over the view and determined.

    Pixels (M, 2), centre of the first pixel (0, 0), show points (M, 3) of the model, of that ``extent``.
    """
    total, threshold = len(pixels), THRESHOLD * hypot(*trials[0].camera.size)
    best: _Solved | None = None
    for trial in trials if total > _POSES else ():
        found = _solve(pixels, points, trial, threshold)
        if found and (best is None or found.agree.sum() > _BETTER * best.agree.sum()):
            best = found
    if best is None:
        return Localization(f"no pose agrees with {total} 2D-3D matches", total)
    agree, count = best.agree, int(best.agree.sum())
    weights = independence(pixels[agree], pixels[agree], FINEST * threshold)
    least = _least_inliers(pixels, pixels - best.residuals, threshold, best.freedom - 3)
    text, places = f"{count} of {total} 2D-3D matches agree with one pose", ceil(weights.sum() - 1e-6)
    if places < least:
        return Localization(f"{text}, at {places} places; {least} would be more than chance", total, count)
    share = _coverage(pixels, agree, trials[0].camera.size)
    if share < _COVERAGE:
        text += f", but in {share:.0%} of the view alone: it may be a thing that is found elsewhere, too"
        return Localization(text, total, count)
    depth = float(np.median(points[agree] @ best.matrix[2, :3] + best.matrix[2, 3]))
    (turn, shift), leaning = _deviations(best, points[agree], weights, depth, threshold)
    if max(turn, leaning[0] / 2) > _DEVIATIONS[0] or max(shift, leaning[1] / 2) > _DEVIATIONS[1]:
        text += f", but do not determine it: uncertain by {min(turn, 180.0):.1f} degrees, and by"
        return Localization(f"{text} {min(shift, 9.99):.0%} of the distance to the points", total, count)
    camera = Camera(best.camera.model_name, trials[0].camera.size, tuple(best.camera.params))
    deviation = shift * depth
    return Localization("", total, count, best.matrix, camera, turn, deviation, 100 * deviation / extent)


def _solve(pixels: Points, points: Points, trial: Trial, threshold: float) -> _Solved | None:
    library, given = pycolmap(), trial.camera
    camera = library.Camera(model=given.model, width=given.size[0], height=given.size[1], params=given.params)
    estimation, refinement = library.AbsolutePoseEstimationOptions(), library.AbsolutePoseRefinementOptions()
    estimation.estimate_focal_length, refinement.refine_focal_length = trial.estimate, trial.refine
    ransac = estimation.ransac
    ransac.max_error, ransac.random_seed, ransac.min_inlier_ratio = threshold, 0, 0.02
    solve = library.estimate_and_refine_absolute_pose
    found = solve(to_colmap(pixels), points, camera, estimation, refinement)
    if found is None:
        return None
    matrix = np.asarray(found["cam_from_world"].matrix(), np.float64)
    residuals = pixels - _project(camera, matrix, points)
    agree = np.linalg.norm(residuals, axis=1) <= threshold
    return _Solved(matrix, camera, residuals, agree, 7 if trial.refine else 6)


def _project(camera: Any, matrix: Points, points: Points) -> Points:
    """(N, 2) our pixels of points (N, 3), in float64."""
    local = points @ matrix[:, :3].T + matrix[:, 3]
    pixels, seen = np.full((len(points), 2), _FAR), local[:, 2] > 0
    pixels[seen] = np.nan_to_num(camera.img_from_cam(local[seen]) - 0.5, nan=_FAR)
    return pixels


def _least_inliers(pixels: Points, projected: Points, threshold: float, sample: int) -> int:
    """The fewest inliers beyond chance, by which a keypoint lies where another one's point is projected."""
    total = len(pixels)
    shifts = np.unique(np.linspace(1, total - 1, 20).astype(int))
    apart = np.array([np.linalg.norm(np.roll(projected, s, 0) - pixels, axis=1) for s in shifts])
    other = np.array([np.linalg.norm(np.roll(pixels, s, 0) - pixels, axis=1) for s in shifts]) > 2 * threshold
    chance = max(float((apart <= threshold * 2**k)[other].mean()) / 4**k for k in range(_OCTAVES))
    good = (k for k in range(total + 1) if log10_nfa(total, k, chance, sample, _POSES) <= MAX_LOG10_NFA)
    return next(good, total + 1)


def _coverage(pixels: Points, agree: NDArray[np.bool_], size: tuple[int, int]) -> float:
    """Share of the image's cells with matches in which enough of them agree.

    A poster, or another thing that is found in several places, gives a pose that its part alone supports.
    """
    x, y = np.clip((pixels + 0.5) * _CELLS / size, 0, _CELLS - 1).astype(np.int64).T
    every, inliers = (np.bincount(_CELLS * y + x, own, _CELLS**2) for own in (np.ones(len(x)), agree))
    return float((inliers[every > 0] > _SHARE * every[every > 0]).mean())


def _deviations(
    solved: _Solved, points: Points, weights: Points, depth: float, threshold: float
) -> list[tuple[float, float]]:
    """Standard deviations of rotation (degrees) and centre (in ``depth``): of all inliers, and without the
    fifth of them that the fit leans on most; ``inf`` where they do not determine the pose."""
    import cv2

    rotation, step = solved.matrix[:, :3], 1e-6
    centre, index = -rotation.T @ solved.matrix[:, 3], solved.camera.focal_length_idxs()

    def moved(change: Points) -> Points:
        turned = cv2.Rodrigues(change[:3])[0] @ rotation
        camera, params = copy(solved.camera), np.array(solved.camera.params)
        params[index] *= 1 + change[6]
        camera.params = params
        return _project(camera, np.column_stack([turned, -turned @ (centre + depth * change[3:6])]), points)

    axes = step * np.eye(7)[: solved.freedom]
    rows = np.stack([(moved(axis) - moved(-axis)) / (2 * step) for axis in axes], axis=2)
    squares = (weights[:, None] * solved.residuals[solved.agree] ** 2).sum()
    variance = noise_variance(squares, 2 * weights.sum() - solved.freedom, threshold)
    normal = np.einsum("m,mki,mkj->ij", weights, rows, rows)
    found = []
    for matrix in (normal, normal - leaned_on(rows, weights, normal)):
        inverse = inverse_of(matrix)
        values = np.full(7, inf) if inverse is None else variance * np.diag(inverse)
        found.append((float(np.degrees(values[:3].sum() ** 0.5)), float(values[3:6].sum() ** 0.5)))
    return found

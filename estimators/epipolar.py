"""Matched rays of two cameras: distances from a pose's epipolar geometry, and the pose of least distances."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.cameras import Camera
from geomatch.estimators.evidence import Points
from geomatch.types import check_shape

CameraLike = Camera | ArrayLike
"""A `Camera`, or the matrix K (3, 3) of one without distortion, whose centre of the first pixel is (0, 0)."""
Pose = tuple[Points, Points]
"""Rotation (3, 3) and translation (3,) of length one: a point X of camera 0 is at R X + t in camera 1."""
_ROUNDS, _STILL = 10, 1e-7  # steps of a refinement, and the size of the last one in radians


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """What one camera sees."""

    pixels: Points
    """(M, 2)."""
    rays: Points
    """(M, 3) with z = 1; NaN where there is none."""
    steps: Points
    """(M, 2, 2) derivatives of x and y of the rays by the pixels."""

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "View":
        return View(self.pixels[rows], self.rays[rows], self.steps[rows])

    @property
    def focal(self) -> float:
        """Pixels per unit of a ray's x and y, in the middle."""
        return float(np.median(np.abs(np.linalg.det(self.steps)) ** -0.5))


def view_of(points: Points, camera: CameraLike, name: str) -> View:
    """The rays of points (M, 2); errors call the camera ``name``."""
    if isinstance(camera, Camera):
        rays = camera.rays(points)
        steps = [camera.rays(points + half) - camera.rays(points - half) for half in 0.5 * np.eye(2)]
    else:
        matrix = np.asarray(camera, np.float64)
        check_shape(name, matrix, (3, 3))
        if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[2, 2] != 1:
            raise ValueError(f"{name} must be a camera matrix with K[2, 2] = 1, got {matrix.tolist()}")
        inverse = np.linalg.inv(matrix)
        rays = points @ inverse[:2, :2].T + inverse[:2, 2]
        steps = [np.broadcast_to(column, points.shape) for column in inverse[:2, :2].T]
    return View(points, np.column_stack([rays, np.ones(len(points))]), np.stack(steps, axis=2))


def residuals_and_gradients(matrix: NDArray[np.floating], p0: Points, p1: Points) -> tuple[Points, Points]:
    """(M,) x1' F x0 of points (M, 2), and (2, M) its squared gradient by the point of each image."""
    h0, h1 = (np.column_stack([points, np.ones(len(points))]) for points in (p0, p1))
    lines = np.array([h1 @ matrix, h0 @ matrix.T])
    return np.asarray((h1 * lines[1]).sum(axis=1)), (lines[:, :, :2] ** 2).sum(axis=2)


def _sampson(view0: View, view1: View, matrix: Points) -> tuple[Points, Points]:
    """x1' E x0 (..., M) and its derivatives by both points' pixels (..., M, 4), for matrices (..., 3, 3).

    The first by the length of the second is Sampson's distance in pixels (Hartley and Zisserman, 11.4.3).
    """
    line1, line0 = view0.rays @ matrix.swapaxes(-1, -2), view1.rays @ matrix
    both = ((line0, view0.steps), (line1, view1.steps))
    gradients = [line[..., :1] * steps[:, 0] + line[..., 1:2] * steps[:, 1] for line, steps in both]
    return (view1.rays * line1).sum(axis=-1), np.concatenate(gradients, axis=-1)


def distances(view0: View, view1: View, pose: Pose) -> Points:
    """(M,) Sampson's distance in pixels."""
    values, gradients = _sampson(view0, view1, cross(pose[1]) @ pose[0])
    return np.asarray(np.abs(values) / np.maximum(np.linalg.norm(gradients, axis=1), 1e-300))


def linearised(view0: View, view1: View, pose: Pose) -> tuple[Points, Points, Points, Points]:
    """Distances (M,), their derivatives (M, 5) by the pose, those of the derivatives by the pixels (M, 5, 4),
    and the two directions (2, 3) in which the translation is moved."""
    rotation, translation = pose
    basis = np.linalg.svd(translation[None])[2][1:]
    skew = cross(translation)
    changes = [skew @ cross(axis) @ rotation for axis in np.eye(3)] + [cross(d) @ rotation for d in basis]
    values, gradients = _sampson(view0, view1, np.stack([skew @ rotation, *changes]))
    length = np.maximum(np.linalg.norm(gradients[0], axis=1), 1e-300)
    values, gradients = values / length, gradients / length[:, None]
    errors, unit = values[0], gradients[0]
    along = (gradients[1:] * unit).sum(axis=2)  # of the length, too: without it translations are biased
    rows = (values[1:] - errors * along).T
    return errors, rows, np.moveaxis(gradients[1:] - along[:, :, None] * unit, 0, 1), basis


def refined(view0: View, view1: View, pose: Pose, threshold: float, weights: Points) -> Pose:
    """Least squares of the distances up to ``threshold``, selected again in each step (Gauss-Newton)."""
    for _ in range(_ROUNDS):
        errors, rows, _, basis = linearised(view0, view1, pose)
        used = weights * (np.abs(errors) <= threshold)
        step = -np.linalg.lstsq((rows * used[:, None]).T @ rows, rows.T @ (used * errors), rcond=1e-12)[0]
        translation = pose[1] + step[3:] @ basis
        pose = cv2.Rodrigues(step[:3])[0] @ pose[0], translation / np.linalg.norm(translation)
        if np.abs(step).max() < _STILL:
            break
    return pose


def in_front(view0: View, view1: View, pose: Pose) -> NDArray[np.bool_]:
    """(M,) the rays come nearest to each other in front of both cameras."""
    a, b, t = view0.rays @ pose[0].T, view1.rays, pose[1]
    ab, at, bt = (a * b).sum(axis=1), a @ t, b @ t
    return np.asarray((ab * bt > (b * b).sum(axis=1) * at) & ((a * a).sum(axis=1) * bt > ab * at))


def displacements(view0: View, view1: View, rotation: Points) -> Points:
    """(M,) pixels of image 1 between its points and where a camera that only turns would see them."""
    turned = view0.rays @ rotation.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        away = np.linalg.solve(view1.steps, (turned[:, :2] / turned[:, 2:] - view1.rays[:, :2])[:, :, None])
        lengths = np.linalg.norm(away[:, :, 0], axis=1)
    return np.where((turned[:, 2] > 0) & np.isfinite(lengths), lengths, np.inf)


def rotation_between(view0: View, view1: View, rotation: Points, threshold: float) -> Points:
    """The rotation that most rays agree on, beginning with ``rotation`` (Kabsch, 1976)."""
    unit0, unit1 = (view.rays / np.linalg.norm(view.rays, axis=1)[:, None] for view in (view0, view1))
    for turn in range(_ROUNDS if len(unit0) >= 3 else 0):
        moved = displacements(view0, view1, rotation)
        near = moved <= max(threshold, float(np.median(moved)) if turn < _ROUNDS // 2 else 0.0)
        if near.sum() < 3:
            break
        u, _, vt = np.linalg.svd(unit1[near].T @ unit0[near])
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return rotation


def cross(v: Points) -> Points:
    """(3, 3) matrix of the cross product."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def angles_between(pose0: Pose, pose1: Pose) -> tuple[float, float]:
    """Degrees between two rotations, and between two translations of any length but zero."""
    lengths = np.linalg.norm(pose1[1]) * np.linalg.norm(pose0[1])
    cosines = (np.trace(pose1[0].T @ pose0[0]) - 1) / 2, pose1[1] @ pose0[1] / lengths
    turn, shift = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return float(turn), float(shift)

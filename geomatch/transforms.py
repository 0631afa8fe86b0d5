"""What the matrix of a plane model means in numbers, and what a residual warp adds to it."""

from math import atan2, cos, degrees, hypot, radians

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PLANES = ("homography", "affine", "similarity", "euclidean", "translation")
"""Plane models, each of which the one before contains."""
SMOOTH = ("tps", "polynomial")
"""Residual warps: a thin-plate spline, and a polynomial of degree 2."""
_STEP = 1e-6  # of an entry of the matrix, for derivatives; entries but those of a shift are near one


def plane_parameters(model: str, matrix: Array) -> dict[str, float]:
    """Parameters by name of a plane model's matrix (3, 3); angles in degrees, shifts in pixels of image 1.

    Those of an affine map are scikit-image's (``AffineTransform``): scale, then shear, rotation and shift.
    """
    if model == "homography":
        return {f"h{n // 3}{n % 3}": float(value) for n, value in enumerate(matrix.ravel()[:8])}
    (a, b, x), (c, d, y) = matrix[:2].tolist()
    shift, turn = {"x": x, "y": y}, degrees(atan2(c, a))
    if model == "translation":
        return shift
    if model == "euclidean":
        return {"rotation": turn, **shift}
    if model == "similarity":
        return {"scale": hypot(a, c), "rotation": turn, **shift}
    shear = (degrees(atan2(-b, d)) - turn + 180) % 360 - 180
    scale_y = hypot(b, d) * abs(cos(radians(shear)))
    return {"scale_x": hypot(a, c), "scale_y": scale_y, "rotation": turn, "shear": shear, **shift}


def parameter_deviations(model: str, matrix: Array, covariance: Array) -> dict[str, float]:
    """Standard deviations of `plane_parameters`, from the covariance (8, 8) of the first eight entries."""

    def values(entries: Array) -> Array:
        return np.array(list(plane_parameters(model, np.append(entries, 1.0).reshape(3, 3)).values()))

    entries = matrix.ravel()[:8]
    changes = [values(entries + step) - values(entries - step) for step in _STEP * np.eye(8)]
    derivative = ((np.array(changes) + 180) % 360 - 180).T / (2 * _STEP)  # an angle may go round
    variances = ((derivative @ covariance) * derivative).sum(axis=1)
    return dict(zip(plane_parameters(model, matrix), np.sqrt(np.maximum(variances, 0)).tolist(), strict=True))


def shifts_at(
    kind: str, control_points: Array, control_shifts: Array, points: Array, hold: bool = True
) -> Array:
    """(N, 2) shifts at points (N, 2) of a residual warp that has given ones at control points (K, 2).

    Between them that of least bending energy (Duchon, 1977; the spline of scikit-image's
    ``ThinPlateSplineTransform``), or the polynomial of degree 2 through them (``PolynomialTransform``).
    Beyond the box of the control points it stays what it is at its border, unless ``hold`` is false.
    """
    low, high = control_points.min(0), control_points.max(0)
    centre, size = (low + high) / 2, (high - low).max() / 2

    def rows(at: Array) -> Array:
        u = ((np.clip(at, low, high) if hold else at) - centre) / size
        one, (x, y) = np.ones(len(u)), u.T
        if kind == "polynomial":
            return np.column_stack([one, x, y, x * x, x * y, y * y])
        squared = np.subtract.outer(x, knots[:, 0]) ** 2 + np.subtract.outer(y, knots[:, 1]) ** 2
        return np.column_stack([squared * np.log(np.maximum(squared, 1e-300)), one, x, y])

    knots = (control_points - centre) / size
    system, values = rows(control_points), control_shifts
    if kind == "tps":  # the last three columns, turned, are orthogonal to the bending
        system = np.vstack([system, np.hstack([system[:, -3:].T, np.zeros((3, 3))])])
        values = np.vstack([values, np.zeros((3, 2))])
    weights = np.linalg.lstsq(system, values, rcond=None)[0]
    parts = [rows(part) @ weights for part in np.array_split(points, 1 + len(points) // 10_000)]
    return np.asarray(np.concatenate(parts))

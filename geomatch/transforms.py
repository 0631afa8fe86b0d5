"""What the matrix of a plane model means in numbers."""

from math import atan2, cos, degrees, hypot, radians

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PLANES = ("homography", "affine", "similarity", "euclidean", "translation")
"""Plane models, each of which the one before contains."""
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

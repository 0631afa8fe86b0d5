"""The simplest plane model that explains the matches as well as a richer one."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np

from geomatch.estimators.determinacy import noise_variance
from geomatch.estimators.evidence import FINEST, Points, independence
from geomatch.estimators.planes import PLANES
from geomatch.geometry import image_corners, warp_points
from geomatch.types import EstimationFailure, HomographyEstimate

Answer = HomographyEstimate | EstimationFailure
SIGNIFICANT = 2.326
"""Standard normal quantile of 1 %: how often the true model is refused for a richer one."""
NEGLIGIBLE = 1 / 18
"""Share of the threshold by which a simpler model may move the corners of image 0 though matches by the
thousand tell the difference: a third of what keypoints are usually off, a sixth of the threshold."""

_UNTESTED = 0.5
"""Share of answers that were right among those that no richer model could test: 63 of 116 made sets."""


def choose_model(
    estimate: Callable[..., Answer], p0: Points, p1: Points, threshold: float, size: tuple[int, int] | None
) -> Answer:
    """The answer of the simplest model whose residuals are not worse than those of the richest that is found.

    ``estimate(plane)`` gives the answer of a model, ``estimate(plane, matrix)`` that to a matrix (3, 3). The
    richest is the homography, or where matches (M, 2) do not determine one the next that they do. Simpler
    ones are fitted to its inliers, and refused by an F test of nested models at 1 %, each independent place
    one observation.
    """
    planes, answers = list(PLANES.values()), list[Answer]()
    for plane in planes:
        answers.append(estimate(plane))
        if answers[-1]:
            break
    richest = answers[-1]
    if not richest:
        return answers[0]
    p0, p1 = p0[richest.inliers], p1[richest.inliers]
    weights = independence(p0, p1, FINEST * threshold)
    corners = image_corners(size) if size else p0
    where = warp_points(richest.matrix, corners)

    def squares(matrix: Points) -> float:
        return float(weights @ ((p1 - warp_points(matrix, p0)) ** 2).sum(axis=1))

    freedom, least = PLANES[richest.model].freedom, squares(richest.matrix)
    left = 2 * weights.sum() - freedom
    for plane in reversed(planes[len(answers) :]):
        fitted = plane.fit(p0, p1)
        if fitted is None:
            continue
        moved = np.linalg.norm(warp_points(fitted, corners) - where, axis=1).max()
        fewer = freedom - plane.freedom
        ratio = max(0.0, squares(fitted) - least) / fewer / noise_variance(least, left, threshold)
        same = moved <= NEGLIGIBLE * threshold or not _is_significant(ratio, fewer, left)
        if same and (simpler := estimate(plane, fitted)):
            return simpler
    if len(answers) == 1 or richest.score is None:
        return richest
    note = f"nothing tells whether the {richest.model} model holds: matches determine no richer one"
    return replace(richest, score=richest.score * _UNTESTED, note=note)


def _is_significant(ratio: float, freedom: float, left: float) -> bool:
    """The upper tail of an F distribution by Paulson's (1942) normal approximation."""
    a, b, root = 2 / (9 * freedom), 2 / (9 * max(left, 1.0)), ratio ** (1 / 3)
    return bool((1 - b) * root - (1 - a) > SIGNIFICANT * sqrt(b * root**2 + a))

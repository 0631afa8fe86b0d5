"""A homography among matches of which nearly all are wrong: each match with its frames is a hypothesis."""

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.planes import PLANES
from geomatch.geometry import warp_points

Points = NDArray[np.float64]
LOOSE = 8.0
"""Thresholds within which a match counts for the affinity of another: frames tell it roughly, and of a plane
in perspective it is true about that match alone."""
TRIED = 60  # hypotheses that are refined
NARROWING = (8.0, 5.0, 3.0, 2.0, 1.3, 1.0, 1.0)
"""Thresholds, one after the other, within which matches are fitted: affinities first, then homographies."""
AFFINE = 3  # how many of these fit affinities
CELL = 2.5  # thresholds: matches nearer than that in image 0 count once
CHUNK = 2**22  # pairs of matches at a time


def solve_by_frames(
    points0: Points, points1: Points, frames0: Points, frames1: Points, threshold: float
) -> Points | None:
    """The homography (3, 3) with most agreeing places, or None.

    Matches (M, 2) with frames (M, 2, 2), see `FramedFeatures`: one match gives an affinity (Köser, Koch, DAGM
    2008; used so by Pritts et al. and MODS). Those that most matches agree with loosely are refined to
    homographies by least squares on ever closer matches (LO-RANSAC; Chum, Matas, Kittler, 2003). Nothing is
    random.
    """
    if len(points0) < 4:
        return None
    linear = frames1 @ np.linalg.inv(frames0)
    shift = points1 - np.einsum("nij,nj->ni", linear, points0)
    cells = np.round(points0 / (CELL * threshold))
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    weight = 1 / counts[cell.ravel()]
    support = _support(linear, shift, points0, points1, weight, LOOSE * threshold)
    most, found = 0, None
    for n in np.argsort(-support, kind="stable")[:TRIED]:
        start = np.eye(3)
        start[:2, :2], start[:2, 2] = linear[n], shift[n]
        refined = _narrowed(start, points0, points1, threshold)
        if refined is None:
            continue
        agreeing = np.linalg.norm(warp_points(refined, points0) - points1, axis=1) <= threshold
        count = len(np.unique(cell.ravel()[agreeing]))
        if count > most:
            most, found = count, refined
    return found


def _support(linear: Points, shift: Points, p0: Points, p1: Points, weight: Points, reach: float) -> Points:
    """(M,) how well the matches agree with the affinity of each, as MSAC counts."""
    total = np.zeros(len(p0))
    step = max(1, CHUNK // len(p0))
    for start in range(0, len(p0), step):
        part = slice(start, start + step)
        error = np.zeros((len(p0[part]), len(p0)))
        for axis in (0, 1):
            sent = linear[part, axis] @ p0.T + shift[part, axis, None]
            error += ((sent - p1[:, axis]) / reach) ** 2
        total[part] = np.maximum(0, 1 - error) @ weight
    return total


def _narrowed(matrix: Points, p0: Points, p1: Points, threshold: float) -> Points | None:
    """Fit again and again, as `NARROWING` says; None when too few matches stay."""
    for step, factor in enumerate(NARROWING):
        near = np.linalg.norm(warp_points(matrix, p0) - p1, axis=1) <= factor * threshold
        plane = PLANES["affine" if step < AFFINE else "homography"]
        fitted = plane.fit(p0[near], p1[near]) if near.sum() >= plane.sample else None
        if fitted is None:
            return None
        matrix = fitted
    return matrix

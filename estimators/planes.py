"""Plane models, as the gate uses them: a least-squares fit, and how many parameters it has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from geomatch.estimators.evidence import Points, crowd
from geomatch.geometry import normalize_homography


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane model."""

    name: str
    """One of `geomatch.transforms.PLANES`."""
    label: str
    """What reasons call it."""
    freedom: int
    """How many parameters it has."""
    sample: int
    """How many matches determine it; with three or more no line of matches does."""
    fit: Callable[[Points, Points], Points | None]
    """The matrix (3, 3) with the least squared transfer errors in image 1."""
    tangent: Callable[[Points], Points]
    """(8, freedom) derivatives of a matrix's first eight entries; also between frames that are similar."""


_UNIT = np.eye(2)


def _homography(p0: Points, p1: Points) -> Points | None:
    fitted, _mask = cv2.findHomography(p0, p1, 0)
    return None if fitted is None else normalize_homography(fitted)


def _affine(p0: Points, p1: Points) -> Points | None:
    linear, _, rank, _ = np.linalg.lstsq(p0 - p0.mean(0), p1 - p1.mean(0), rcond=None)
    return _between(p0, p1, linear.T) if rank == 2 else None


def _similarity(p0: Points, p1: Points, scaled: bool = True) -> Points | None:
    """As Umeyama's (1991) without a mirror, or Kabsch's (1976): in the plane one complex factor."""
    z0, z1 = ((p - p.mean(0)) @ [1, 1j] for p in (p0, p1))
    factor = np.vdot(z0, z1) / max(np.vdot(z0, z0).real, 1e-300)
    factor /= 1 if scaled else max(abs(factor), 1e-300)
    a, b = factor.real, factor.imag
    return _between(p0, p1, np.array([[a, -b], [b, a]])) if factor else None


def _between(p0: Points, p1: Points, linear: Points = _UNIT) -> Points:
    """(3, 3) with a linear part that sends the mean of points to that of others."""
    return np.block([[linear, (p1.mean(0) - linear @ p0.mean(0))[:, None]], [np.zeros((1, 2)), 1.0]])


def commonest_shift(p0: Points, p1: Points, threshold: float) -> Points | None:
    """The displacement of the match with which most agree, as a matrix."""
    shifts = p1 - p0
    bound = crowd(shifts, threshold)  # at least as many as agree
    order = np.argsort(-bound, kind="stable")
    best, most = 0, 0
    for some in np.split(order, np.arange(64, len(order), 64)):
        if len(some) == 0 or bound[some[0]] <= most:
            break
        near = np.linalg.norm(shifts[some, None] - shifts, axis=2) <= threshold
        if (count := near.sum(axis=1)).max() > most:
            best, most = int(some[count.argmax()]), int(count.max())
    return _between(p0[[best]], p1[[best]]) if len(p0) else None


_ENTRIES = np.eye(8)
_SHIFT, _TURN, _ZOOM = _ENTRIES[:, [2, 5]], _ENTRIES[:, 3] - _ENTRIES[:, 1], _ENTRIES[:, 0] + _ENTRIES[:, 4]
HOMOGRAPHY = Plane("homography", "homography", 8, 4, _homography, lambda h: _ENTRIES)
AFFINE = Plane("affine", "affine map", 6, 3, _affine, lambda h: _ENTRIES[:, :6])
SIMILARITY = Plane(
    "similarity", "similarity", 4, 2, _similarity, lambda h: np.column_stack([_ZOOM, _TURN, _SHIFT])
)
EUCLIDEAN = Plane(
    "euclidean", "rotation with a shift", 3, 2, partial(_similarity, scaled=False),
    lambda h: np.column_stack([h[0, 0] * _TURN - h[1, 0] * _ZOOM, _SHIFT]),
)  # fmt: skip
TRANSLATION = Plane("translation", "translation", 2, 1, _between, lambda h: _SHIFT)
PLANES = {plane.name: plane for plane in (HOMOGRAPHY, AFFINE, SIMILARITY, EUCLIDEAN, TRANSLATION)}

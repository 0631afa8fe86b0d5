"""Plane models, as the gate uses them: a least-squares fit, and how many parameters it has."""

from collections.abc import Callable
from dataclasses import dataclass

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


def _homography(p0: Points, p1: Points) -> Points | None:
    fitted, _mask = cv2.findHomography(p0, p1, 0)
    return None if fitted is None else normalize_homography(fitted)


def _affine(p0: Points, p1: Points) -> Points | None:
    centre0, centre1 = p0.mean(0), p1.mean(0)
    linear, _, rank, _ = np.linalg.lstsq(p0 - centre0, p1 - centre1, rcond=None)
    return _about(linear.T, centre0, centre1) if rank == 2 else None


def _similarity(p0: Points, p1: Points) -> Points | None:
    """As Umeyama's (1991) without a mirror: in the plane one complex factor."""
    centre0, centre1 = p0.mean(0), p1.mean(0)
    z0, z1 = ((p - p.mean(0)) @ [1, 1j] for p in (p0, p1))
    squared = (np.abs(z0) ** 2).sum()
    return _about(_turn(z0.conj() @ z1 / squared), centre0, centre1) if squared > 0 else None


def _euclidean(p0: Points, p1: Points) -> Points | None:
    """As Kabsch's (1976): the similarity's rotation."""
    found = _similarity(p0, p1)
    factor = 0.0 if found is None else complex(found[0, 0], found[1, 0])
    return _about(_turn(factor / abs(factor)), p0.mean(0), p1.mean(0)) if factor else None


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
    return _about(np.eye(2), p0[best], p1[best]) if len(p0) else None


def _turn(factor: complex) -> Points:
    return np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])


def _about(linear: Points, centre0: Points, centre1: Points) -> Points:
    """(3, 3) with a linear part that sends one centre to the other."""
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, centre1 - linear @ centre0
    return matrix


_ENTRIES = np.eye(8)
_SHIFT = _ENTRIES[:, [2, 5]]
_TURN = _ENTRIES[:, 3] - _ENTRIES[:, 1]
_ZOOM = _ENTRIES[:, 0] + _ENTRIES[:, 4]

HOMOGRAPHY = Plane("homography", "homography", 8, 4, _homography, lambda h: _ENTRIES)
AFFINE = Plane("affine", "affine map", 6, 3, _affine, lambda h: _ENTRIES[:, :6])
SIMILARITY = Plane(
    "similarity", "similarity", 4, 2, _similarity, lambda h: np.column_stack([_ZOOM, _TURN, _SHIFT])
)
EUCLIDEAN = Plane(
    "euclidean", "rotation with a shift", 3, 2, _euclidean,
    lambda h: np.column_stack([h[0, 0] * _TURN - h[1, 0] * _ZOOM, _SHIFT]),
)  # fmt: skip
TRANSLATION = Plane(
    "translation", "translation", 2, 1,
    lambda p0, p1: _about(np.eye(2), p0.mean(0), p1.mean(0)), lambda h: _SHIFT,
)  # fmt: skip
PLANES = {plane.name: plane for plane in (HOMOGRAPHY, AFFINE, SIMILARITY, EUCLIDEAN, TRANSLATION)}

"""Smooth residual warps after a plane model: lens distortion, bent paper, gentle relief."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.evidence import FINEST, Points, independence
from geomatch.estimators.gate import bounds, breadth, checked_points
from geomatch.estimators.planes import PLANES
from geomatch.estimators.selection import NEGLIGIBLE, SIGNIFICANT
from geomatch.estimators.solvers import Estimator, OpenCVEstimator, threshold_of
from geomatch.geometry import image_corners, warp_points
from geomatch.transforms import SMOOTH, shifts_at
from geomatch.types import EstimationFailure, HomographyEstimate

_PER_CELL, _LEAST_SIDE, _MOST_SIDE = 6, 3, 10
"""Independent places for each control point of a spline, and cells along a side."""
_LEAST_PLACES = 30  # five for each coefficient of a polynomial
_LEAST_BREADTH = 0.2  # of the sides of image 0
_BENT = 2.0  # deviations of splines are larger than leaving out tells: measured on made fields
_FOLDS, _ROUNDS = 10, 10
_AT_REST = 0.8  # of the matches of a watermark that may agree with the warp
_MAX_DEVIATION = 0.05  # of the longest side of image 0 in image 1, as `Gate.max_deviation`
_LATTICE = np.linspace(0, 1, 33)  # where the warp is looked at for folds
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SmoothEstimator:
    """A residual warp after the plane of another estimator, where the matches bear one out.

    Matches in a band about the plane that agree with their neighbours are fitted: by the polynomial of least
    squares, or by the thin-plate spline through their means over cells. Otherwise the plane is the answer,
    with a note: where independent places are too few or lie in too small a part of the image; where errors
    of matches left out, a block of the image at a time, are not smaller than the plane's (paired over blocks,
    significant at 1 %, by more than `NEGLIGIBLE`, each at most the threshold); where it folds, or its corners
    are too uncertain.
    """

    estimator: Estimator
    """Finds the plane."""
    kind: str = "tps"
    """One of `geomatch.transforms.SMOOTH`."""
    band: float = 10.0
    """Largest transfer error of a match that may agree, in thresholds."""

    def __post_init__(self) -> None:
        if self.kind not in SMOOTH:
            raise ValueError(f"unknown residual warp {self.kind!r}; choose from: {', '.join(SMOOTH)}, none")

    @property
    def threshold(self) -> float:
        """That of the plane's estimator, in pixels of image 1."""
        return threshold_of(self.estimator, 3.0)

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """Estimate as `Estimator` says."""
        found = self.estimator.estimate(points0, points1, image_size)
        if not found:
            return found
        p0, p1 = checked_points(points0, points1)
        usable = self._near(found, p0, p1, self.band)
        if found.watermark is not None:
            usable &= ~found.watermark
        warped = self._warped(found, p0[usable], p1[usable], found.inliers[usable], image_size)
        if isinstance(warped, str):
            return replace(found, note=f"no smooth residual warp: {warped}")
        inliers, still = self._near(warped, p0, p1, 1.0), found.watermark
        if still is not None and inliers[still].mean() > _AT_REST:
            still = None  # no caption, but where the warp moves nothing
        return replace(warped, inliers=inliers, watermark=still)

    def _near(self, found: HomographyEstimate, p0: Points, p1: Points, reach: float) -> Mask:
        """Which matches (M, 2) are so many thresholds off at most."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.linalg.norm(p1 - found.send(p0), axis=1) <= reach * self.threshold)

    def _warped(
        self, found: HomographyEstimate, p0: Points, p1: Points, flat: Mask, size: tuple[int, int] | None
    ) -> HomographyEstimate | str:
        """``found`` with a residual warp fitted to matches, of which those ``flat`` agree with the plane."""
        kind, limit, residuals = self.kind, self.threshold, p1 - warp_points(found.matrix, p0)
        corners = image_corners(size) if size else bounds(p0[flat])
        side = np.sqrt(independence(p0, p1, FINEST * limit).sum() / _PER_CELL)
        side = int(np.clip(side, _LEAST_SIDE, _MOST_SIDE))
        column, row = ((p0 - p0.min(0)) / (np.ptp(p0, axis=0) * (1 + 1e-9)) * side).astype(np.int64).T
        cells, keep = row * side + column, np.zeros(len(p0), np.bool_)
        for here in (np.flatnonzero(cells == cell) for cell in np.unique(cells)):  # neighbours must agree
            off = np.linalg.norm(residuals[here] - np.median(residuals[here], axis=0), axis=1)
            keep[here] = off <= 2 * limit
        for _ in range(_ROUNDS):
            places = independence(p0[keep], p1[keep], FINEST * limit).sum()
            if places < _LEAST_PLACES:
                return f"{keep.sum()} matches at {places:.0f} separate places, {_LEAST_PLACES} are needed"
            if (broad := breadth(p0[keep] / np.ptp(corners, axis=0))) < _LEAST_BREADTH:
                return f"matches in {broad:.0%} of the sides of image 0, {_LEAST_BREADTH:.0%} are needed"
            knots, before = _fitted(kind, cells, p0, residuals, keep), keep
            keep = np.linalg.norm(residuals - shifts_at(kind, *knots, p0), axis=1) <= limit
            if np.array_equal(before, keep):
                break
        folds, both = (column + 3 * row) % _FOLDS, keep | flat
        gains, sent = np.zeros(len(p0)), []
        for fold in range(_FOLDS):
            rest, asked = folds != fold, both & (folds == fold)
            if (keep & rest).sum() < _LEAST_PLACES // 2:
                return "nearly all matches in one block of the image"
            without = _fitted(kind, cells, p0, residuals, keep & rest)
            plane = PLANES[found.model].fit(p0[both & rest], p1[both & rest])
            plain = p1[asked] - warp_points(found.matrix if plane is None else plane, p0[asked])
            bent = residuals[asked] - shifts_at(kind, *without, p0[asked])
            lost = [np.minimum((errors**2).sum(axis=1), limit**2) for errors in (plain, bent)]
            gains[asked] = lost[0] - lost[1]
            sent.append(shifts_at(kind, *without, corners, hold=False))
        gain = np.bincount(cells[both], gains[both])[np.unique(cells[both])]
        small = gains[both].mean() <= (NEGLIGIBLE * limit) ** 2
        if small or gain.mean() <= SIGNIFICANT * gain.std() / np.sqrt(len(gain)):
            return "matches left out are not predicted better than by the plane"
        held, beyond = (shifts_at(kind, *knots, corners, hold) for hold in (True, False))
        jackknife = np.var(sent, axis=0) * (_FOLDS - 1) * (_BENT**2 if kind == "tps" else 1)
        deviations = np.sqrt((jackknife + (held - beyond) ** 2).sum(axis=1))
        points, shifts = knots
        warped = replace(
            found, smooth=kind, control_points=points, control_shifts=shifts, corner_deviations=deviations
        )
        lattice = np.stack(np.meshgrid(_LATTICE, _LATTICE), -1) * np.ptp(corners, axis=0) + corners.min(0)
        there = warped.send(lattice).reshape(lattice.shape)
        right, down = np.diff(there, axis=1)[:-1], np.diff(there, axis=0)[:, :-1]
        turns = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        if (turns * np.median(turns) <= 0).any():
            return "it would fold the image"
        if deviations.max() > _MAX_DEVIATION * np.ptp(there, axis=(0, 1)).max():
            return f"a corner of image 0 would be uncertain by {deviations.max():.0f} px"
        return warped


def plane_estimator(estimator: Estimator, model: str) -> Estimator:
    """The estimator that finds the plane, with a model chosen, where it had the choice."""
    plain = estimator.estimator if isinstance(estimator, SmoothEstimator) else estimator
    return replace(plain, model=model) if isinstance(plain, OpenCVEstimator) else plain


def _fitted(
    kind: str, cells: NDArray[np.int64], p0: Points, residuals: Points, used: Mask
) -> tuple[Points, Points]:
    """Control points and shifts of the warp fitted to some of the residuals, for the box of these."""
    cells, p0, residuals = cells[used], p0[used], residuals[used]
    low, span = p0.min(0), np.ptp(p0, axis=0)
    if kind == "polynomial":
        knots = np.stack(np.meshgrid([0, 0.5, 1], [0, 0.5, 1]), -1).reshape(-1, 2) * span + low
        return knots, shifts_at(kind, p0, residuals, knots)
    _, own, counts = np.unique(cells, return_inverse=True, return_counts=True)
    sums = (np.stack([np.bincount(own, column) for column in values.T], 1) for values in (p0, residuals))
    enough = counts >= min(3, counts.max())
    knots, shifts = (total[enough] / counts[enough, None] for total in sums)
    corners = bounds(p0)  # on the same spline: they are there for the box alone
    at_corners = shifts_at(kind, knots, shifts, corners, hold=False)
    return np.vstack([knots, corners]), np.vstack([shifts, at_corners])

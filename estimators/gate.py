"""What every solver's answer must pass before it is called a homography.

Robust solvers return a matrix for 200 random pairs, for 50 collinear points and for mirrored nonsense. The
gate checks the input before and the matrix after, so that all solvers fail alike and with a reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, lgamma, log, log10, pi

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, normalize_homography, warp_points
from geomatch.types import EstimationFailure, HomographyEstimate, check_shape

Points = NDArray[np.float64]
Solver = Callable[[Points, Points], NDArray[np.floating] | None]
"""From at least four finite pairs of points to a 3x3 matrix, or None."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of what counts as a homography, and its last refinement."""

    min_inliers: int = 8
    """Inliers at distinct places in both images; four fit any homography."""
    max_log10_nfa: float = -3.0
    """Bound on the number of false alarms (log10): how many matrices as well supported chance would give
    among so many matches (Moisan and Stival, 2004)."""
    min_spread: float = 2.0
    """Least standard deviation in pixels across the line that fits the points best."""
    max_condition: float = 1e4
    """Bound on the condition number of the matrix between unit squares."""
    refits: int = 10
    """Least-squares fits to the inliers after the solver, at most; 0 leaves its matrix alone."""

    def run(
        self,
        solver: Solver,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        threshold: float,
        image_size: tuple[int, int] | None,
    ) -> HomographyEstimate | EstimationFailure:
        """Check the points, call ``solver`` on the finite ones, refine and check its matrix.

        Inliers are recomputed from the matrix: transfer error in image 1 at most ``threshold`` pixels.
        """
        p0, p1 = checked_points(points0, points1)
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(np.hstack([p0, p1])).all(axis=1))
        used0, used1 = p0[finite], p1[finite]
        dropped = len(p0) - len(used0)
        remark = f" ({dropped} of {len(p0)} had coordinates that are not finite)" if dropped else ""
        distinct = _distinct(used0, used1)
        if distinct < self.min_inliers:
            return EstimationFailure(
                f"{distinct} matches at distinct points, {self.min_inliers} are needed{remark}"
            )
        for points, name in ((used0, "image 0"), (used1, "image 1")):
            if _spread(points) < self.min_spread:
                return EstimationFailure(f"the matched points of {name} lie on a line or a point{remark}")
        matrix = solver(used0, used1)
        if matrix is None:
            return EstimationFailure(f"the solver found no homography among {len(used0)} matches")
        h = normalize_homography(matrix)
        if h is None:
            return EstimationFailure("the solver's matrix is not finite or sends the origin to infinity")
        h = _refined(h, used0, used1, threshold, self.refits)
        inliers = np.zeros(len(p0), dtype=np.bool_)
        inliers[finite] = np.linalg.norm(warp_points(h, used0) - used1, axis=1) <= threshold
        seen = p0[inliers] if inliers.any() else used0
        width, height = (int(side) for side in np.ceil(np.ptp(seen, axis=0) + 1))
        size = image_size or (width, height)
        corners = image_corners(size) + (0 if image_size else seen.min(0))
        reason = self._implausible(h, corners, size) or self._unsupported(p0, p1, inliers, finite, threshold)
        return EstimationFailure(reason) if reason else HomographyEstimate(h, inliers)

    def _implausible(self, h: Points, corners: Points, size: tuple[int, int]) -> str:
        """Why the matrix cannot be a view of the image; empty if it can."""
        depth = corners @ h[2, :2] + 1.0
        if (depth <= 0).any():
            return "the homography sends part of the image through infinity"
        warped = warp_points(h, corners)
        edges = np.roll(warped, -1, axis=0) - warped
        following = np.roll(edges, -1, axis=0)
        turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
        if (turns < 0).all():
            return "the homography mirrors the image"
        if not (turns > 0).all():
            return "the homography folds the image: its corners no longer form a convex quadrilateral"
        side = max(np.ptp(warped[:, 0]), np.ptp(warped[:, 1]))
        to_unit = np.diag([1 / side, 1 / side, 1.0])
        to_unit[:2, 2] = -warped.min(0) / side
        from_unit = np.diag([*size, 1.0])
        from_unit[:2, 2] = corners[0]
        condition = np.linalg.cond(to_unit @ h @ from_unit)
        if condition > self.max_condition:
            return f"the homography is nearly singular (condition number {condition:.0f})"
        return ""

    def _unsupported(
        self, p0: Points, p1: Points, inliers: NDArray[np.bool_], finite: NDArray[np.bool_], threshold: float
    ) -> str:
        """Why the inliers are no more than chance would give; empty if they are."""
        total, count = _distinct(p0[finite], p1[finite]), _distinct(p0[inliers], p1[inliers])
        if count < self.min_inliers:
            return too_few(count, total, "homography", self.min_inliers)
        for points, name in ((p0[inliers], "image 0"), (p1[inliers], "image 1")):
            if _spread(points) < self.min_spread:
                return f"the inliers of {name} lie on a line or a point"
        width, height = np.maximum(np.ptp(p1[finite], axis=0), 1.0)
        nfa = log10_nfa(total, count, pi * threshold**2 / (width * height))
        return by_chance(count, total, "homography", nfa, self.max_log10_nfa)


def checked_points(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> tuple[Points, Points]:
    """Both as float64; a `ShapeError` unless they are (M, 2) with the same M."""
    p0, p1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    check_shape("points0", p0, ("M", 2))
    check_shape("points1", p1, (len(p0), 2))
    return p0, p1


def _refined(matrix: Points, p0: Points, p1: Points, threshold: float, rounds: int) -> Points:
    """Fit to the matches within ``threshold`` (least squares), select again, until they no longer change.

    This removes most of the error that a robust solver's last sample leaves far from the inliers.
    """
    inliers = np.zeros(len(p0), dtype=np.bool_)
    for _ in range(rounds):
        previous = inliers
        inliers = np.linalg.norm(warp_points(matrix, p0) - p1, axis=1) <= threshold
        if inliers.sum() < 4 or np.array_equal(inliers, previous):
            break
        fitted, _mask = cv2.findHomography(p0[inliers], p1[inliers], 0)
        normal = None if fitted is None else normalize_homography(fitted)
        if normal is None:
            break
        matrix = normal
    return matrix


def too_few(count: int, total: int, model: str, least: int) -> str:
    """The reason for a failure: fewer inliers than are needed."""
    return f"only {count} of {total} matches agree with the best {model}, {least} are needed"


def by_chance(count: int, total: int, model: str, nfa: float, limit: float) -> str:
    """The reason for a failure: more false alarms (log10) than accepted; empty if there are not."""
    if nfa <= limit:
        return ""
    return (
        f"{count} of {total} matches agree with the best {model}: no more than chance explains "
        f"(log10 of the number of false alarms {nfa:.1f}, at most {limit:g} is accepted)"
    )


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless an inlier threshold makes sense."""
    if not 0 < threshold < inf:
        raise ValueError(f"threshold must be a positive number of pixels, got {threshold}")


def log10_nfa(total: int, inliers: int, probability: float, sample: int = 4, models: int = 1) -> float:
    """log10 of the number of false alarms of a model (Moisan and Stival, IJCV 2004).

    NFA = m (n - s) C(n, k) C(k, s) p^(k - s), for k inliers among n matches when a random match is an
    inlier with probability p; minimal samples of s matches (4 for a homography, 7 for a fundamental
    matrix) give up to m models each.
    """
    if inliers <= sample:
        return float("inf")

    def log_choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    choices = log_choose(total, inliers) + log_choose(inliers, sample)
    natural = choices + (inliers - sample) * log(min(1.0, probability))
    return natural / log(10) + log10(models * max(1, total - sample))


def _distinct(p0: Points, p1: Points) -> int:
    """Matches that share no (rounded) point with another, in the image where fewer differ."""
    if len(p0) == 0:
        return 0
    return min(len(np.unique(np.round(p), axis=0)) for p in (p0, p1))


def _spread(points: Points) -> float:
    """Standard deviation in pixels across the line that fits the points best."""
    centred = points - points.mean(0)
    return float(np.linalg.svd(centred, compute_uv=False)[-1] / np.sqrt(len(points)))

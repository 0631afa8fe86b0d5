"""What every solver's answer must pass before it is called a homography, or another model of a plane.

Robust solvers return a matrix for 200 random pairs, for 50 collinear points and for mirrored nonsense. The
gate checks the input before and the matrix after, so that all solvers fail alike and with a reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.determinacy import corner_deviations
from geomatch.estimators.evidence import FINEST, Points, independence, measure_support
from geomatch.estimators.planes import HOMOGRAPHY, Plane
from geomatch.estimators.score import score_of
from geomatch.estimators.stationary import beside_watermark
from geomatch.geometry import image_corners, normalize_homography, warp_points
from geomatch.types import EstimationFailure, HomographyEstimate, check_shape

Solver = Callable[[Points, Points], NDArray[np.floating] | None]
"""From at least four finite pairs of points to a 3x3 matrix, or None."""
MAX_LOG10_NFA = -3.0
ENOUGH = 20  # inliers of a geometry that convinces
_SMALL = 60  # thresholds: the side that a smaller image is taken to have, since 3 px are no matter there


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of what counts as a homography, and its last refinement.

    All lengths are relative to the inlier threshold or to the extent of the image: the gate is the same for
    pixels, metres and normalised coordinates.
    """

    min_inliers: int = 6
    """Inliers at separate places: farther apart in both images than twice what most of them are off. Four
    fit any homography."""
    max_log10_nfa: float = MAX_LOG10_NFA
    """Bound on the number of false alarms (log10): how many matrices as well supported chance would give
    among so many matches (Moisan and Stival, 2004)."""
    max_condition: float = 1e4
    """Bound on the condition number of the matrix between unit squares."""
    max_deviation: float = 0.05
    """Bound on the standard deviation of a corner of image 0 in image 1, as a share of the longest side of
    image 0 there."""
    max_leaning: float = 0.25
    """The same without the inliers that the fit leans on most."""
    min_spread: float = 0.05
    """Bound on the breadth of the strip where most inliers lie, in sides of image 0 (of their bounding box
    without a size): a line or one small part would determine a model simpler than a homography, but not tell
    whether it holds."""
    refits: int = 10
    """Least-squares fits to the inliers after the solver, at most; 0 leaves its matrix alone."""

    def run(
        self,
        solver: Solver,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        threshold: float,
        image_size: tuple[int, int] | None,
        plane: Plane = HOMOGRAPHY,
    ) -> HomographyEstimate | EstimationFailure:
        """Check the points, call ``solver`` on the finite ones, refine and check its matrix.

        Inliers are recomputed from the matrix: transfer error in image 1 at most ``threshold`` pixels. With
        ``refits`` the matrix is one of ``plane``, whatever the solver gives.
        Matches at rest in a strip, as those of a watermark, are set aside first; alone they are no answer.
        """
        p0, p1 = checked_points(points0, points1)
        finite = np.asarray(np.isfinite(np.hstack([p0, p1])).all(axis=1))
        found = beside_watermark(
            lambda used: self._check(solver, p0[used], p1[used], threshold, image_size, plane),
            p0, p1, finite, threshold, image_size,
        )  # fmt: skip
        if not found and (dropped := int((~finite).sum())):
            remark = f" ({dropped} of {len(p0)} had coordinates that are not finite)"
            return replace(found, reason=found.reason + remark)
        if found and found.watermark is not None:  # a strip that lies on the scene's plane may agree, too
            with np.errstate(invalid="ignore"):
                errors = np.linalg.norm(warp_points(found.matrix, p0) - p1, axis=1)
            return replace(found, inliers=finite & (errors <= threshold))
        return found

    def _check(
        self, solver: Solver, p0: Points, p1: Points, threshold: float, image_size: tuple[int, int] | None,
        plane: Plane,
    ) -> HomographyEstimate | EstimationFailure:  # fmt: skip
        """Solve for finite points, and check the matrix."""
        places = round(independence(p0, p1, FINEST * threshold).sum())
        if places < self.min_inliers:
            return EstimationFailure(
                f"{len(p0)} matches at {places} separate places, {self.min_inliers} are needed"
            )
        for points, name in ((p0, "image 0"), (p1, "image 1")):
            if plane.sample > 2 and _lies_on_line(points):
                return EstimationFailure(f"the matched points of {name} lie on a line or a point")
        matrix = solver(p0, p1)
        if matrix is None:
            return EstimationFailure(f"the solver found no {plane.label} among {len(p0)} matches")
        h = normalize_homography(matrix)
        if h is None:
            return EstimationFailure("the solver's matrix is not finite or sends the origin to infinity")
        h = refined(h, p0, p1, threshold, self.refits, plane)
        residuals = p1 - warp_points(h, p0)
        inliers = np.asarray(np.linalg.norm(residuals, axis=1) <= threshold)
        count = int(inliers.sum())
        if count < self.min_inliers:
            return EstimationFailure(too_few(count, len(p0), plane.label, self.min_inliers))
        weights, nfa, second = measure_support(residuals, p0, p1, threshold, plane.sample)
        if round(weights.sum()) < self.min_inliers:
            return EstimationFailure(
                f"{count} of {len(p0)} matches agree with the best {plane.label}, but at {weights.sum():.0f} "
                f"separate places; {self.min_inliers} are needed"
            )
        corners = image_corners(image_size) if image_size else bounds(p0[inliers])
        if plane is not HOMOGRAPHY:
            broad = breadth(p0[inliers] / np.maximum(np.ptp(corners, axis=0), 1e-300))
            if broad < self.min_spread:
                return EstimationFailure(
                    f"{count} of {len(p0)} matches agree with the best {plane.label}, but on a line or in a "
                    f"small part of image 0, {broad:.1%} of its sides broad; {self.min_spread:.0%} are needed"
                )
        reason = by_chance(count, len(p0), plane.label, nfa, self.max_log10_nfa)
        if not reason and (what := self._implausible(h, corners)):
            reason = f"{count} of {len(p0)} matches agree, but the {plane.label} {what}"
        if reason:
            return EstimationFailure(reason)
        deviations, without_some, covariance = corner_deviations(
            plane, h, p0[inliers], residuals[inliers], weights, corners, threshold
        )
        extent = np.ptp(warp_points(h, corners), axis=0)
        side = extent.max()
        for worst, limit, when in (
            (deviations.max(), self.max_deviation, ""),
            (without_some.max(), self.max_leaning, " if a few of them were wrong"),
        ):
            if worst > limit * max(side, _SMALL * threshold):
                return EstimationFailure(
                    f"{count} of {len(p0)} matches agree, but they do not determine the {plane.label}: a "
                    f"corner of image 0 would be uncertain by {min(worst / side, 10):.0%} of its size{when}"
                )
        noise = float(np.sqrt((residuals[inliers] ** 2).sum(axis=1).mean())) / threshold
        inside = (p0[inliers] - corners.min(0)) / np.maximum(np.ptp(corners, axis=0), 1e-300)
        score = score_of(
            (float(weights.sum()), nfa, second), (count, len(p0)), noise, (deviations, without_some),
            float(np.hypot(*extent)), inside,
        )  # fmt: skip
        return HomographyEstimate(h, inliers, deviations, second, None, plane.name, covariance, score)

    def _implausible(self, h: Points, corners: Points) -> str:
        """What the matrix does that a view of the image cannot; empty if it can be one."""
        depth = corners @ h[2, :2] + 1.0
        if (depth <= 0).any():
            return "sends part of the image through infinity"
        warped = warp_points(h, corners)
        edges = np.roll(warped, -1, axis=0) - warped
        following = np.roll(edges, -1, axis=0)
        turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
        if (turns < 0).all():
            return "mirrors the image"
        if not (turns > 0).all():
            return "folds the image: its corners no longer form a convex quadrilateral"
        side = max(np.ptp(warped[:, 0]), np.ptp(warped[:, 1]))
        to_unit = np.diag([1 / side, 1 / side, 1.0])
        to_unit[:2, 2] = -warped.min(0) / side
        from_unit = np.diag([*(np.ptp(corners, axis=0) + 1e-300), 1.0])
        from_unit[:2, 2] = corners[0]
        condition = np.linalg.cond(to_unit @ h @ from_unit)
        if condition > self.max_condition:
            return f"is nearly singular (condition number {condition:.0f})"
        return ""


def checked_points(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> tuple[Points, Points]:
    """Both as float64; a `ShapeError` unless they are (M, 2) with the same M."""
    p0, p1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    check_shape("points0", p0, ("M", 2))
    check_shape("points1", p1, (len(p0), 2))
    return p0, p1


def refined(matrix: Points, p0: Points, p1: Points, threshold: float, rounds: int, plane: Plane) -> Points:
    """Least-squares fits to the matches within ``threshold``, selected again until they no longer change."""
    inliers = np.zeros(len(p0), dtype=np.bool_)
    for _ in range(rounds):
        previous = inliers
        inliers = np.linalg.norm(warp_points(matrix, p0) - p1, axis=1) <= threshold
        if inliers.sum() < plane.sample or np.array_equal(inliers, previous):
            break
        fitted = plane.fit(p0[inliers], p1[inliers])
        if fitted is None:
            break
        matrix = fitted
    return matrix


def too_few(count: int, total: int, model: str, least: int) -> str:
    """The reason for a failure: fewer inliers than are needed."""
    return f"only {count} of {total} matches agree with the best {model}, {least} are needed"


def by_chance(count: int, total: int, model: str, nfa: float, limit: float = MAX_LOG10_NFA) -> str:
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


def bounds(points: Points) -> Points:
    """(4, 2) corners of the points' bounding box, clockwise from the least."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _lies_on_line(points: Points) -> bool:
    """The points spread across the line that fits them best by less than a thousandth of their extent."""
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)[-1] / np.sqrt(len(points))
    return bool(spread < 1e-3 * np.ptp(points, axis=0).max())


def breadth(points: Points) -> float:
    """Width of the strip about four fifths of the points, after a fifth far from their middle is left out."""
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    points = points[away <= np.quantile(away, 0.8)]
    across = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][1] @ points.T
    return 2.5 * float(np.quantile(np.abs(across - np.median(across)), 0.8))

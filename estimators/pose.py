"""Relative pose of two calibrated cameras: what the matches determine of it, and how well."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.cameras import Camera
from geomatch.errors import GeomatchError
from geomatch.estimators.determinacy import inverse_of, leaned_on, noise_variance
from geomatch.estimators.epipolar import (
    CameraLike,
    Pose,
    View,
    angles_between,
    displacements,
    distances,
    in_front,
    linearised,
    refined,
    rotation_between,
    view_of,
)
from geomatch.estimators.evidence import FINEST, Points, epipolar_support, independence, log10_nfa
from geomatch.estimators.gate import MAX_LOG10_NFA, by_chance, check_threshold, checked_points, too_few
from geomatch.estimators.stationary import beside_watermark
from geomatch.types import EstimationFailure, RelativePose

_MIN_INLIERS = 8  # at separate places; five fit any pose
_MODELS = 10  # essential matrices that five matches give at most (Nister, PAMI 2004)
_PARALLAX = 4.0  # times what noise does: with less displacement, squared, the cameras only turned
_DEVIATION = (5.0, 30.0)  # degrees of rotation and translation, from which on they are not determined
_MOST = 0.75  # share of the inliers that are in front of the cameras, or at rest beside a rotation
_LEANING = 3.0  # degrees of rotation without the inliers that the fit leans on most
_APART = 3.0  # degrees between poses that are two
_SUBSET = 100  # inliers that other poses are sought with
_DIRECTIONS = [np.array(d) / np.linalg.norm(d) for d in product((-1.0, 0.0, 1.0), repeat=3) if d > (0, 0, 0)]
_OPTIONS = {"max_iterations": 100_000, "success_prob": 0.9999}


def relative_pose(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    camera0: CameraLike,
    camera1: CameraLike,
    threshold: float = 2.0,
    seed: int = 0,
) -> RelativePose | EstimationFailure:
    """Estimate how camera 1 stands to camera 0: PoseLib's LO-RANSAC, a fit, and a gate.

    Points are undistorted, distances are in pixels of the images as they are. What the matches leave open is
    said: a translation that they do not determine is None, as of a camera that only turned; a second pose
    that they allow as well, as a plane does, is given beside the first (``docs/gate.md``).

    Args:
        points0, points1: (M, 2) pixels of both images, row by row partners, centre of the first pixel (0, 0).
            Those that are not finite, or that a model of distortion gives no ray for, count as outliers.
        camera0, camera1: each a `Camera`, or the matrix K (3, 3) of one without distortion, in the points'
            coordinates.
        threshold: largest distance of an inlier from the epipolar geometry in pixels (Sampson's).
        seed: of the solver's samples.

    Raises ShapeError for points or matrices of other shapes, ValueError for matrices that are no camera's,
    and thresholds that make no sense.
    """
    p0, p1 = checked_points(points0, points1)
    check_threshold(threshold)
    views = view_of(p0, camera0, "camera0"), view_of(p1, camera1, "camera1")
    seen = np.all([np.isfinite(v.rays).all(1) & np.isfinite(v.steps).all((1, 2)) for v in views], axis=0)
    return beside_watermark(
        lambda used: _estimate(views[0][used], views[1][used], threshold, seed),
        p0, p1, seen, threshold, camera0.size if isinstance(camera0, Camera) else None,
    )  # fmt: skip


def _estimate(view0: View, view1: View, threshold: float, seed: int) -> RelativePose | EstimationFailure:
    total = len(view0.pixels)
    weights = independence(view0.pixels, view1.pixels, FINEST * threshold)
    if round(weights.sum()) < _MIN_INLIERS:
        return EstimationFailure(
            f"{total} matches at {weights.sum():.0f} separate places, {_MIN_INLIERS} are needed"
        )
    options = {**_OPTIONS, "max_epipolar_error": threshold, "seed": seed}
    rotation, shift, count = solve_pose((view0.rays, view1.rays), (view0.focal, view1.focal), options)
    length = np.linalg.norm(shift)
    if not count or length == 0:
        return EstimationFailure(f"the solver found no relative pose among {total} matches")
    pose = refined(view0, view1, (rotation, shift / length), threshold, np.ones(total))
    agree = distances(view0, view1, pose) <= threshold
    weights, chance, nfa = epipolar_support(
        lambda i, j: distances(view0[i], view1[j], pose),
        agree, view0.pixels, view1.pixels, threshold, 5, _MODELS,
    )  # fmt: skip
    if reason := by_chance(int(agree.sum()), total, "relative pose", nfa):
        return EstimationFailure(reason)
    turned = rotation_between(view0[agree], view1[agree], pose[0], 2 * threshold)
    poses = [pose, *_others(view0[agree], view1[agree], turned, threshold)]
    trust = weights
    for _ in range(2):  # what is trusted depends on the pose
        pose, other = _best(view0, view1, poses, threshold, trust, chance)
        agree = (distances(view0, view1, pose) <= threshold) & (trust > 0)
        turned = rotation_between(view0[agree], view1[agree], pose[0], 2 * threshold)
        trust = weights * _trust(view0, view1, pose, turned, weights, chance, threshold)
        pose = refined(view0, view1, pose, threshold, trust)
    agree = distances(view0, view1, pose) <= threshold
    agree &= trust >= 0.5 * weights
    return _weighed(view0, view1, pose, other, turned, trust * agree, agree, threshold)


def solve_pose(
    rays: Sequence[Points], focals: Sequence[Points | float], options: dict[str, Any]
) -> tuple[Points, Points, int]:
    """PoseLib's rotation, translation and number of inliers, from x and y of both cameras' rays (M, 2 or 3).

    The focal lengths, a number or (2,) of each camera, give the pixels that its options count in.
    """
    import poselib

    if unknown := options.keys() - dict(poselib.RansacOptions()).keys():  # it ignores them without a word
        raise GeomatchError(f"this PoseLib has no option {min(unknown)}; install poselib 2.0.5")
    points = [own[:, :2] * focal for own, focal in zip(rays, focals, strict=True)]
    lens = {"model": "PINHOLE", "width": 1, "height": 1}
    cameras = [{**lens, "params": [*np.broadcast_to(focal, 2), 0.0, 0.0]} for focal in focals]
    pose, info = poselib.estimate_relative_pose(*points, *cameras, options, {})
    return np.asarray(pose.R), np.asarray(pose.t), info["num_inliers"]


def _others(view0: View, view1: View, turned: Points, threshold: float) -> Iterator[Pose]:
    """Poses that inliers may allow as well: with any translation, or the four that a plane does."""
    some = np.arange(0, len(view0.pixels), max(1, len(view0.pixels) // _SUBSET))
    view0, view1 = view0[some], view1[some]
    starts = [(turned, direction) for direction in _DIRECTIONS]
    focal = view1.focal
    plane, _ = cv2.findHomography(
        view0.rays[:, :2] * focal, view1.rays[:, :2] * focal, cv2.RANSAC, 2 * threshold, None, 500
    )
    if plane is not None:
        _, turns, shifts, _ = cv2.decomposeHomographyMat(plane, np.diag([focal, focal, 1.0]))
        for turn, shift in zip(turns, shifts, strict=True):
            if (length := np.linalg.norm(shift)) > 1e-9:
                starts.append((np.asarray(turn, np.float64), shift[:, 0] / length))
    for start in starts:
        found = refined(view0, view1, start, threshold, np.ones(len(some)))
        side = displacements(view0, view1, found[0]) > threshold
        other = found[0], -found[1]
        front, back = (in_front(view0[side], view1[side], pose).sum() for pose in (found, other))
        yield found if front >= back else other


def _best(
    view0: View, view1: View, poses: list[Pose], threshold: float, trust: Points, chance: float
) -> tuple[Pose, Pose | None]:
    """The pose with the least distances, and the next one if noise cannot tell it from that."""
    costs = []
    for pose in poses:
        errors = distances(view0, view1, pose)
        behind = (displacements(view0, view1, pose[0]) > 2 * threshold) & ~in_front(view0, view1, pose)
        squares = np.minimum(np.where(behind, threshold, errors) ** 2, threshold**2)
        costs.append(float((trust * squares).sum()))
    first = int(np.argmin(costs))
    best = refined(view0, view1, poses[first], threshold, trust)
    errors = distances(view0, view1, best)
    inliers = errors <= threshold
    places = trust[inliers].sum()
    variance = noise_variance((trust * inliers * errors**2).sum(), places, threshold)
    wrong = chance * (~inliers).sum()  # that may agree with the best pose, and not with the right one
    margin = 3 * np.sqrt(4 * places) * variance + (wrong + 3 * np.sqrt(wrong)) * threshold**2
    near = [
        (cost, index)
        for index, cost in enumerate(costs)
        if max(angles_between(poses[index], best)) > _APART and cost - costs[first] < margin
    ]
    return best, poses[min(near)[1]] if near else None


def _trust(
    view0: View, view1: View, pose: Pose, turned: Points, weights: Points, chance: float, threshold: float
) -> Points:
    """(M,) share of the matches displaced like each, on its side of the cameras, that chance leaves.

    Wrong matches on an epipolar line are displaced by a large part of the image: where the scene's points
    are not, they would decide the translation.
    """
    agree = distances(view0, view1, pose) <= threshold
    moved = displacements(view0, view1, turned)
    still = moved <= 2 * threshold
    octave = np.ceil(np.log2(np.clip(moved / (2 * threshold), 1.0, 2.0**20))).astype(int)
    kind = 2 * octave + (~still & ~in_front(view0, view1, pose))
    inliers, every = np.bincount(kind, agree, 64), np.bincount(kind, minlength=64)
    wrong = chance * (every - inliers)
    trust = np.clip(1 - (wrong + 3 * np.sqrt(wrong)) / np.maximum(inliers, 1), 0, 1)[kind]
    # beside a rotation, a direction has two parameters
    nfa = log10_nfa(weights[~still].sum(), weights[agree & ~still].sum(), chance, sample=2)
    return np.asarray(trust * still if nfa > MAX_LOG10_NFA else trust)


def _weighed(
    view0: View, view1: View, pose: Pose, other: Pose | None, turned: Points, trust: Points,
    agree: NDArray[np.bool_], threshold: float,
) -> RelativePose | EstimationFailure:  # fmt: skip
    """What the inliers determine of the pose."""
    count, total, places = int(agree.sum()), len(agree), trust.sum()
    if round(places) < _MIN_INLIERS:
        return EstimationFailure(too_few(count, total, "relative pose", _MIN_INLIERS))
    errors, rows, noise, _ = linearised(view0, view1, pose)
    variance = noise_variance((trust * errors**2).sum(), places - 5, threshold)
    normal = (rows * trust[:, None]).T @ rows
    rest = inverse_of(normal - leaned_on(rows[:, None], trust, normal))
    leaning = np.inf if rest is None else _degrees(variance * np.diag(rest)[:3])
    # noise moves points along their lines as parallax does, which says nothing of the translation
    normal -= (1 + 3 * np.sqrt(2 / places)) * variance * np.einsum("m,mik,mjk->ij", trust, noise, noise)
    inverse = inverse_of(normal)
    turn, shift = np.inf, np.inf
    if inverse is not None:
        left_out = trust * errors / np.maximum(1 - trust * ((rows @ inverse) * rows).sum(axis=1), 0.05)
        pull = ((inverse @ (rows * left_out[:, None]).T) ** 2).sum(axis=1)  # it knows of leverage
        classic = variance * np.diag(inverse)
        turn, shift = (max(_degrees(v[part]) for v in (classic, pull)) for part in (slice(3), slice(3, 5)))
    moved = displacements(view0, view1, turned)
    usual = 2 * variance * (1 + (view1.focal / view0.focal) ** 2)
    squared = (trust[agree] * np.minimum(moved[agree], 1e6 * threshold) ** 2).sum() / places
    if squared < _PARALLAX * usual or shift > _DEVIATION[1]:
        still = agree & (moved <= 2 * threshold)
        if round(trust[still].sum()) >= max(_MIN_INLIERS, _MOST * places):
            return _turned(view0, view1, turned, trust, still, moved, usual)
    if turn > _DEVIATION[0] or shift > _DEVIATION[1] or leaning > _LEANING:
        return EstimationFailure(
            f"{count} of {total} matches agree, but they do not determine the relative pose: its rotation "
            f"would be uncertain by {min(turn, 180):.1f} degrees, its translation by {min(shift, 180):.1f}; "
            f"if a few of them were wrong, its rotation by {min(leaning, 180):.1f}"
        )
    side = agree & (displacements(view0, view1, pose[0]) > 2 * threshold)
    front = in_front(view0[side], view1[side], pose)
    if len(front) and front.mean() < _MOST:
        return EstimationFailure(
            f"{count} of {total} matches agree, but {1 - front.mean():.0%} of the points would lie behind a "
            "camera: is one image mirrored?"
        )
    second, support = None, 0
    if other is not None and max(angles_between(other, pose)) > _APART:
        second = np.column_stack(other)
        support = int((distances(view0, view1, other) <= threshold).sum())
    return RelativePose(pose[0], agree, turn, pose[1], shift, second, support)


def _turned(
    view0: View, view1: View, rotation: Points, trust: Points, still: NDArray[np.bool_], moved: Points,
    usual: float,
) -> RelativePose | EstimationFailure:  # fmt: skip
    """A rotation without a translation, which parallax that is not known may have turned, too."""
    unit = view0.rays[still] / np.linalg.norm(view0.rays[still], axis=1)[:, None]
    across = np.eye(3) - unit[:, :, None] * unit[:, None]
    normal = view1.focal**2 * np.einsum("m,mij->ij", trust[still], across)
    squared = (trust * moved**2)[still].sum() / trust[still].sum()
    # parallax that is alike everywhere is taken for a turn but for its second order over the image
    spread = view0.rays[still][:, :2] - view0.rays[still][:, :2].mean(0)
    order = (trust[still] * (spread**2).sum(1) * spread.T) @ spread / trust[still].sum()
    lever = max(1e-12, np.linalg.eigvalsh(order)[0])
    parallax = max(0.0, squared - usual) + max(0.0, squared - 1.5 * usual) / lever
    total = usual / 2 * np.trace(np.linalg.inv(normal)) + parallax / view1.focal**2
    turn = _degrees(np.array(total))
    if turn > _DEVIATION[0]:
        return EstimationFailure(
            f"{int(still.sum())} of {len(still)} matches agree, but their rotation is uncertain"
        )
    return RelativePose(rotation, still, turn)


def _degrees(variances: Points) -> float:
    return float(np.degrees(np.sqrt(variances.sum())))

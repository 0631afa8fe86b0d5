"""Relative pose as tasks: from features of a pair to a row, sums over pairs, and what reports show."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from geomatch.benchmarks.harness.measures import area_under_curve, recall_curve, with_failures
from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words, threshold_of
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.evaluation import (
    ImagePair,
    Match,
    PairEvaluation,
    limited,
    line_distances,
    matched_points,
    orders,
)  # fmt: skip
from geomatch.benchmarks.tasks.pairs.views import FramedPair, scaled_size
from geomatch.benchmarks.tasks.pose.data import Camera, Points, RelativePose, read_cameras
from geomatch.benchmarks.tasks.pose.protocols import MEGADEPTH, POSE, SCANNET, PoseProtocol
from geomatch.errors import ImageError
from geomatch.estimators.epipolar import angles_between, cross
from geomatch.estimators.pose import solve_pose
from geomatch.estimators.solvers import OPENCV_METHODS
from geomatch.geometry import warp_points
from geomatch.types import Features

_LIMIT = 20.0  # degrees; the end of curves
ERRORS = ("errors_deg", "rotation_deg", "translation_deg", "translation_unfolded_deg")
_ITERATIONS, _CONFIDENCE = 1000, 0.99999  # of OpenCV's estimators: its default, and the published one
_LARGEST_SQUEEZE = 0.02  # of an image beside the size that its camera is for
Pose = tuple[Points, Points, int]  # rotation, translation, inliers


def evaluate(protocol: PoseProtocol, pair: FramedPair, match: Match | None, truth: RelativePose) -> Row:
    """What the protocol measures of a pair; without ``match`` row i of both features is a match."""
    if match is not None:
        pair = limited(pair, protocol.max_keypoints)
    counts = [len(pair.features0), len(pair.features1)]
    start = time.perf_counter()
    points0, points1, _ = matched_points(protocol.max_matches, pair, match)
    matched = time.perf_counter()
    rays0, focal0 = _rays(protocol, points0, pair.features0, pair.matrix0, truth.cameras[0])
    rays1, focal1 = _rays(protocol, points1, pair.features1, pair.matrix1, truth.cameras[1])
    right = epipolar_distances(truth.matrix, rays0, rays1) < protocol.precision
    seen = np.isfinite(rays0).all(axis=1) & np.isfinite(rays1).all(axis=1)  # a lens may not reach a corner
    rays0, rays1 = rays0[seen], rays1[seen]
    runs = orders(len(rays0), protocol.seeds)
    found = [solve(protocol, rays0[order], rays1[order], focal0, focal1) for order in runs]
    angles = [None if pose is None else pose_errors(truth.matrix, *pose[:2]) for pose in found]
    row: Row = {"keypoints": counts, "matches": len(points0), "reason": None}
    if None in angles:
        row["reason"] = f"no essential matrix among {len(points0)} matches"
    row |= {name: [None if own is None else own[k] for own in angles] for k, name in enumerate(ERRORS)}
    row["inliers"] = [0 if pose is None else pose[2] for pose in found]
    row["precision"] = float(right.mean()) if len(right) else 0.0
    return row | {"seconds": {"match": matched - start, "rest": time.perf_counter() - matched}}


def _rays(
    protocol: PoseProtocol, points: Points, features: Features, matrix: Points, camera: Camera
) -> tuple[Points, Points]:
    """(M, 2) rays of points in the frame, and (2,) focal lengths in pixels of the threshold's frame."""
    size = np.rint(np.array(features.image_size) / matrix.diagonal()[:2])  # of the file
    own = np.array(camera.size or size)
    if abs(own[0] * size[1] / (own[1] * size[0]) - 1) > _LARGEST_SQUEEZE:
        raise ImageError(f"the image is {size[0]:g}x{size[1]:g}, its camera is for {own[0]:g}x{own[1]:g}")
    corner = camera.corner_origin if protocol.corner_origin is None else protocol.corner_origin
    original = warp_points(np.linalg.inv(matrix), points + 0.5 * corner)
    scaled = scaled_size((int(size[0]), int(size[1])), protocol.threshold_frame)
    return camera.rays(original * own / size), camera.matrix.diagonal()[:2] / own * scaled


def solve(
    protocol: PoseProtocol, rays0: Points, rays1: Points, focal0: Points, focal1: Points
) -> Pose | None:
    """The pose of camera 0 to 1 from rays (M, 2), with focal lengths (2,) in pixels; None without one."""
    if len(rays0) < 5:
        return None
    if protocol.estimator == "poselib":
        limits = {
            "max_epipolar_error": protocol.threshold, "success_prob": protocol.confidence,
            "max_iterations": protocol.max_iterations, "min_iterations": protocol.min_iterations,
        }  # fmt: skip
        options = {name: value for name, value in limits.items() if value is not None}
        found = solve_pose((rays0, rays1), (focal0, focal1), options)
        return found if found[2] >= 5 else None
    mean = (focal0[0] + focal1[1]) / 2 if protocol.focal == "superglue" else float(np.mean([focal0, focal1]))
    try:
        matrices, mask = cv2.findEssentialMat(
            rays0, rays1, np.eye(3), OPENCV_METHODS[protocol.estimator], protocol.confidence or _CONFIDENCE,
            protocol.threshold / mean, protocol.max_iterations or _ITERATIONS,
        )  # fmt: skip
    except cv2.error:  # some methods raise on degenerate input, others return None
        return None
    best: Pose | None = None
    # five matches have several solutions, one below the other; USAC may give none
    for matrix in [] if matrices is None else np.split(matrices, len(matrices) // 3):
        count, rotation, translation, *_ = cv2.recoverPose(
            matrix, rays0, rays1, np.eye(3), distanceThresh=protocol.max_depth, mask=mask.copy()
        )
        if count > (best[2] if best else 0):
            best = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)[:, 0], count
    return best


def epipolar_distances(truth: Points, rays0: Points, rays1: Points) -> Points:
    """(M,) sums of the squared distances of both rays (M, 2) to the other's epipolar line, as SuperGlue's."""
    return line_distances(cross(truth[:3, 3]) @ truth[:3, :3], np.hstack([rays0, rays1])) ** 2


def pose_errors(truth: Points, rotation: Points, translation: Points) -> tuple[float, ...] | None:
    """Degrees, in the order of `ERRORS`; None unless all are finite."""
    if not np.linalg.norm(translation) > 0:
        return None
    turn, whole = angles_between((truth[:3, :3], truth[:3, 3]), (rotation, translation))
    folded = min(whole, 180 - whole)
    return (max(turn, folded), turn, folded, whole) if np.isfinite(turn + whole) else None


def _measured(protocol: PoseProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair) -> Row:
    chosen = replace(protocol, estimator=method.estimator) if method.estimator else protocol
    return evaluate(chosen, framed[0], None if method.pair_matcher else method.match, pair.truth)


def _undefined(protocol: PoseProtocol, method: Method) -> str | None:
    known = ("poselib", *(name for name in OPENCV_METHODS if name != "rho"))
    if method.estimator and method.estimator not in known:
        return f"{method.estimator} estimates no essential matrix; choose one of: {', '.join(known)}"
    return None


def _values(protocol: PoseProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, seeds) errors in degrees, infinite for failures."""
    return np.array([with_failures(row["errors_deg"]) for row in rows])


def _area(protocol: PoseProtocol, found: Values, limit: float) -> list[float]:
    """In percent, under the errors of each run, or of all."""
    runs = [found.ravel()] if protocol.pooled else list(found.T)
    return [100 * area_under_curve(errors, limit) for errors in runs]


def _measures(protocol: PoseProtocol, rows: Sequence[Row]) -> Row:
    """Areas in percent, and the mean share of right matches."""
    found: Row = {}
    for limit in protocol.areas:
        areas = _area(protocol, _values(protocol, rows), limit)
        found[f"AUC@{limit:g}"] = sum(areas) / len(areas)
        if len(areas) > 1:
            found[f"AUC@{limit:g} spread"] = max(areas) - min(areas)
    share = sum(row["precision"] for row in rows) / len(rows)
    return found | {f"precision@{protocol.precision:g}": 100 * share}


def _worst(protocol: PoseProtocol, row: Row) -> Words:
    errors = [own for own in row["errors_deg"] if own is not None]
    error = f"{np.mean(errors):.1f} degrees" if errors else "no pose"
    counts = [("keypoints", " / ".join(map(str, row["keypoints"]))), ("matches", str(row["matches"]))]
    return [("pose error", error), *counts, ("right", f"{100 * row['precision']:.0f} %")]


def curve(protocol: PoseProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in degrees, and the percentage of pairs within."""
    return recall_curve(_values(protocol, rows), _LIMIT)


def _task(name: str, title: str, whole: int, protocols: dict[str, PoseProtocol]) -> Task:
    axes = Axes("Pairs within a pose error", "threshold, degrees", "pairs within it, %")
    return Task(
        name, title, ("scene", "scenes"), "pairs", whole, partial(read_cameras, name), protocols,
        partial(PairEvaluation, frames=lambda protocol: [protocol.frame], measured=_measured),
        _measures, _values,
        lambda protocol, found: float(np.mean(_area(protocol, found, threshold_of(protocol.headline)))),
        lambda protocol, found: found.mean(axis=1), _worst,
        lambda protocol: axes, curve, dense=False, undefined=_undefined,
    )  # fmt: skip


TASKS = {
    "megadepth": _task("megadepth", "MegaDepth-1500", 2, MEGADEPTH),
    "scannet": _task("scannet", "ScanNet-1500", 100, SCANNET),
    "pose": _task("pose", "Pairs with known cameras", 0, POSE),
}

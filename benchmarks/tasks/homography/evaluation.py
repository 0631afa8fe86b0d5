"""One pair of images under one protocol: from features to a row of the record."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from geomatch.benchmarks.harness.measures import accuracy
from geomatch.benchmarks.harness.task import Row
from geomatch.benchmarks.tasks.homography.protocols import MMA_THRESHOLDS, HomographyProtocol
from geomatch.benchmarks.tasks.pairs.evaluation import Match, limited, matched_points, orders
from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.estimators import OpenCVEstimator, PoseLibEstimator, create_estimator
from geomatch.geometry import image_corners, warp_points
from geomatch.keypoints.detector import select_best

CORRECT_PX = 3.0  # largest distance of a correct match, and of a repeated point (SuperPoint's protocol)
HOMOGRAPHY_NMS, DETECTOR_NMS = 8.0, 4.0
"""Least distances of keypoints in SuperPoint's protocol, before the best are taken."""
REPEATED_POINTS = 300
Points = NDArray[np.floating]
Float64 = NDArray[np.float64]
_OPENCV = {  # method, iterations and confidence
    "lmeds": ("lmeds", 2000, 0.995),
    "ransac": ("ransac", 2000, 0.995),
    "ransac-roma": ("ransac", 2000, 0.99999),
    "magsac-evd": ("usac_magsac", 100_000, 0.995),  # its example's 0.999 lands in another argument
}


def evaluate(
    protocol: HomographyProtocol,
    pair: FramedPair,
    plane: Float64,
    match: Match | None,
    small: FramedPair | None = None,
    weighted: bool = False,
) -> Row:
    """What the protocol measures of a pair in its frame, keypoints and matches best first.

    ``plane`` is the true homography (3, 3) between the whole images. Without ``match`` row i of both features
    is a match. ``small`` is the pair in 320 x 240 pixels, for repeatability. ``weighted`` says that
    similarities weigh the matches in the direct linear transform, as a learned matcher's confidences do.
    """
    truth = pair.homography(plane)
    if protocol.kind == "superpoint":
        pair = _shared(pair, truth, HOMOGRAPHY_NMS, protocol.max_keypoints)
    else:
        pair = limited(pair, protocol.max_keypoints, protocol.unique and match is not None)
    counts = len(pair.features0), len(pair.features1)
    start = time.perf_counter()
    points0, points1, similarity = matched_points(protocol.max_matches, pair, match)
    matched = time.perf_counter()
    row: Row = {"keypoints": list(counts), "matches": len(points0), "reason": None}
    distances = match_distances(points0, points1, truth)
    if protocol.kind == "mma":
        row["within"] = [int((distances <= t).sum()) for t in MMA_THRESHOLDS]
        row["reason"] = None if len(points0) else "no matches"
    else:
        row |= _homographies(protocol, pair, plane, points0, points1, similarity if weighted else None)
    apart = distances
    if protocol.symmetric:
        back = match_distances(points1, points0, np.linalg.inv(truth))
        apart = (distances + back) / 2
    row |= {f"precision@{threshold:g}": accuracy(apart, threshold) for threshold in protocol.precisions}
    if protocol.kind == "superpoint":
        correct = distances <= CORRECT_PX
        row["average_precision"] = average_precision(similarity, correct)
        # correct matches over the mean number of points that both images show
        row["matching_score"] = 2 * int(correct.sum()) / max(1, sum(counts))
        if small:
            truth = small.homography(plane)
            few = _shared(small, truth, DETECTOR_NMS, REPEATED_POINTS)
            points = few.features0.keypoints, few.features1.keypoints
            share, localisation = repeatability(*points, truth, CORRECT_PX)
            row |= {"repeatability": share, "localisation_px": localisation}
    row["seconds"] = {"match": matched - start, "rest": time.perf_counter() - matched}
    return row


def _shared(pair: FramedPair, truth: Float64, distance: float, limit: int) -> FramedPair:
    """Only points that the other image shows too, thinned out; the truth decides, as in the original."""
    features0, features1 = pair.features0, pair.features1
    seen0 = visible(features0.keypoints, truth, features1.image_size)
    seen1 = visible(features1.keypoints, np.linalg.inv(truth), features0.image_size)
    kept0 = select_best(features0[seen0], limit, distance)
    return replace(pair, features0=kept0, features1=select_best(features1[seen1], limit, distance))


def _homographies(
    protocol: HomographyProtocol,
    pair: FramedPair,
    plane: Float64,
    points0: Float64,
    points1: Float64,
    weights: NDArray[np.float32] | None,
) -> Row:
    size0, size1 = pair.features0.image_size, pair.features1.image_size
    unit = min(size1) / protocol.relative_to if protocol.relative_to else 1.0
    corners = image_corners(size0)
    if protocol.corner_origin:
        points0, points1 = points0 + 0.5, points1 + 0.5
        corners = image_corners((size0[0] + 1, size0[1] + 1))
    places = {"px": (corners, warp_points(pair.homography(plane), corners))}
    row: Row = {"reason": None}
    if protocol.everywhere:
        places, row["warning"] = _everywhere(pair, plane, (size0, size1))

    def error(matrix: Float64 | None, name: str = "px") -> float | None:
        if matrix is None or not len(places[name][0]):
            return None
        own = np.linalg.pinv(matrix) if name == "back" else matrix
        apart = np.linalg.norm(warp_points(own, places[name][0]) - places[name][1], axis=1).mean() / unit
        return float(apart) if np.isfinite(apart) else None

    name, number = protocol.solver.split()
    threshold = float(number) * unit
    row |= {f"errors_{place}": [] for place in places} | {"inliers": []}
    for order in orders(len(points0), protocol.seeds):
        matrix = solve(name, threshold, points0[order], points1[order], size0)
        for place in places:
            row[f"errors_{place}"].append(error(matrix, place))
        if matrix is None:
            row["reason"] = row["reason"] or f"no homography among {len(points0)} matches"
            row["inliers"].append(0)
        else:
            within = match_distances(points0, points1, matrix) <= threshold
            row["inliers"].append(int(within.sum()))
    if protocol.direct:
        row["errors_DLT"] = [error(direct(points0, points1, weights))]
    return row


_Places = dict[str, tuple[Float64, Float64]]


def _everywhere(
    pair: FramedPair, plane: Float64, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[_Places, str | None]:
    """Points, and where the truth sends them, by the names of errors; and what is wrong with the truth."""
    seen, truth = visible_part(pair.homography(plane), *sizes)
    places = {"visible": (seen, warp_points(truth, seen))}
    behind = []
    for side, (name, matrix) in enumerate([("px", truth), ("back", np.linalg.inv(truth))]):
        corners = image_corners(sizes[side])
        if (depths(matrix, corners) > 0).all():
            places[name] = corners, warp_points(matrix, corners)
        else:
            behind.append(f"a corner of image {side} lies behind the plane under the truth: it has no error")
    if not len(seen):
        behind = ["under the truth image 1 shows no part of image 0"]
    return places, "; ".join(behind) or None


def solve(
    name: str, threshold: float, points0: Float64, points1: Float64, size: tuple[int, int] = (1, 1)
) -> Float64 | None:
    """(3, 3) from (M, 2) points of image 0, of (width, height) ``size``, and their partners; not refitted.

    ``name`` is one of `cv2.findHomography`'s methods, ``poselib`` for its LO-RANSAC, both with their own
    defaults but the threshold in pixels; or an estimator of geomatch, with its gate.
    """
    if name not in _OPENCV and name != "poselib":
        found = create_estimator(name, threshold).estimate(points0, points1, size)
        return found.matrix if found else None
    if len(points0) < 4:
        return None
    if name == "poselib":
        return _finite(PoseLibEstimator(threshold).solve(points0, points1))
    method, iterations, confidence = _OPENCV[name]
    return _finite(OpenCVEstimator(method, threshold, iterations, confidence).solve(points0, points1))


def direct(points0: Points, points1: Points, weights: Points | None = None) -> Float64 | None:
    """Normalised DLT over all matches; with weight 1 unless given, as mutual neighbours in glue-factory."""
    from kornia.geometry.homography import find_homography_dlt

    if len(points0) < 4:
        return None
    pair = (torch.from_numpy(np.ascontiguousarray(points))[None] for points in (points0, points1))
    shares = np.ones(len(points0)) if weights is None else weights.astype(np.float64)
    try:
        return _finite(find_homography_dlt(*pair, torch.from_numpy(shares)[None])[0].numpy())
    except RuntimeError:  # of a decomposition that does not converge
        return None


def _finite(matrix: NDArray[Any] | None) -> Float64 | None:
    if matrix is None or not np.isfinite(matrix).all() or not np.any(matrix):
        return None
    return np.asarray(matrix, np.float64)


def match_distances(points0: Points, points1: Points, truth: ArrayLike) -> Float64:
    """(M,) distance in image 1 between where the truth sends a point and its partner (D2-Net, one way)."""
    apart = warp_points(truth, points0) - np.reshape(points1, (-1, 2))
    return np.asarray(np.linalg.norm(apart, axis=1), np.float64)


def visible(points: Points, matrix: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(N,) which points the matrix sends into an image of that (width, height)."""
    warped = warp_points(matrix, points)
    inside = (warped >= 0) & (warped <= np.array([size[0] - 1, size[1] - 1]))
    return np.asarray(inside.all(axis=1))


def visible_part(truth: Float64, size0: tuple[int, int], size1: tuple[int, int]) -> tuple[Float64, Float64]:
    """(N, 2) pixels of image 0 that image 1 shows, and the truth, signed so that they are before the plane.

    Of an image with over a million pixels every k-th each way. Sizes are (width, height).
    """
    step = int(np.ceil(np.sqrt(size0[0] * size0[1] / 1e6)))
    x, y = np.meshgrid(np.arange(0, size0[0], step), np.arange(0, size0[1], step))
    pixels = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
    pixels = pixels[visible(pixels, truth, size1)]
    signed = truth if np.sign(depths(truth, pixels)).sum() >= 0 else -truth
    return pixels[depths(signed, pixels) > 0], signed


def depths(matrix: NDArray[np.floating], points: Points) -> Float64:
    """(N,) third homogeneous coordinates of points sent by the matrix."""
    return np.asarray(points @ matrix[2, :2] + matrix[2, 2], np.float64)


def repeatability(
    points0: Points, points1: Points, truth: ArrayLike, threshold: float
) -> tuple[float | None, float | None]:
    """Share of points, both ways, with one near in the other image, and their mean distance, or None."""
    if not len(points0) or not len(points1):
        return 0.0 if len(points0) + len(points1) else None, None
    apart = warp_points(truth, points0)[:, None] - np.asarray(points1, np.float64)[None]
    distances = np.linalg.norm(apart, axis=2)
    nearest = np.r_[distances.min(axis=1), distances.min(axis=0)]
    found = nearest[nearest <= threshold]
    return len(found) / len(nearest), float(found.mean()) if len(found) else None


def average_precision(scores: ArrayLike, correct: ArrayLike) -> float:
    """Sum of precision times the gain in recall, from the best score down; equal scores are one step.

    The definition of scikit-learn's ``average_precision_score``; 0 when nothing is correct.

    >>> average_precision([3, 2, 1], [True, False, True])  # 1/2 * 1 + 1/2 * 2/3
    0.8333333333333333
    """
    values, right = np.asarray(scores, np.float64), np.asarray(correct, np.bool_)
    if not right.any():
        return 0.0
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(right[order])
    last = np.flatnonzero(np.r_[values[1:] != values[:-1], True])  # of each group of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())

"""geomatch's values as OpenCV's, and back; TypeError and ValueError for what is neither."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import normalize_homography
from geomatch.images import Image
from geomatch.opencv.arguments import check_each, check_image, check_keypoints
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches, Metric


def from_bgr(image: NDArray[np.uint8], name: str = "array") -> Image:
    """From uint8 (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, whose fourth channel is dropped."""
    array = check_image(image)
    if array.ndim == 2:
        return Image(np.repeat(array[:, :, None], 3, axis=2), name)
    return Image(np.ascontiguousarray(array[:, :, 2::-1]), name)


def to_bgr(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) BGR, uint8."""
    return np.ascontiguousarray(image.pixels[:, :, ::-1])


def to_keypoints(features: Features) -> tuple[cv2.KeyPoint, ...]:
    """Size 0 where there are no scales and angle -1 where there are no orientations, as OpenCV has it."""
    n = len(features)
    sizes = np.zeros(n) if features.scales is None else features.scales
    angles = -np.ones(n)
    if features.orientations is not None:
        angles = np.degrees(features.orientations.astype(np.float64)) % 360
    rows = zip(
        features.keypoints.tolist(), sizes.tolist(), angles.tolist(), features.scores.tolist(), strict=True
    )
    return tuple(cv2.KeyPoint(x, y, size, angle, score) for (x, y), size, angle, score in rows)


def from_keypoints(
    keypoints: Sequence[cv2.KeyPoint],
    image_size: tuple[int, int],
    descriptors: NDArray[np.floating] | None = None,
) -> Features:
    """N keypoints of an image of ``image_size`` (width, height), with descriptors (N, D).

    Scales when all sizes are positive, orientations when no angle is negative; octaves are dropped.
    """
    rows = keypoint_rows(check_keypoints(keypoints)).astype(np.float32)
    sizes, angles = rows[:, 2], rows[:, 3]
    return Features(
        keypoints=rows[:, :2],
        scores=rows[:, 4],
        image_size=image_size,
        scales=sizes if len(rows) and (sizes > 0).all() else None,
        orientations=np.radians(angles, dtype=np.float32) if len(rows) and (angles >= 0).all() else None,
        descriptors=None if descriptors is None else np.asarray(descriptors, np.float32),
    )


def keypoint_rows(keypoints: Sequence[cv2.KeyPoint]) -> NDArray[np.float64]:
    """(N, 5): x, y, size, angle in degrees, response."""
    rows = [(*point.pt, point.size, point.angle, point.response) for point in keypoints]
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def to_dmatches(matches: Matches, metric: Metric = "cosine") -> tuple[cv2.DMatch, ...]:
    """Best first; the distance is the Euclidean one, under the cosine between unit vectors.

    A cosine in float32 tells distances below 0.0004 from 0 no longer; ``metric="l2"`` matches keep theirs.
    """
    similarity = matches.similarity.astype(np.float64)
    distances = np.sqrt(np.maximum(0.0, 2 - 2 * similarity)) if metric == "cosine" else -similarity
    rows = zip(matches.indices.tolist(), distances.tolist(), strict=True)
    return tuple(cv2.DMatch(i, j, distance) for (i, j), distance in rows)


def dmatches_by_query(
    pairs: NDArray[np.int64],
    distances: NDArray[np.float32],
    queries: int,
    trains: Sequence[int],
    compact: bool,
) -> tuple[tuple[cv2.DMatch, ...], ...]:
    """Pairs (M, 2), whose queries ascend, for each query; train rows count through images of ``trains`` rows.

    ``compact`` leaves out queries without a match.
    """
    starts = np.cumsum([0, *trains])
    rows, columns = pairs.T
    images = np.searchsorted(starts[1:], columns, side="right")
    values = (rows.tolist(), (columns - starts[images]).tolist(), images.tolist(), distances.tolist())
    made = tuple(cv2.DMatch(*each) for each in zip(*values, strict=True))
    ends = np.searchsorted(rows, np.arange(queries + 1)).tolist()
    found = (made[start:end] for start, end in pairwise(ends))
    return tuple(row for row in found if row or not compact)


def from_dmatches(dmatches: Sequence[cv2.DMatch], metric: Metric = "cosine") -> Matches:
    """Nearest first; distances as in `to_dmatches`."""
    check_each("matches", dmatches := tuple(dmatches), cv2.DMatch)
    distances = np.array([match.distance for match in dmatches], np.float64)
    indices = np.array([(match.queryIdx, match.trainIdx) for match in dmatches], np.int64).reshape(-1, 2)
    order = np.argsort(distances, kind="stable")
    similarity = 1 - distances**2 / 2 if metric == "cosine" else -distances
    return Matches(indices[order], similarity[order].astype(np.float32))


def to_homography(
    estimate: HomographyEstimate | EstimationFailure, count: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8]]:
    """What ``cv2.findHomography`` returns: the matrix or None, and the mask (M, 1) of ``count`` matches."""
    if not estimate:
        return None, np.zeros((count, 1), np.uint8)
    return estimate.matrix.copy(), estimate.inliers.astype(np.uint8)[:, None]


def from_homography(
    matrix: NDArray[np.floating] | None, mask: NDArray[np.integer[Any]]
) -> HomographyEstimate | EstimationFailure:
    """From the result of ``cv2.findHomography``; a matrix that cannot be one is a failure."""
    normal = None if matrix is None else normalize_homography(matrix)
    if normal is None:
        return EstimationFailure("OpenCV found no homography")
    return HomographyEstimate(normal, np.asarray(mask).reshape(-1) != 0)


def to_image_features(
    keypoints: Sequence[cv2.KeyPoint],
    descriptors: NDArray[np.float32] | None,
    image_size: tuple[int, int],
    index: int = 0,
) -> "cv2.detail.ImageFeatures":
    """For OpenCV's stitching pipeline (``cv2.detail.BestOf2NearestMatcher`` and what follows).

    N keypoints with descriptors (N, D), None without any, of an image of ``image_size`` (width, height);
    ``index`` counts the images of the panorama.
    """
    points = check_keypoints(keypoints)
    rows = np.zeros((0, 0), np.float32)
    if descriptors is not None:
        rows = np.ascontiguousarray(descriptors, np.float32)
    if rows.ndim != 2 or len(rows) != len(points):
        raise ValueError(f"descriptors must have shape ({len(points)}, D), got {rows.shape}")
    # on OpenCV 4 a fresh object crashes when its descriptors are set: let a detector make it
    blank = np.zeros((32, 32), np.uint8)
    detector = cv2.ORB_create()  # type: ignore[attr-defined]
    features = cv2.detail.computeImageFeatures2(detector, blank)
    features.keypoints, features.descriptors = points, cv2.UMat(rows)  # type: ignore[call-overload]
    features.img_size, features.img_idx = (int(image_size[0]), int(image_size[1])), index
    return features


def from_image_features(features: "cv2.detail.ImageFeatures") -> Features:
    """Keypoints and descriptors of one image of OpenCV's stitching pipeline."""
    width, height = features.img_size
    points, descriptors = features.getKeypoints(), features.descriptors.get()
    return from_keypoints(points, (width, height), np.asarray(descriptors, np.float32) if points else None)

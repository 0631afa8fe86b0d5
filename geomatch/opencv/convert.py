"""geomatch's values as OpenCV's, and back; TypeError and ValueError for what is neither."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.keypoints.opencv import features_of_rows, keypoint_rows
from geomatch.opencv.arguments import check_descriptors, check_image, check_keypoints
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches, Metric

Descriptors = NDArray[np.floating] | None
"""(N, D), or None without keypoints."""


def from_bgr(image: NDArray[np.uint8], name: str = "array") -> Image:
    """From uint8 (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, whose fourth channel is dropped."""
    array = check_image(image)
    colours = np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, 2::-1]
    return Image(np.ascontiguousarray(colours), name)


def to_bgr(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) BGR, uint8."""
    return np.ascontiguousarray(image.pixels[:, :, ::-1])


def to_keypoints(features: Features) -> tuple[cv2.KeyPoint, ...]:
    """Size 0 where there are no scales and angle -1 where there are no orientations, as OpenCV has it."""
    sizes, angles = np.zeros(len(features)), -np.ones(len(features))
    if features.scales is not None:
        sizes[:] = features.scales
    if features.orientations is not None:
        angles = np.degrees(features.orientations.astype(np.float64)) % 360
    rows = np.c_[features.keypoints, sizes, angles, features.scores]
    return tuple(cv2.KeyPoint(*row) for row in rows.tolist())


def from_keypoints(
    keypoints: Sequence[cv2.KeyPoint], image_size: tuple[int, int], descriptors: Descriptors = None
) -> Features:
    """N keypoints of an image of ``image_size`` (width, height), with descriptors (N, D).

    Scales when all sizes are positive, orientations when no angle is negative; octaves are dropped.
    """
    features = features_of_rows(keypoint_rows(check_keypoints(keypoints)), image_size)
    return replace(features, descriptors=descriptors)


def to_dmatches(matches: Matches, metric: Metric = "cosine") -> tuple[cv2.DMatch, ...]:
    """Best first; the distance is the Euclidean one, under the cosine between unit vectors.

    A cosine in float32 tells distances below 0.0004 from 0 no longer; ``metric="l2"`` matches keep theirs.
    """
    similarity = matches.similarity.astype(np.float64)
    distances = np.sqrt(np.maximum(0.0, 2 - 2 * similarity)) if metric == "cosine" else -similarity
    rows = zip(matches.indices.tolist(), distances.tolist(), strict=True)
    return tuple(cv2.DMatch(i, j, distance) for (i, j), distance in rows)


def to_homography(
    estimate: HomographyEstimate | EstimationFailure, count: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8]]:
    """The result of ``cv2.findHomography``: the matrix or None, and the mask (M, 1) of ``count`` matches."""
    if not estimate:
        return None, np.zeros((count, 1), np.uint8)
    return estimate.matrix.copy(), estimate.inliers.astype(np.uint8)[:, None]


def to_image_features(
    keypoints: Sequence[cv2.KeyPoint], descriptors: Descriptors, image_size: tuple[int, int], index: int = 0
) -> "cv2.detail.ImageFeatures":
    """For OpenCV's stitching pipeline (``cv2.detail.BestOf2NearestMatcher`` and what follows).

    N keypoints with descriptors (N, D), None without any, of an image of ``image_size`` (width, height);
    ``index`` counts the images of the panorama.
    """
    points, rows = check_keypoints(keypoints), check_descriptors("descriptors", descriptors)
    if len(rows) != len(points):
        raise ValueError(f"descriptors must have shape ({len(points)}, D), got {rows.shape}")
    # on OpenCV 4 a fresh object crashes when its descriptors are set: let a detector make it
    orb = cv2.ORB_create()  # type: ignore[attr-defined]
    features = cv2.detail.computeImageFeatures2(orb, np.zeros((32, 32), np.uint8))
    features.keypoints, features.descriptors = points, cv2.UMat(rows)  # type: ignore[call-overload]
    features.img_size, features.img_idx = (int(image_size[0]), int(image_size[1])), index
    return features

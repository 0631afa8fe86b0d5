"""geomatch's values as OpenCV's, and back; TypeError and ValueError for what is neither."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.keypoints.opencv import features_of_rows, keypoint_rows
from geomatch.opencv.arguments import check_image, check_keypoints
from geomatch.types import Features


def from_bgr(image: NDArray[np.uint8], name: str = "array") -> Image:
    """From uint8 (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, whose fourth channel is dropped."""
    array = check_image(image)
    colours = np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, 2::-1]
    return Image(np.ascontiguousarray(colours), name)


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
    keypoints: Sequence[cv2.KeyPoint],
    image_size: tuple[int, int],
    descriptors: NDArray[np.floating] | None = None,
) -> Features:
    """N keypoints of an image of ``image_size`` (width, height), with descriptors (N, D).

    Scales when all sizes are positive, orientations when no angle is negative; octaves are dropped.
    """
    features = features_of_rows(keypoint_rows(check_keypoints(keypoints)), image_size)
    return replace(features, descriptors=descriptors)

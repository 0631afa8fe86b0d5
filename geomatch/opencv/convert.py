"""geomatch's values as OpenCV's, and back; TypeError and ValueError for what OpenCV would not take."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.keypoints.opencv import features_of_rows, keypoint_rows
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


def check_image(image: object) -> NDArray[np.uint8]:
    """A uint8 array (H, W), (H, W, 3) BGR or (H, W, 4) BGRA; empty arrays pass."""
    if image is None:
        raise TypeError("the image is None: cv2.imread returns None for files that it cannot read")
    if not isinstance(image, np.ndarray):
        hint = "; give umat.get()" if isinstance(image, cv2.UMat) else ""
        raise TypeError(f"the image must be a numpy array, got {type(image).__name__}{hint}")
    if image.size == 0:
        return np.zeros((0, 0), np.uint8)
    if image.dtype != np.uint8:
        hint = "scale it to 0..255 and use astype(np.uint8)"
        raise TypeError(f"the image must be uint8 (CV_8U), got {image.dtype}; {hint}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        known = "(H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA"
        raise ValueError(f"the image must have shape {known}, got {image.shape}")
    return np.ascontiguousarray(image[:, :, 0] if image.shape[2:] == (1,) else image)


def check_mask(mask: object, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """A uint8 array of the shape; None and empty arrays stand for no mask."""
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"the mask must be a numpy array or None, got {type(mask).__name__}")
    if mask.size == 0:
        return None
    if mask.dtype != np.uint8:
        raise TypeError(f"the mask must be uint8 (CV_8UC1), got {mask.dtype}; use mask.astype(np.uint8)")
    if mask.shape not in (shape, (*shape, 1)):
        raise ValueError(f"the mask must have shape {shape}, got {mask.shape}")
    return np.ascontiguousarray(mask.reshape(shape))


def check_keypoints(keypoints: object) -> tuple[cv2.KeyPoint, ...]:
    """A sequence of ``cv2.KeyPoint``; None stands for no keypoints."""
    if keypoints is None:
        return ()
    if not isinstance(keypoints, Sequence):
        hint = "; use cv2.KeyPoint_convert(points)" if isinstance(keypoints, np.ndarray) else ""
        got = type(keypoints).__name__
        raise TypeError(f"keypoints must be a sequence of cv2.KeyPoint, got {got}{hint}")
    for index, value in enumerate(keypoints):
        if not isinstance(value, cv2.KeyPoint):
            raise TypeError(f"keypoints[{index}] must be a cv2.KeyPoint, got {type(value).__name__}")
    return tuple(keypoints)


def check_whole(name: str, value: object, least: int) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_number(name: str, value: object) -> float:
    """A real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if value != value:
        raise ValueError(f"{name} must be a number, got NaN")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is too large") from error

"""Arguments as OpenCV takes them: TypeError for the wrong type, ValueError for the wrong shape or value."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


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


def check_descriptors(name: str, descriptors: object) -> NDArray[np.float32]:
    """Rows (N, D) of uint8 or any float, as float32; None stands for no descriptors."""
    if descriptors is None:
        return np.zeros((0, 0), np.float32)
    if not isinstance(descriptors, np.ndarray):
        raise TypeError(f"{name} must be an array (N, D) or None, got {type(descriptors).__name__}")
    if descriptors.dtype != np.uint8 and descriptors.dtype.kind != "f":
        raise TypeError(f"{name} must be float32 or uint8, got {descriptors.dtype}")
    if descriptors.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {descriptors.shape}")
    return np.ascontiguousarray(descriptors, np.float32)


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


def check_images(images: Sequence[Any], name: str, values: Sequence[Any] | None) -> Sequence[Any]:
    """One value per image; None stands for one None each."""
    if values is None:
        return [None] * len(images)
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"with a list of images {name} must be a list, too, got {type(values).__name__}")
    if len(values) != len(images):
        raise ValueError(f"{len(images)} images need as many {name}, got {len(values)}")
    return values


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

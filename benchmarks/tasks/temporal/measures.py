"""Region and boundary of masks, as DAVIS measures them (Perazzi et al., CVPR 2016; davis2017-evaluation)."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.008  # how far a boundary may be off: a share of the image's diagonal, rounded up to pixels
RECALL = 0.5  # frames above it count as found

Mask = NDArray[np.bool_]


def region_similarity(found: Mask, truth: Mask) -> float:
    """J: intersection over union of two masks (H, W); 1 when both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary_accuracy(found: Mask, truth: Mask) -> float:
    """F: harmonic mean of the shares of each boundary that lie near the other one.

    Both empty is 1, one empty is 0.
    """
    height, width = truth.shape
    reach = int(np.ceil(TOLERANCE * np.hypot(height, width)))
    boundary0, boundary1 = _boundary(found), _boundary(truth)
    count0, count1 = int(boundary0.sum()), int(boundary1.sum())
    if not count0 or not count1:
        return float(count0 == count1)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= reach**2).astype(np.uint8)
    near0 = cv2.dilate(boundary0.astype(np.uint8), disk) > 0
    near1 = cv2.dilate(boundary1.astype(np.uint8), disk) > 0
    precision, recall = int((boundary0 & near1).sum()) / count0, int((boundary1 & near0).sum()) / count1
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Mask) -> Mask:
    """(H, W) pixels that differ from the next one to the right, below, or slanting; inside the mask's edge
    or just outside it."""
    right, below = np.zeros_like(mask), np.zeros_like(mask)
    slanting = np.zeros_like(mask)
    right[:, :-1], below[:-1], slanting[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    found = (mask ^ right) | (mask ^ below) | (mask ^ slanting)
    # the last row and column have neighbours along themselves only
    found[-1] = mask[-1] ^ right[-1]
    found[:, -1] = mask[:, -1] ^ below[:, -1]
    found[-1, -1] = False
    return found


def statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a measure over frames, share of frames above `RECALL`, and first less last quarter's mean.

    As davis2017-evaluation has them: quarters share their ends.
    """
    array = np.asarray(values, np.float64)
    ends = np.round(np.linspace(1, len(array), 5) + 1e-10).astype(int) - 1
    first, last = array[: ends[1] + 1], array[ends[3] :]
    return float(array.mean()), float((array > RECALL).mean()), float(first.mean() - last.mean())

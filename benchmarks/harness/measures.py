"""Measures that tasks share; errors are infinite for failures."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def with_failures(errors: Iterable[float | None]) -> NDArray[np.float64]:
    """Errors of a row, infinite for None."""
    return np.array([np.inf if error is None else error for error in errors], np.float64)


def recall_curve(
    errors: NDArray[np.float64], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every error up to the limit, and the percentage of errors within it."""
    ordered = np.sort(errors, axis=None)
    x = np.concatenate([[0.0], ordered[ordered <= limit], [limit]])
    return x, 100 * np.searchsorted(ordered, x, side="right") / len(ordered)


def accuracy(errors: ArrayLike, threshold: float) -> float:
    """Share of the errors that are at most the threshold; 0 of no errors.

    Of corner errors the "homography correctness" of SuperPoint, CAPS and DIFT, of one pair's match distances
    the matching accuracy, whose mean is D2-Net's MMA.
    """
    values = np.asarray(errors, np.float64)
    return float((values <= threshold).mean()) if values.size else 0.0


def area_under_curve(errors: ArrayLike, threshold: float) -> float:
    """Area under the curve of recall over error from 0 to the threshold, divided by it; 0 of no errors.

    As SuperGlue, LoFTR and glue-factory compute it: the i-th smallest of n errors has recall i/n, lines join
    these points from (0, 0) on, and from the last error below the threshold the curve is level.

    >>> area_under_curve([1.0, np.inf], 2.0)
    0.375
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    below = ordered[ordered < threshold]
    if not below.size:
        return 0.0
    recall = np.arange(len(below) + 1) / len(ordered)
    x, y = np.r_[0.0, below, threshold], np.r_[recall, recall[-1]]
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / (2 * threshold))


def mean_accuracy(errors: ArrayLike, largest: float) -> float:
    """Mean `accuracy` at ten thresholds from 1 to the largest, each larger by the same factor.

    The mAA of the Extreme View Dataset (wxbs-benchmark 0.0.4, ``get_mAA``), whose largest is 20 pixels.
    """
    return float(np.mean([accuracy(errors, threshold) for threshold in np.geomspace(1, largest, 10)]))

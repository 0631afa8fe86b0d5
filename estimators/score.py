"""The probability that a registration is right, from what the gate knows of it."""

import numpy as np

from geomatch.estimators.evidence import Points

_CELLS = 8  # along each side of image 0, for the share of it that has inliers


def score_features(
    places: float, total: int, count: int, nfa: float, second: int, noise: float,
    deviations: tuple[Points, Points], diagonal: float, inside: Points,
) -> Points:  # fmt: skip
    """What the score is made of, as the gate knows it.

    ``places`` separate ones of ``count`` inliers among ``total`` matches; ``noise`` is their residuals' root
    mean square in thresholds, ``diagonal`` that of the corners of image 0 in image 1, ``inside`` (K, 2) the
    inliers in image 0, whose corners are (0, 0) and (1, 1).
    """
    cells = np.unique(np.clip((inside * _CELLS).astype(np.int64), 0, _CELLS - 1) @ [1, _CELLS])
    full, without_some = (np.clip(own / diagonal, 1e-6, 10) for own in deviations)
    return np.array([
        1.0, np.log(full.max()), np.log(np.sqrt(np.mean(full**2))), np.log(without_some.max()),
        np.log1p(max(3 - nfa, 0.0)), np.log(places), np.log(count / total), second / count, noise,
        np.log(len(cells) / _CELLS**2),
    ])  # fmt: skip


def probability(features: Points) -> float:
    """The score of `score_features`."""
    return float(features[0])

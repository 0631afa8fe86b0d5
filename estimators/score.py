"""The probability that a registration is right, from what the gate knows of it."""

import numpy as np

from geomatch.estimators.evidence import Points

_CELLS = 8  # along each side of image 0, for the share of it that has inliers
_WEIGHTS = np.array([-8.501, 0.217, -2.260, -0.524, 0.749, -0.776, 0.304, -1.603, -1.190, 0.657])
_ALIGNED = (3.445, 0.466)
"""Logistic regressions on made pairs and matches (`benchmarks/studies/scores.py`; record ``scores--*``): of
`score_features`, and of the score's log-odds once the pixels have confirmed and refined the homography."""


def score_features(
    support: tuple[float, float, int], counts: tuple[int, int], noise: float,
    deviations: tuple[Points, Points], diagonal: float, inside: Points,
) -> Points:  # fmt: skip
    """What the score is made of.

    ``support`` are separate places, log10 of the number of false alarms, and matches that agree on one shift;
    ``counts`` inliers and matches; ``noise`` the residuals' root mean square in thresholds; ``deviations``
    and ``diagonal`` those of the corners of image 0 in image 1; ``inside`` (K, 2) the inliers in image 0,
    whose corners are (0, 0) and (1, 1).
    """
    places, nfa, second = support
    covered = len(np.unique(np.clip((inside * _CELLS).astype(np.int64), 0, _CELLS - 1) @ [1, _CELLS]))
    full, without_some = (np.log(np.clip(own / diagonal, 1e-6, 10)) for own in deviations)
    values = [
        1.0, full.max(), np.log(np.mean(np.exp(2 * full))) / 2, without_some.max(), np.log1p(max(3 - nfa, 0)),
        np.log(places), np.log(counts[0] / counts[1]), second / counts[0], noise, np.log(covered / _CELLS**2),
    ]  # fmt: skip
    return np.array(values)


def probability(features: Points) -> float:
    """The score of matches with these `score_features`."""
    return float(1 / (1 + np.exp(-features @ _WEIGHTS)))


def aligned(score: float) -> float:
    """The score after `geomatch.alignment` has refined the homography of matches with that score."""
    odds = np.log(max(score, 1e-9) / max(1 - score, 1e-9))
    return float(1 / (1 + np.exp(-_ALIGNED[0] - _ALIGNED[1] * odds)))

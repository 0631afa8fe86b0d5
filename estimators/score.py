"""The probability that a registration is right, from what the gate knows of it."""

from math import exp, log

import numpy as np

from geomatch.estimators.evidence import Points

RIGHT = 0.01
"""Largest mean error of corners of a right registration, by the diagonal of their box in image 1."""
_CELLS = 8  # along each side of image 0, for the share of it that has inliers
_WEIGHTS = np.array([-12.177, 0.592, -3.232, 1.063, -0.588, 0.180, -0.134, 0.385, -2.894, -0.953, 0.501])
_MATCHES = (-0.061, 0.928, 0.242)
_ALIGNED = (2.905, 0.418, 0.877)
"""Logistic regressions on made pairs and matches (`benchmarks/studies/scores.py` at commit c5aace3; record
``scores--*``): of the values of `score_of`; of their log-odds and what these have above one; the same of
those of the score, once the pixels have confirmed and refined the homography."""


def score_of(
    support: tuple[float, float, int], counts: tuple[int, int], noise: float,
    deviations: tuple[Points, Points], diagonal: float, inside: Points,
) -> float:  # fmt: skip
    """The score of matches.

    ``support`` are separate places, log10 of the number of false alarms, and matches that agree on one shift;
    ``counts`` inliers and matches; ``noise`` the residuals' root mean square in thresholds; ``deviations``
    and ``diagonal`` those of the corners of image 0 in image 1; ``inside`` (K, 2) the inliers in image 0,
    whose corners are (0, 0) and (1, 1).
    """
    places, nfa, second = support
    covered = len(np.unique(np.clip((inside * _CELLS).astype(np.int64), 0, _CELLS - 1) @ [1, _CELLS]))
    full, without_some = (np.log(np.clip(own / diagonal, 1e-6, 10)) for own in deviations)
    typical = np.log(np.mean(np.exp(2 * full))) / 2
    values = [
        1.0, full.max(), typical, max(typical - log(RIGHT), 0), without_some.max(), log(1 + max(3 - nfa, 0)),
        log(places), log(counts[0] / counts[1]), second / counts[0], noise, log(covered / _CELLS**2),
    ]  # fmt: skip
    return _chance(float(np.array(values) @ _WEIGHTS), _MATCHES)


def aligned(score: float) -> float:
    """The score after `geomatch.alignment` has refined the homography of matches with that score."""
    return _chance(log(max(score, 1e-9) / max(1 - score, 1e-9)), _ALIGNED)


def _chance(odds: float, curve: tuple[float, float, float]) -> float:
    return 1 / (1 + exp(-curve[0] - curve[1] * odds - curve[2] * max(odds - 1, 0)))

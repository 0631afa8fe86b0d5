"""How much the matches that agree with a homography say: independent places, and what chance would give."""

from collections.abc import Callable
from math import lgamma, log, log10

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_SAMPLED, _PARTNERS = 200, 500  # matches whose chance is measured: their pairs tell 1e-5 from less
FINEST = 1 / 3
"""Share of the threshold that inliers are off at least when they are told apart: 1 px at 3 px."""
_COHERENT = 100  # wrong matches whose neighbours are asked
_FINER = 3
"""How often the threshold is halved to count inliers again: exact ones say more than nearly right ones."""
_WIDER = 10  # how often it is doubled to measure the density of keypoints
_NEIGHBOURHOOD = 0.1  # of the extent of image 0: matches nearer than that may belong to one object


def measure_support(
    residuals: Points, p0: Points, p1: Points, threshold: float, sample: int = 4
) -> tuple[Points, float, int]:
    """Weigh the inliers of a plane model among matches (M, 2) with residuals (M, 2) in pixels of image 1.

    Returns (K,) one over the number of inliers about each inlier, nearer than twice what most are off, in
    either image; their sum is the number of separate places. Then the bound on the number of false alarms
    (log10), the least over finer thresholds, and how many matches at most agree with one shift of the
    model, lying where its inliers lie: on a facade the next period. ``sample`` matches determine the model.

    Chance is that a match sent elsewhere, to the keypoint of another match, would have agreed; so it knows of
    keypoints in clusters, in rows or on a grid. Where wrong matches agree with their neighbours, as on a
    repeated word, as many of the inliers count as one, too.
    """
    residuals = np.clip(residuals, -1e12 * threshold, 1e12 * threshold)  # some are sent to infinity
    errors = np.linalg.norm(residuals, axis=1)
    inliers = errors <= threshold
    scale = max(FINEST * threshold, float(np.quantile(errors[inliers], 0.9))) if inliers.any() else threshold
    weights = independence(p0[inliers], p1[inliers], scale)
    together = _coherence(residuals[~inliers], p0[~inliers], np.ptp(p0, axis=0).max(), threshold)
    shares = _shares_within(residuals, p0, p1, threshold)
    outliers = (~inliers).sum() / together
    best = np.inf
    for finer in range(_FINER + 1):
        count = weights[errors[inliers] <= threshold / 2**finer].sum() / together
        # the share of other matches at that distance, or that at a larger one spread evenly
        probability = (shares[_FINER - finer :] / 4.0 ** np.arange(_WIDER + finer)).max()
        best = min(best, log10_nfa(weights.sum() / together + outliers, count, probability, sample))
    second = _shifted(residuals[~inliers], p0[~inliers], p0[inliers], threshold)
    return weights, best + log10(_FINER + 1), second


def independence(p0: Points, p1: Points, scale: float) -> Points:
    """(M,) one over the number of matches within ``2 * scale``, in the image where more of them lie.

    ``scale`` is in pixels of image 1; lengths of image 0 are scaled as its extent is to that of image 1.
    """
    if not len(p0):
        return np.zeros(0)
    zoom = _zoom(p0, p1)
    side = 4 / 3 * scale  # three cells by three have about the area of a circle of that radius
    return 1 / np.maximum(crowd(p0 * zoom, side), crowd(p1, side))


def _zoom(p0: Points, p1: Points) -> float:
    """The extent of the points in image 1 by that in image 0."""
    return float(np.ptp(p1, axis=0).max() / max(np.ptp(p0, axis=0).max(), 1e-300))


def crowd(points: Points, distance: float) -> NDArray[np.int64]:
    """(M,) points in the three by three cells of that side about each point, itself included."""
    places = np.minimum((points - points.min(0)) / distance, 2.0**30)  # far strays fit into int64
    cells = places.astype(np.int64) + 1
    width = int(cells[:, 0].max()) + 2
    keys, counts = np.unique(cells[:, 1] * width + cells[:, 0], return_counts=True)
    own = cells[:, 1] * width + cells[:, 0]
    total = np.zeros(len(points), np.int64)
    for step in (y * width + x for y in (-1, 0, 1) for x in (-1, 0, 1)):
        at = np.minimum(np.searchsorted(keys, own + step), len(keys) - 1)
        total += np.where(keys[at] == own + step, counts[at], 0)
    return total


def _coherence(residuals: Points, p0: Points, extent: float, threshold: float) -> float:
    """Mean number of neighbouring matches that have one residual; 1 when each is wrong in its own way."""
    if len(p0) < 8:
        return 1.0
    some = np.arange(0, len(p0), max(1, len(p0) // _COHERENT))
    i, j = np.nonzero(_squared_distances(p0[some], p0) <= (_NEIGHBOURHOOD * extent) ** 2)
    alike = ((residuals[some[i]] - residuals[j]) ** 2).sum(axis=1) <= (2 * threshold) ** 2
    return max(1.0, float(np.median(np.bincount(i, alike, len(some)))))


def _shifted(residuals: Points, p0: Points, inliers0: Points, threshold: float) -> int:
    """How many of the matches beside the inliers have about one residual and lie among the inliers."""
    if len(p0) == 0:
        return 0
    centre = residuals[crowd(residuals, threshold).argmax()]
    alike = (np.abs(residuals - centre) <= 2 * threshold).all(axis=1)
    low, high = inliers0.min(0), inliers0.max(0)
    return int((alike & ((p0 >= low) & (p0 <= high)).all(axis=1)).sum())


def _shares_within(residuals: Points, p0: Points, p1: Points, threshold: float) -> Points:
    """How many pairs of matches have the place where one should lie near the place where the other lies.

    Shares of all pairs within ``threshold`` times 2^-3 to 2^9; matches of one place to one place are no pair.
    """
    some, others = (slice(None, None, max(1, len(p0) // most)) for most in (_SAMPLED, _PARTNERS))
    squared = _squared_distances(p1[some] - residuals[some], p1[others]) / threshold**2
    zoom = _zoom(p0, p1)
    same = _squared_distances(p0[some] * zoom, p0[others] * zoom) <= (2 * threshold) ** 2
    same &= _squared_distances(p1[some], p1[others]) <= (2 * threshold) ** 2
    # 4^k < squared / threshold^2 <= 4^(k + 1)
    bins = (np.frexp(np.clip(squared, 1e-30, 1e30) * (1 - 1e-9))[1] + 1) // 2 + _FINER
    counts = np.bincount(np.maximum(bins[~same], 0), minlength=_FINER + _WIDER)[: _FINER + _WIDER]
    shares: Points = np.cumsum(counts) / same.size
    return shares


def epipolar_support(
    errors: Callable[[NDArray[np.intp], NDArray[np.intp]], Points],
    agree: NDArray[np.bool_], p0: Points, p1: Points, threshold: float, sample: int, models: int,
) -> tuple[Points, float, float]:  # fmt: skip
    """Weigh matches (M, 2), of which some agree with an epipolar geometry, as `measure_support` does inliers.

    Returns (M,) weights, the probability that a match sent elsewhere, to the keypoint of another match, would
    agree, and the bound on the number of false alarms (log10). ``errors`` gives the distances of points ``i``
    of image 0 with points ``j`` of image 1 in pixels; ``sample`` and ``models`` are those of `log10_nfa`.
    """
    # words that two pages repeat agree with their neighbours: as many count as one
    together = _coherence((p1 - p0)[~agree], p0[~agree], np.ptp(p0, axis=0).max(), threshold)
    weights = independence(p0, p1, FINEST * threshold) / together
    some, others = (np.arange(0, len(p0), max(1, len(p0) // most)) for most in (_SAMPLED // 2, _SAMPLED))
    i, j = (axis.ravel() for axis in np.meshgrid(some, others, indexing="ij"))
    apart = np.linalg.norm(p0[i] - p0[j], axis=1) * _zoom(p0, p1) > 2 * threshold
    apart |= np.linalg.norm(p1[i] - p1[j], axis=1) > 2 * threshold
    i, j = i[apart], j[apart]
    chance = float((errors(i, j) <= threshold).mean()) if len(i) else 1.0
    return weights, chance, log10_nfa(weights.sum(), weights[agree].sum(), chance, sample, models)


def _squared_distances(a: Points, b: Points) -> Points:
    """(N, M) between points of both."""
    return np.asarray(np.subtract.outer(a[:, 0], b[:, 0]) ** 2 + np.subtract.outer(a[:, 1], b[:, 1]) ** 2)


def log10_nfa(total: float, inliers: float, probability: float, sample: int = 4, models: int = 1) -> float:
    """log10 of the number of false alarms of a model (Moisan and Stival, IJCV 2004).

    NFA = m (n - s) C(n, k) C(k, s) p^(k - s), for k inliers among n matches when a random match is an
    inlier with probability p; minimal samples of s matches (4 for a homography, 7 for a fundamental
    matrix) give up to m models each.
    """
    if inliers <= sample:
        return float("inf")

    def log_choose(n: float, k: float) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    choices = log_choose(total, inliers) + log_choose(inliers, sample)
    natural = choices + (inliers - sample) * log(min(1.0, max(probability, 1e-300)))
    return natural / log(10) + log10(models * max(1.0, total - sample))

"""Tentative matches among keypoints of many views."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.isolation import isolated
from geomatch.matching import scored_chunks
from geomatch.types import Metric
from geomatch.views.features import FramedFeatures

APART = 10.0
"""Pixels from which on a second neighbour is another place: the first geometrically inconsistent one (MODS;
Mishkin, Matas, Perdoch, CVIU 2015)."""
RATIO = 0.85
"""Largest ratio of the distances to the first neighbour and to that."""


@isolated()
def tentative_matches(
    features0: FramedFeatures, features1: FramedFeatures, metric: Metric, ratio: float = RATIO
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest neighbours that pass the ratio test, the most distinct first.

    Returns indices (M, 2) and the ratios (M,).
    """
    if not len(features0) or not len(features1):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    a, b = features0.descriptors, features1.descriptors.to(features0.descriptors.device)
    where = torch.from_numpy(features1.points).to(a.device, torch.float32)
    column, ratios = _first_and_ratio(a, b, where, metric)
    i = np.flatnonzero(ratios < ratio)
    order = i[np.argsort(ratios[i], kind="stable")]
    return np.stack([order, column[order]], axis=1), ratios[order]


def _first_and_ratio(
    a: Tensor, b: Tensor, where: Tensor, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Per row of a the nearest row of b, and its distance by that of the nearest elsewhere."""
    columns, ratios = [], []
    squares = where.square().sum(1)
    for _, scores in scored_chunks(a, b, metric):
        best, column = scores.max(1)
        own = where[column]
        apart = torch.addmm(
            squares[None] + squares[column, None], own, where.T, alpha=-2
        )  # squared distances
        second = scores.masked_fill_(apart < APART**2, -torch.inf).amax(1)
        first, other = (_distance(score, metric) for score in (best, second))
        columns.append(column)
        ratios.append(torch.where(other > 0, first / other, 1.0))
    return torch.cat(columns).numpy(force=True), torch.cat(ratios).numpy(force=True)


def _distance(scores: Tensor, metric: Metric) -> Tensor:
    """From the scores of `scored_chunks`: cosines, or minus half the squared distances."""
    return ((2 - 2 * scores) if metric == "cosine" else -2 * scores).clamp(min=0).sqrt()

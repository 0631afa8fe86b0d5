"""Tentative matches among keypoints of many views."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.isolation import isolated
from geomatch.matchers import Matcher, match_features
from geomatch.matching import scored_chunks
from geomatch.tensors import FeatureTensors
from geomatch.types import Matches, Metric
from geomatch.views.features import FramedFeatures, joined

APART = 10.0
"""Pixels from which on a second neighbour is another place: the first geometrically inconsistent one (MODS;
Mishkin, Matas, Perdoch, CVIU 2015)."""
RATIO = 0.85
"""Largest ratio of the distances to the first neighbour and to that."""


Tentative = Callable[[Sequence[FramedFeatures], Sequence[FramedFeatures]], Matches]
"""From the keypoints of both images, view by view, the image itself first, to matches, best first. Indices
count through the views."""


@isolated()
def nearest_elsewhere(
    views0: Sequence[FramedFeatures],
    views1: Sequence[FramedFeatures],
    metric: Metric,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
) -> Matches:
    """Nearest neighbours among all views, the most distinct first; the similarity is one minus the ratio.

    The options are those of `geomatch.match_mutual`; without ``max_ratio`` it is `RATIO`.
    """
    column, similarity, ratios = _first_and_ratio(joined(views0), joined(views1), metric)
    near = ratios < (RATIO if max_ratio is None else max_ratio)
    i = np.flatnonzero(near if min_similarity is None else near & (similarity >= min_similarity))
    order = i[np.argsort(ratios[i], kind="stable")]
    return Matches(np.stack([order, column[order]], axis=1), 1 - ratios[order])


def learned_pairs(matcher: Matcher, least: float | None = None) -> Tentative:
    """A learned matcher's matches between each view of one image and the other image as it is."""
    known: dict[tuple[int, int], Matches] = {}

    def matched(views0: Sequence[FramedFeatures], views1: Sequence[FramedFeatures]) -> Matches:
        starts = [np.cumsum([0, *map(len, views)]) for views in (views0, views1)]
        pairs = [(n, 0) for n in range(len(views0))] + [(0, k) for k in range(1, len(views1))]
        for n, k in pairs:
            if (n, k) not in known:
                one, two = (cast(FeatureTensors, own.view).to_features() for own in (views0[n], views1[k]))
                known[n, k] = match_features(matcher, one, two, least)
        parts = [
            (known[n, k].indices + np.array((starts[0][n], starts[1][k])), known[n, k].similarity)
            for n, k in pairs
        ]
        indices, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(-similarity, kind="stable")
        return Matches(indices[order], similarity[order])

    return matched


def _first_and_ratio(
    features0: FramedFeatures, features1: FramedFeatures, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Per keypoint of image 0 the nearest of image 1, how similar it is, and its distance by that of the
    nearest elsewhere."""
    a, b = features0.descriptors, features1.descriptors.to(features0.descriptors.device)
    where = torch.from_numpy(features1.points).to(a.device, torch.float32)
    columns, similarities, ratios = [], [], []
    for _, scores in scored_chunks(a, b, metric):
        best, column = scores.max(1)
        x, y = (where[column, axis, None].sub(where[:, axis]).square_() for axis in (0, 1))
        second = scores.masked_fill_(x.add_(y) < APART**2, -torch.inf).amax(1)
        first, other = (_distance(score, metric) for score in (best, second))
        columns.append(column)
        similarities.append(best if metric == "cosine" else -first)
        ratios.append(torch.where(other > 0, first / other, 1.0))
    found, similar, ratio = (torch.cat(part).numpy(force=True) for part in (columns, similarities, ratios))
    return found, similar, ratio


def _distance(scores: Tensor, metric: Metric) -> Tensor:
    """From the scores of `scored_chunks`: cosines, or minus half the squared distances."""
    return ((2 - 2 * scores) if metric == "cosine" else -2 * scores).clamp(min=0).sqrt()

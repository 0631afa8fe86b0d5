"""The search for a geometry in views of more and more tilt, which stops as soon as one convinces."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geomatch.describers import Describer, traits_of
from geomatch.estimators import Gate
from geomatch.estimators.gate import ENOUGH
from geomatch.images import Image
from geomatch.keypoints import Detector, GridDetector
from geomatch.keypoints.detector import spread
from geomatch.parallel import side_by_side
from geomatch.tensors import FeatureTensors
from geomatch.types import EstimationFailure, Features, Geometry, Matches
from geomatch.views.features import FramedFeatures, features_of, framed, joined, view_features
from geomatch.views.matching import Tentative
from geomatch.views.simulation import tilted_views
from geomatch.views.solver import solve_by_frames

Effort = Literal["fast", "normal", "high"]
STAGES: dict[Effort, tuple[tuple[float, int], ...]] = {
    "fast": (),
    "normal": ((2.0, 1000), (4.0, 1000)),
    "high": ((2.0, 2000), (4.0, 2000), (6.0, 2000)),
}
"""Tilts whose views are made one after the other, and the most keypoints of a view of tilt 1."""
APART = 2.0  # pixels: nearer keypoints are one place
DEVIATION = 0.02
"""Bound of `Gate.max_deviation`: keypoints of tilted views are placed less exactly than the gate takes for
granted. Of 24 made pairs the two that 0.05 let through wrong were uncertain by 0.03."""


Relate = Callable[[Matches, FramedFeatures, FramedFeatures], Geometry]
"""From matches between framed features to what relates the images."""


def stages_of(
    effort: Effort, detector: Detector, describer: Describer, learned: bool
) -> tuple[tuple[float, int], ...]:
    """`STAGES`, without the last for learned matchers and dense describers, whose views take longer.

    None for grids, whose points are in every view the same, and for large networks but with ``high``.
    """
    traits, stages = traits_of(describer), STAGES[effort]
    if isinstance(detector, GridDetector) or (traits.large and effort != "high"):
        return ()
    return stages[:-1] if learned or traits.dense else stages


def seen_together(detector: Detector, describer: Describer) -> bool:
    """True if views of two images may be seen at once, each in a thread of its own."""
    traits, shown = traits_of(describer), getattr(detector, "in_views", None) or detector
    return traits.reentrant and not traits.large and getattr(shown, "reentrant", False)


def is_weak(geometry: Geometry) -> bool:
    """True if views should be tried: nothing was found, or by few inliers, or uncertainly."""
    if isinstance(geometry, EstimationFailure):
        return not geometry.planar
    return geometry.num_inliers < ENOUGH or geometry.uncertain


def relate_plane(gate: Gate, threshold: float, size: tuple[int, int]) -> Relate:
    """Homographies that pass a stricter gate; ``threshold`` is in pixels of image 1, ``size`` of image 0."""
    strict = replace(gate, max_deviation=min(gate.max_deviation, DEVIATION))

    def relate(matches: Matches, framed0: FramedFeatures, framed1: FramedFeatures) -> Geometry:
        i, j = matches.indices.T
        points = framed0.points[i], framed1.points[j]
        matrix = solve_by_frames(*points, framed0.frames[i], framed1.frames[j], threshold)
        return strict.run(lambda *_: matrix, *points, threshold, size)

    return relate


def search_views(
    images: Sequence[Image],
    plain: Sequence[FeatureTensors],
    detector: Detector,
    describer: Describer,
    tentative: Tentative,
    stages: Sequence[tuple[float, int]],
    relate: Relate,
) -> tuple[Features, Features, Matches, Geometry, list[float]]:
    """Search views of both images (MODS; Mishkin, Matas, Perdoch, CVIU 2015).

    ``plain`` are the described keypoints of the images as they are, some of each; ``tentative`` matches these
    and those of views, which detector and describer find. ``stages`` are one or more of `STAGES`.

    Returns the matched keypoints of both images, in the order of the matches, with the plain ones elsewhere
    after them; the matches, best first; what relates the images; the tilts whose views were made.
    """
    pools = [[framed(features, np.eye(3))] for features in plain]
    upright = any(features.orientations is None for features in plain)
    answers: list[tuple[FramedFeatures, FramedFeatures, Matches, Geometry]] = []
    for tilt, count in stages:
        see = partial(
            view_features,
            views=tilted_views(tilt, upright), count=count, detector=detector, describer=describer,
        )  # fmt: skip
        seen = (side_by_side if seen_together(detector, describer) else map)(see, images)
        for pool, new in zip(pools, seen, strict=True):
            pool += new
        both, matches = (joined(pools[0]), joined(pools[1])), tentative(*pools)
        i, j = matches.indices.T
        matches = matches[separate(both[0].points[i], both[1].points[j])]
        i, j = matches.indices.T
        answers.append((both[0][i], both[1][j], matches, relate(matches, *both)))
        if not is_weak(answers[-1][-1]):
            break
    own0, own1, matches, geometry = max(answers, key=lambda answer: answer[-1].num_inliers)
    one, two = _features(own0, plain[0]), _features(own1, plain[1])
    order = np.arange(len(matches))
    matches = Matches(np.stack([order, order], 1), matches.similarity)
    return one, two, matches, geometry, [tilt for tilt, _ in stages[: len(answers)]]


def separate(points0: NDArray[np.float64], points1: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the matches (M, 2) taken in order, of which in neither image two are nearer than `APART`."""
    kept = spread(points0, APART)
    return kept[spread(points1[kept], APART)]


def _features(matched: FramedFeatures, plain: FeatureTensors) -> Features:
    """The matched keypoints, then the plain ones at other places."""
    own, first = plain.to_features(), matched.to_features(plain.image_size)
    order = spread(np.concatenate([first.keypoints, own.keypoints]), APART)
    return features_of([first, own[order[order >= len(first)] - len(first)]])

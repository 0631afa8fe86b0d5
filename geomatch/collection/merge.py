"""One keypoint per place and image, where a matcher finds points anew in every pair."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.correspondences import Correspondences, MatchedPair
from geomatch.errors import FeaturesError
from geomatch.types import Features, Matches

PairPoints = tuple[str, str, NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]
"""Names of two images, matched points (M, 2) in pixels of each, and similarities (M,)."""


def merge_points(
    pairs: Iterable[PairPoints], sizes: Mapping[str, tuple[int, int]], cell: float = 1.0
) -> Correspondences:
    """Join points to keypoints that all pairs of an image share, so that tracks form.

    Matchers without a detector (LoFTR, dense ones) give every pair points of its own, and no track would
    be longer than two. Points of an image that fall into one square of side ``cell`` become one keypoint,
    at the mean of their coordinates. Of the matches of a pair that become equal, or share a keypoint, the
    most similar stays.

    Args:
        pairs: read once; all points are held in memory.
        sizes: (width, height) of each image.
        cell: pixels; with 1 equal pixels are equal keypoints.

    Raises:
        ValueError: when ``cell`` is not positive.
        KeyError: for an image without size.
        FeaturesError: for points outside their image, or lists of different lengths.
    """
    if not cell > 0:
        raise ValueError(f"cell must be a positive number of pixels, got {cell}")
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in sizes}
    links: list[tuple[str, str, NDArray[np.float32]]] = []
    for name0, name1, points0, points1, similarity in pairs:
        if not len(points0) == len(points1) == len(similarity):
            text = f"{len(points0)} points, {len(points1)} partners and {len(similarity)} similarities"
            raise FeaturesError(f"{name0} - {name1}: {text}; these must be as many")
        for name, points in ((name0, points0), (name1, points1)):
            rows = np.asarray(points, np.float64).reshape(-1, 2)
            if not ((rows >= -0.5) & (rows <= np.array(sizes[name]) - 0.5)).all():
                raise FeaturesError(f"{name}: points lie outside the image of {sizes[name]} pixels")
            parts[name].append(rows)
        links.append((name0, name1, np.asarray(similarity, np.float32)))
    features, places = {}, {}
    for name, size in sizes.items():
        points = np.concatenate([np.zeros((0, 2)), *parts[name]])
        columns = int(np.ceil(size[0] / cell)) + 1
        squares = np.floor((points + 0.5) / cell).astype(np.int64)
        _, where, counts = np.unique(
            squares[:, 1] * columns + squares[:, 0], return_inverse=True, return_counts=True
        )
        sums = np.stack([np.bincount(where, points[:, axis], len(counts)) for axis in (0, 1)], axis=1)
        keypoints = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        features[name] = Features(keypoints, counts.astype(np.float32), size)
        ends = np.cumsum([len(rows) for rows in parts[name]], dtype=np.int64)
        places[name] = iter(np.split(where, ends[:-1]))  # in the order of the pairs
    merged = []
    for name0, name1, similarity in links:
        indices = np.stack([next(places[name0]), next(places[name1])], axis=1)
        taken: tuple[set[int], set[int]] = (set(), set())
        chosen: list[int] = []
        for row in np.argsort(-similarity, kind="stable").tolist():
            i, j = indices[row].tolist()
            if i not in taken[0] and j not in taken[1]:
                taken[0].add(i)
                taken[1].add(j)
                chosen.append(row)
        merged.append(MatchedPair(name0, name1, Matches(indices[chosen], similarity[chosen])))
    return Correspondences(features, merged)

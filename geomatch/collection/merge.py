"""One keypoint per place and image, where a matcher finds points anew in every pair."""

from collections.abc import Iterable, Mapping
from typing import Any

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
    spans: list[tuple[str, str, slice, slice, NDArray[np.float32]]] = []
    lengths = dict.fromkeys(sizes, 0)
    for name0, name1, points0, points1, similarity in pairs:
        if not len(points0) == len(points1) == len(similarity):
            raise FeaturesError(
                f"{name0} - {name1}: {len(points0)} points, {len(points1)} partners and {len(similarity)} "
                "similarities; these must be as many"
            )
        found = []
        for name, points in ((name0, points0), (name1, points1)):
            rows = np.asarray(points, np.float64).reshape(-1, 2)
            if not ((rows >= -0.5) & (rows <= np.array(sizes[name]) - 0.5)).all():
                raise FeaturesError(f"{name}: points lie outside the image of {sizes[name]} pixels")
            parts[name].append(rows)
            found.append(slice(lengths[name], lengths[name] + len(rows)))
            lengths[name] += len(rows)
        spans.append((name0, name1, found[0], found[1], np.asarray(similarity, np.float32)))
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
        places[name] = where
    merged = []
    for name0, name1, span0, span1, similarity in spans:
        indices = np.stack([places[name0][span0], places[name1][span1]], axis=1)
        order = np.argsort(-similarity, kind="stable")
        kept = order[_first_of_each(indices[order])]
        merged.append(MatchedPair(name0, name1, Matches(indices[kept], similarity[kept])))
    return Correspondences(features, merged)


def _first_of_each(indices: NDArray[np.int64]) -> NDArray[Any]:
    """Rows neither of whose two keypoints is in an earlier row that was taken."""
    taken: tuple[set[int], set[int]] = (set(), set())
    rows = []
    for row, (i, j) in enumerate(indices.tolist()):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            rows.append(row)
    return np.array(rows, dtype=np.int64)

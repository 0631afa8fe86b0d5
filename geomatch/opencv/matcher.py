"""A matcher with the methods of ``cv2.BFMatcher``."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.matching import as_rows, mutual_nearest, nearest, within
from geomatch.opencv.arguments import check_descriptors, check_masks, check_number, check_whole
from geomatch.opencv.convert import DMatches, dmatches_by_query


class BFMatcher:
    """Exact nearest neighbours by the Euclidean distance, faster than ``cv2.BFMatcher``.

    With ``crossCheck`` only mutual nearest neighbours count. Descriptors are (N, D) arrays of uint8 or any
    float; None stands for none. Without train descriptors in the call those given to `add` are searched.
    """

    def __init__(self, normType: int = cv2.NORM_L2, crossCheck: bool = False) -> None:
        if normType != cv2.NORM_L2:
            raise ValueError(f"normType must be cv2.NORM_L2 (4), got {normType}; cv2.BFMatcher has others")
        self.crossCheck = bool(crossCheck)
        self._trains: list[NDArray[np.float32]] = []

    @classmethod
    def create(cls, normType: int = cv2.NORM_L2, crossCheck: bool = False) -> "BFMatcher":
        """Another way to make one, as in OpenCV; ``BFMatcher_create`` is the third."""
        return cls(normType, crossCheck)

    def add(self, descriptors: Sequence[NDArray[Any]] | NDArray[Any]) -> None:
        """Train descriptors of further images: a list of arrays, or one array."""
        several = descriptors if isinstance(descriptors, (list, tuple)) else [descriptors]
        self._trains += [check_descriptors("descriptors", one).copy() for one in several]

    def clear(self) -> None:
        """Forget all train descriptors."""
        self._trains = []

    def train(self) -> None:
        """Do nothing: the search needs no index."""

    def empty(self) -> bool:
        """True without train descriptors."""
        return not self._trains

    def getTrainDescriptors(self) -> tuple[NDArray[np.float32], ...]:
        """One array per image added."""
        return tuple(self._trains)

    def clone(self, emptyTrainData: bool = False) -> "BFMatcher":
        """A copy, with or without the train descriptors."""
        other = BFMatcher(crossCheck=self.crossCheck)
        other._trains = [] if emptyTrainData else list(self._trains)
        return other

    def match(
        self, queryDescriptors: Any, trainDescriptors: Any = ..., mask: Any = None, *, masks: Any = None
    ) -> DMatches:
        """The nearest neighbour of each query, in their order; queries without one are left out.

        ``mask`` (N, M) uint8 is zero for pairs that are not allowed; with `add` a list of these or None, one
        per image, which OpenCV calls ``masks``. TypeError for other types; ValueError for other shapes, NaN,
        and ``crossCheck`` with masks, several images or more than one neighbour.
        """
        if isinstance(trainDescriptors, (list, tuple)):
            trainDescriptors, mask = ..., trainDescriptors
        found = self.knnMatch(queryDescriptors, trainDescriptors, 1, mask, masks=masks)
        return tuple(row[0] for row in found if row)

    def knnMatch(
        self, queryDescriptors: Any, trainDescriptors: Any = ..., k: Any = None, mask: Any = None,
        compactResult: bool = False, *, masks: Any = None,
    ) -> tuple[DMatches, ...]:  # fmt: skip
        """The ``k`` nearest neighbours of each query, nearest first; `match` has the other arguments."""
        trainDescriptors, k, mask, compact = _shifted(trainDescriptors, k, mask, compactResult)
        count = check_whole("k", k, 1)
        query, train, counts, allowed = self._inputs(queryDescriptors, trainDescriptors, mask, masks)
        if self.crossCheck:
            if allowed is not None or len(counts) > 1 or count > 1:
                raise ValueError("crossCheck goes with one image, no mask and k = 1")
            pairs, similarity = mutual_nearest(query, train, "l2")
            order = pairs[:, 0].argsort()
            return dmatches_by_query(pairs[order], -similarity[order], len(query), counts, compact)
        indices, distances = nearest(query, train, count, allowed)
        found = indices >= 0
        pairs = torch.stack([found.nonzero()[:, 0], indices[found]], 1)
        return dmatches_by_query(pairs, distances[found], len(query), counts, compact)

    def radiusMatch(
        self, queryDescriptors: Any, trainDescriptors: Any = ..., maxDistance: Any = None, mask: Any = None,
        compactResult: bool = False, *, masks: Any = None,
    ) -> tuple[DMatches, ...]:  # fmt: skip
        """All neighbours within ``maxDistance`` > 0, nearest first; ``crossCheck`` plays no part here."""
        trainDescriptors, radius, mask, compact = _shifted(trainDescriptors, maxDistance, mask, compactResult)
        if not check_number("maxDistance", radius) > 0:
            raise ValueError(f"maxDistance must be positive, got {radius}")
        query, train, counts, allowed = self._inputs(queryDescriptors, trainDescriptors, mask, masks)
        rounded = float(np.float32(min(radius, 1e30)))  # as distances are, none of which is as large as 1e30
        return dmatches_by_query(*within(query, train, rounded, allowed), len(query), counts, compact)

    def _inputs(
        self, query: object, train: object, mask: object, masks: object
    ) -> tuple[Tensor, Tensor, list[int], Tensor | None]:
        """Query rows, train rows of all images, their number in each image, and the pairs allowed."""
        rows = check_descriptors("queryDescriptors", query)
        trains = self._trains if train is ... else [check_descriptors("trainDescriptors", train)]
        filled, counts = [own for own in trains if len(own)], [len(own) for own in trains]
        if len(widths := {own.shape[1] for own in filled}) > 1:
            raise ValueError(f"train descriptors must be of one dimension, got {sorted(widths)}")
        allowed = check_masks(mask if masks is None else masks, len(rows), counts)
        pairs = None if allowed is None else torch.from_numpy(allowed)
        return as_rows(rows), as_rows(np.concatenate(filled or [rows[:0]])), counts, pairs


BFMatcher_create = BFMatcher.create


def _shifted(trains: Any, number: Any, mask: Any, compact: bool) -> tuple[Any, Any, Any, bool]:
    """The arguments after the query in their places; a number comes first where trains are left out."""
    if not isinstance(trains, (int, float, np.integer, np.floating)):
        return trains, number, mask, compact
    if isinstance(mask, (bool, np.bool_)):  # (number, masks, compact) by position
        return ..., trains, number, bool(mask)
    return ..., trains, mask if number is None else number, compact

"""A matcher with the methods of ``cv2.BFMatcher``."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.matching import match_mutual
from geomatch.opencv.arguments import check_number, check_whole
from geomatch.search import nearest_neighbours, within_radius

DMatches = tuple[cv2.DMatch, ...]


class BFMatcher:
    """Exact nearest neighbours by the Euclidean distance, several times faster than ``cv2.BFMatcher``.

    Query and train descriptors are (N, D) arrays, float32, or uint8 or any other float, which are
    computed with as float32; None stands for no descriptors, as detectors return it. Without train
    descriptors in the call those given to `add` are searched, and ``DMatch.imgIdx`` says in which.
    """

    def __init__(self, normType: int = cv2.NORM_L2, crossCheck: bool = False) -> None:
        """With ``crossCheck`` only pairs count that are each other's nearest neighbour.

        Raises:
            ValueError: for another norm.
        """
        if normType != cv2.NORM_L2:
            raise ValueError(
                f"normType must be cv2.NORM_L2 ({cv2.NORM_L2}), got {normType}; cv2.BFMatcher has others"
            )
        self.crossCheck = bool(crossCheck)
        self._trains: list[NDArray[np.float32]] = []

    def add(self, descriptors: Sequence[NDArray[Any]] | NDArray[Any]) -> None:
        """Train descriptors of further images: a list of arrays, or one array."""
        several = descriptors if isinstance(descriptors, (list, tuple)) else [descriptors]
        self._trains += [_checked("descriptors", one).copy() for one in several]

    def clear(self) -> None:
        """Forget all train descriptors."""
        self._trains = []

    def train(self) -> None:
        """Nothing to do: the search is exact and needs no index."""

    def empty(self) -> bool:
        """Whether there are no train descriptors."""
        return not self._trains

    def getTrainDescriptors(self) -> tuple[NDArray[np.float32], ...]:
        """One array per image added."""
        return tuple(self._trains)

    def isMaskSupported(self) -> bool:
        """True, though not together with ``crossCheck``, as in OpenCV."""
        return True

    def clone(self, emptyTrainData: bool = False) -> "BFMatcher":
        """A copy, with or without the train descriptors."""
        other = BFMatcher(crossCheck=self.crossCheck)
        other._trains = [] if emptyTrainData else list(self._trains)
        return other

    def match(
        self, queryDescriptors: Any, trainDescriptors: Any = ..., mask: Any = None, *, masks: Any = None
    ) -> DMatches:
        """The nearest neighbour of each query, in their order; queries without one are left out.

        Args:
            queryDescriptors: (N, D).
            trainDescriptors: (M, D). When left out, those given to `add`; their masks may take its place.
            mask: (N, M) uint8, zero for pairs that are not allowed; for the descriptors given to `add` a
                list of these or None, one per image.
            masks: OpenCV's name of that list.

        Raises:
            TypeError: for arguments of the wrong type.
            ValueError: for other shapes, NaN, and what OpenCV has not either: ``crossCheck`` with
                masks, with several images, or with more than one neighbour.
        """
        if isinstance(trainDescriptors, (list, tuple)):
            trainDescriptors, mask = ..., trainDescriptors
        found = self.knnMatch(queryDescriptors, trainDescriptors, 1, mask, masks=masks)
        return tuple(row[0] for row in found if row)

    def knnMatch(
        self,
        queryDescriptors: Any,
        trainDescriptors: Any = ...,
        k: Any = None,
        mask: Any = None,
        compactResult: bool = False,
        *,
        masks: Any = None,
    ) -> tuple[DMatches, ...]:
        """The ``k`` nearest neighbours of each query, nearest first; see `match`.

        Args:
            queryDescriptors: (N, D).
            trainDescriptors: (M, D), or left out: ``knnMatch(query, k, masks, compactResult)``.
            k: how many; all when there are fewer.
            mask: see `match`.
            compactResult: leave out queries without any neighbour.
            masks: see `match`.
        """
        trainDescriptors, k, mask, compactResult = _shifted(trainDescriptors, k, mask, compactResult)
        count = check_whole("k", k, 1)
        query, trains, allowed = self._inputs(queryDescriptors, trainDescriptors, mask, masks)
        if self.crossCheck:
            if allowed is not None or len(trains) > 1 or count > 1:
                raise ValueError("crossCheck goes with one image, no mask and k = 1")
            found = _mutual(query, trains)
        elif len(query) == 0 or sum(map(len, trains)) == 0:
            found = ((),) * len(query)
        else:
            indices, distances = nearest_neighbours(query, _together(trains), count, allowed)
            kept = indices >= 0
            rows = np.nonzero(kept)[0]
            found = _by_query(len(query), rows, indices[kept], distances[kept], trains)
        return tuple(row for row in found if row) if compactResult else found

    def radiusMatch(
        self,
        queryDescriptors: Any,
        trainDescriptors: Any = ...,
        maxDistance: Any = None,
        mask: Any = None,
        compactResult: bool = False,
        *,
        masks: Any = None,
    ) -> tuple[DMatches, ...]:
        """All neighbours of each query within a distance, nearest first; ``crossCheck`` plays no part here.

        Args:
            queryDescriptors: (N, D).
            trainDescriptors: (M, D), or left out: ``radiusMatch(query, maxDistance, masks, compactResult)``.
            maxDistance: largest Euclidean distance, positive, in float32 as the distances of ``cv2.DMatch``.
            mask: see `match`.
            compactResult: leave out queries without any neighbour, which OpenCV forgets here.
            masks: see `match`.
        """
        trainDescriptors, maxDistance, mask, compactResult = _shifted(
            trainDescriptors, maxDistance, mask, compactResult
        )
        if not check_number("maxDistance", maxDistance) > 0:
            raise ValueError(f"maxDistance must be positive, got {maxDistance}")
        largest = float(np.finfo(np.float32).max)
        radius = np.float32(maxDistance if maxDistance <= largest else np.inf)
        query, trains, allowed = self._inputs(queryDescriptors, trainDescriptors, mask, masks)
        if len(query) == 0 or sum(map(len, trains)) == 0:
            found: tuple[DMatches, ...] = ((),) * len(query)
        else:
            above = float(np.nextafter(radius, np.float32(np.inf)))
            rows, columns, distances = within_radius(query, _together(trains), above, allowed)
            near = distances <= radius
            found = _by_query(len(query), rows[near], columns[near], distances[near], trains)
        return tuple(row for row in found if row) if compactResult else found

    def _inputs(
        self, queryDescriptors: object, trainDescriptors: object, mask: object, masks: object
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], NDArray[np.bool_] | None]:
        """Query rows, train rows of each image, and which pairs are allowed."""
        query, trains = _checked("queryDescriptors", queryDescriptors), self._trains
        if trainDescriptors is not ...:
            trains = [_checked("trainDescriptors", trainDescriptors)]
        return query, trains, _joined(mask if masks is None else masks, len(query), trains)


def _shifted(trains: Any, number: Any, mask: Any, compact: bool) -> tuple[Any, Any, Any, bool]:
    """The arguments after the query in their places; a number comes first where trains are left out."""
    if not isinstance(trains, (int, float, np.integer, np.floating)):
        return trains, number, mask, compact
    if isinstance(mask, (bool, np.bool_)):  # (number, masks, compact) by position
        return ..., trains, number, bool(mask)
    return ..., trains, mask if number is None else number, compact


def _together(trains: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The rows of all images; those without any may be of another width."""
    filled = [train for train in trains if len(train)]
    widths = sorted({train.shape[1] for train in filled})
    if len(widths) > 1:
        raise ValueError(f"train descriptors must be of one dimension, got {widths}")
    return np.concatenate(filled)


def _checked(name: str, descriptors: object) -> NDArray[np.float32]:
    if descriptors is None:
        return np.zeros((0, 0), np.float32)
    if not isinstance(descriptors, np.ndarray):
        raise TypeError(f"{name} must be an array (N, D) or None, got {type(descriptors).__name__}")
    if descriptors.dtype != np.uint8 and descriptors.dtype.kind != "f":
        raise TypeError(f"{name} must be float32 or uint8, got {descriptors.dtype}")
    if descriptors.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {descriptors.shape}")
    return np.ascontiguousarray(descriptors, np.float32)


def _joined(masks: object, queries: int, trains: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_] | None:
    """The masks of all images side by side, (queries, all train rows)."""
    if masks is None or (isinstance(masks, (list, tuple)) and not masks):
        return None
    several: Sequence[Any] = masks if isinstance(masks, (list, tuple)) else [masks]
    if len(several) != len(trains):
        raise ValueError(f"as many masks as images with train descriptors are needed: {len(trains)}")
    filled = []
    for mask, train in zip(several, trains, strict=True):
        if mask is None:
            filled.append(np.ones((queries, len(train)), np.uint8))
            continue
        if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8:
            got = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"a mask must be a uint8 array, got {got}")
        if mask.shape != (queries, len(train)):
            raise ValueError(f"the mask must have shape ({queries}, {len(train)}), got {mask.shape}")
        filled.append(mask)
    allowed: NDArray[np.bool_] = np.concatenate(filled, axis=1) != 0
    return allowed


def _mutual(query: NDArray[np.float32], trains: Sequence[NDArray[np.float32]]) -> tuple[DMatches, ...]:
    if not trains or len(query) == 0:
        return ((),) * len(query)
    matches = match_mutual(query, trains[0], "l2")
    order = np.argsort(matches.indices[:, 0])
    rows, columns = matches.indices[order].T
    return _by_query(len(query), rows, columns, -matches.similarity[order], trains)


def _by_query(
    queries: int,
    rows: NDArray[np.integer[Any]],
    columns: NDArray[np.integer[Any]],
    distances: NDArray[np.floating],
    trains: Sequence[NDArray[np.float32]],
) -> tuple[DMatches, ...]:
    """Matches grouped by their query; rows ascend, columns count through all images."""
    starts = np.concatenate([[0], np.cumsum([len(train) for train in trains])[:-1]])
    images = np.searchsorted(starts, columns, side="right") - 1
    local = columns - starts[images]
    made = [
        cv2.DMatch(i, j, image, distance)
        for i, j, image, distance in zip(
            rows.tolist(), local.tolist(), images.tolist(), distances.tolist(), strict=True
        )
    ]
    ends = np.searchsorted(rows, np.arange(queries + 1))
    return tuple(tuple(made[start:end]) for start, end in pairwise(ends.tolist()))

"""A method on the pairs of one unit: features in the protocol's frames, and a row of each pair."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.task import UNREADABLE, Entry, Row
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.views import Frame, FramedPair, Views, with_mask
from geomatch.errors import FeaturesError, ImageError, first_line
from geomatch.estimators.epipolar import residuals_and_gradients
from geomatch.files import digest_of, fingerprint_of
from geomatch.store import Store
from geomatch.types import Features, Matches

Points = NDArray[np.float64]
Match = Callable[[Features, Features], Matches]


@dataclass(frozen=True)
class ImagePair:
    """Two images of a unit, and the truth between them."""

    name: str  # the unit's name, a space, and what tells the pair within it
    split: str
    paths: tuple[Path, Path]
    truth: Any


@dataclass(frozen=True)
class PairScene:
    """Pairs that are evaluated alone, as a task's unit."""

    name: str
    pairs: tuple[ImagePair, ...]
    files: tuple[Path, ...]  # images and truth, in order
    truths: tuple[Any, ...] = ()  # what the files do not hold, as JSON can hold it

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the files, the truths, and the names and splits that rows hold."""
        names = [[pair.name, pair.split] for pair in self.pairs]
        masks = [mask for path in self.files if (mask := with_mask(path).mask)]
        return digest_of([names, fingerprint_of([*self.files, *masks]), *self.truths])


@dataclass
class PairEvaluation:
    """The `Evaluation` of a unit with ``pairs``, `ImagePair`s in order."""

    unit: Any
    entry: Entry
    store: Store
    frames: Callable[[Any], Sequence[Frame]]  # in which a protocol looks at images, if it needs features
    measured: Callable[[Any, Method, Sequence[FramedPair], ImagePair], Row]  # the pair in each frame
    paper: Callable[[Any], bool] = lambda protocol: False  # True if maps are sampled as in the paper's code

    @cached_property
    def _views(self) -> Views:
        return Views(self.entry, self.store)

    def rows(self, protocol: Any) -> list[Row]:
        """See `Evaluation`."""
        rows, method, frames = [], self.entry.method, self.frames(protocol)
        paper = self.paper(protocol) and method.samples  # methods that sample no map know no difference
        for pair in self.unit.pairs:
            try:
                framed = [self._views.pair(pair.name, pair.paths, frame, paper) for frame in frames]
                row = self.measured(protocol, method, framed, pair)
            except (ImageError, FeaturesError, cv2.error) as error:
                row = {"reason": UNREADABLE + first_line(error)}
            rows.append({"pair": pair.name, "split": pair.split, **row})
        return rows


def limited(pair: FramedPair, count: int, unique: bool = False) -> FramedPair:
    """The best keypoints of both; ``unique``: those at one place are one, as ``np.unique`` orders them."""
    both = [features[:count] for features in (pair.features0, pair.features1)]
    if unique:
        own = [np.unique(features.keypoints, axis=0, return_index=True)[1] for features in both]
        both = [features[rows] for features, rows in zip(both, own, strict=True)]
    return replace(pair, features0=both[0], features1=both[1])


def matched_points(
    count: int | None, pair: FramedPair, match: Match | None
) -> tuple[Points, Points, NDArray[np.float32]]:
    """(M, 2) points of both, (M,) similarity, best first; without ``match`` row i of both is a match."""
    features0, features1 = pair.features0, pair.features1
    if match is None:
        points = (features.keypoints[:count].astype(np.float64) for features in (features0, features1))
        return next(points), next(points), features0.scores[:count]
    if not len(features0) or not len(features1):
        return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.float32)
    matches = match(features0, features1)[:count]
    points0 = features0.keypoints[matches.indices[:, 0]].astype(np.float64)
    points1 = features1.keypoints[matches.indices[:, 1]].astype(np.float64)
    return points0, points1, matches.similarity


def orders(count: int, seeds: int) -> Iterator[NDArray[np.intp]]:
    """The order of matches in each run of an estimator, whose sampling it steers; first as they are."""
    for seed in range(seeds):
        yield np.random.default_rng(seed).permutation(count) if seed else np.arange(count)


def line_distances(matrix: NDArray[np.floating], points: Points) -> Points:
    """(N,) distance of x0 y0 x1 y1 (N, 4) from each other's epipolar line: root of the sum of both squares.

    Hartley and Zisserman, 2nd ed., eq. 11.10, whose root wxbs-benchmark takes. NaN for epipoles.
    """
    values, squares = residuals_and_gradients(matrix, points[:, :2], points[:, 2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(values) * np.sqrt((1 / squares).sum(axis=0)), np.float64)

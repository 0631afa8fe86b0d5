"""Pairs of images of one category with corresponding points, whatever release they come from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, absent, sums_of
from geomatch.errors import GeomatchError, reading
from geomatch.files import digest_of


@dataclass(frozen=True, eq=False)
class KeypointPair:
    """Two images that show things of one category."""

    name: str  # without spaces, of its own within the category
    image0: Path  # the source, relative to the folder of the data set
    image1: Path  # the target, relative to the folder of the data set
    points0: NDArray[np.float64]  # (N, 2) pixels of the source
    points1: NDArray[np.float64]  # (N, 2) the same parts in the target
    box_side: float
    """The longer side of the target's box in pixels; see each loader for what the box is about."""


@dataclass(frozen=True, eq=False)
class Category:
    """All pairs of one category; what is evaluated alone."""

    folder: Path  # the data set's
    name: str  # without spaces
    words: str  # what a prompt calls it
    pairs: tuple[KeypointPair, ...]

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """The images of all pairs, each once, relative to the folder."""
        return tuple(dict.fromkeys(path for pair in self.pairs for path in (pair.image0, pair.image1)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over annotations and images; a missing image counts as missing."""
        sums = sums_of(self.folder / path for path in self.images)
        points = [
            [pair.name, str(pair.image0), str(pair.image1), pair.points0.tolist(), pair.points1.tolist(),
             pair.box_side]
            for pair in self.pairs
        ]  # fmt: skip
        return digest_of([self.name, self.words, points, sums])


def put_together(
    folder: Path, pairs: Iterable[tuple[str, str, KeypointPair]], release: int, split: str | None = None
) -> DataSet[Category]:
    """Group pairs, given with the name and words of their category, and look for their images.

    ``release`` is the number of pairs of the whole release.
    """
    grouped: dict[tuple[str, str], list[KeypointPair]] = {}
    for name, words, pair in pairs:
        grouped.setdefault((name, words), []).append(pair)
    if not grouped:
        raise GeomatchError(f"{folder}: no annotated pair there")
    for (name, _), own in grouped.items():
        twice = [pair for pair, count in Counter(pair.name for pair in own).items() if count > 1]
        if twice:
            raise GeomatchError(f"{folder}: the pair {twice[0]} of {name} is listed twice")
    categories = [Category(folder, name, words, tuple(own)) for (name, words), own in sorted(grouped.items())]
    images = dict.fromkeys(folder / path for category in categories for path in category.images)
    missing = absent(folder, images, "no such image")
    count = sum(len(category.pairs) for category in categories)
    return DataSet(folder, categories, missing, count == release and not missing, split)


def checked_points(where: str, points: object, count: int | None = None) -> NDArray[np.float64]:
    """(N, 2) finite numbers, at least one point."""
    with reading(where, "list of points"):
        array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or not np.isfinite(array).all():
        raise GeomatchError(f"{where}: expected points as (N, 2) finite numbers, got shape {array.shape}")
    if count is not None and len(array) != count:
        raise GeomatchError(f"{where}: {len(array)} points, but {count} in the other image")
    return array

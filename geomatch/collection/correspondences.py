"""Keypoints of many images and the matches between them, and the checks that every exporter makes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomatch.errors import FeaturesError
from geomatch.types import Features, Matches


@dataclass(frozen=True, eq=False, slots=True)
class MatchedPair:
    """Matches between two images of a collection, named by their paths below its folder, with ``/``."""

    name0: str
    name1: str
    matches: Matches
    """Indices into the keypoints of both; not verified."""


@dataclass(frozen=True, eq=False, slots=True)
class Correspondences:
    """Features and matches of a collection; both may be read from disk on demand."""

    features: Mapping[str, Features]
    """By image name; in raw pixels, without EXIF orientation, as COLMAP reads images."""
    pairs: Iterable[MatchedPair]
    """Can be iterated more than once."""


class LazyFeatures(Mapping[str, Features]):
    """Features that are loaded on demand, and not held in memory."""

    def __init__(self, names: Sequence[str], load: Callable[[str], Features]) -> None:
        self._names = dict.fromkeys(names)
        self._load = load

    def __getitem__(self, name: str) -> Features:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, slots=True)
class LazyPairs:
    """Pairs that are read anew at each iteration."""

    make: Callable[[], Iterator[MatchedPair]]
    number: int | None = None
    """Number of pairs, where it is known, for the time left on a progress bar."""

    def __iter__(self) -> Iterator[MatchedPair]:
        return self.make()

    def __len__(self) -> int:
        if self.number is None:
            raise TypeError("the number of pairs is not known before they are read")
        return self.number


def check_name(name: str) -> None:
    """Raise `FeaturesError` unless an image's name is a path below the image folder."""
    if name != Path(name).as_posix() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise FeaturesError(f"{name!r}: image names must be paths below the image folder, with '/'")


def check_keypoints(name: str, features: Features, size: tuple[int, int]) -> None:
    """Raise `FeaturesError` unless the features fit an image file of ``size`` (width, height)."""
    own = features.image_size
    if own != size:
        turned = "; COLMAP ignores EXIF orientation: use apply_exif=False" if own == size[::-1] else ""
        text = f"the features are of an image of {own[0]}x{own[1]} pixels, the file has {size[0]}x{size[1]}"
        raise FeaturesError(f"{name}: {text}{turned}")
    points = features.keypoints
    outside = ((points < -0.5) | (points > np.array(size, np.float32) - 0.5)).any(axis=1)
    if outside.any():
        x, y = points[int(outside.argmax())]
        text = f"{int(outside.sum())} of {len(points)} keypoints lie outside its {size[0]}x{size[1]} pixels"
        raise FeaturesError(f"{name}: {text}, first at ({x:.1f}, {y:.1f}); are they of a resized image?")


def checked(
    found: Correspondences, sizes: Mapping[str, tuple[int, int]], skipped: Counter[str]
) -> Correspondences:
    """The same, checked while read; ``skipped`` counts pairs left out, faults raise `FeaturesError`."""
    lengths: dict[str, int] = {}

    def load(name: str) -> Features:
        features = found.features[name]
        check_keypoints(name, features, sizes[name])
        lengths[name] = len(features)
        return features

    pairs = LazyPairs(lambda: _checked_pairs(found.pairs, lengths, skipped))
    return Correspondences(LazyFeatures(list(sizes), load), pairs)


def _checked_pairs(
    pairs: Iterable[MatchedPair], lengths: Mapping[str, int], skipped: Counter[str]
) -> Iterator[MatchedPair]:
    place = {name: place for place, name in enumerate(lengths)}
    seen: dict[int, int] = {}
    for pair in pairs:
        first, second = sorted((pair.name0, pair.name1))
        if first == second:
            raise FeaturesError(f"{first} - {second}: an image is matched with itself")
        if not lengths.keys() >= {first, second}:
            skipped["pairs of skipped images"] += 1
        elif len(pair.matches) == 0:
            skipped["pairs without matches"] += 1
        else:
            content = _content(pair, lengths)
            key = place[first] * len(place) + place[second]  # tuples of many pairs are large
            if key not in seen:
                seen[key] = content
                yield pair
            elif seen[key] == content:
                skipped["pairs given twice"] += 1
            else:
                text = "the pair is given twice (perhaps in both orders) with different matches"
                raise FeaturesError(f"{pair.name0} - {pair.name1}: {text}")


def _content(pair: MatchedPair, lengths: Mapping[str, int]) -> int:
    """A number that equal matches share, in whichever order the images are; checks the indices."""
    names, indices = (pair.name0, pair.name1), pair.matches.indices
    counts = [lengths[name] for name in names]
    beyond = indices >= np.array(counts)
    if beyond.any():
        row, side = (int(i) for i in np.argwhere(beyond)[0])
        text = f"match {row} names keypoint {indices[row, side]} of {names[side]}, which has {counts[side]}"
        raise FeaturesError(f"{pair.name0} - {pair.name1}: {text}")
    ordered = indices[:, ::-1] if pair.name0 > pair.name1 else indices
    keys = np.sort(ordered[:, 0] << 32 | ordered[:, 1])
    if (keys[1:] == keys[:-1]).any():
        raise FeaturesError(f"{pair.name0} - {pair.name1}: the same match is given more than once")
    return hash(keys.tobytes())

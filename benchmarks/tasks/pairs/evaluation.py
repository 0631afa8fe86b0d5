"""Methods on the pairs of one unit: features in the protocol's frames, and a row of each pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import cv2

from geomatch.benchmarks.harness.task import UNREADABLE, Entry, Row
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.views import Frame, FramedPair, Views
from geomatch.errors import FeaturesError, ImageError, first_line
from geomatch.files import digest_of, fingerprint_of
from geomatch.store import Store


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
        return digest_of([names, fingerprint_of(self.files), *self.truths])


@dataclass(frozen=True)
class Measuring:
    """How a task measures a pair."""

    frames: Callable[[Any], Sequence[Frame]]  # in which a protocol looks at images, if it needs features
    measured: Callable[[Any, Method, Sequence[FramedPair], ImagePair], Row]  # the pair in each frame
    failed: Callable[[Any, str], Row]  # the row of a pair that cannot be evaluated, with the reason
    paper: Callable[[Any], bool] = lambda protocol: False  # True if maps are sampled as in the paper's code
    changes: Callable[[Any], Sequence[str]] = lambda protocol: ()
    """Changes of the second image (`changed`), each a row of its own, whose pair's name ends in it."""


class PairEvaluation:
    """The `Evaluation` of a unit with ``pairs``, `ImagePair`s in order."""

    def __init__(
        self, unit: Any, entries: Sequence[Entry], store: Store | None, measuring: Measuring
    ) -> None:
        self._pairs, self._entries, self._measuring = unit.pairs, entries, measuring
        self._views = Views(entries, store)

    def _samples(self, protocol: Any) -> bool:
        # methods that sample no map know no difference
        return self._measuring.paper(protocol) and self._entries[0].method.samples

    def prepare(self, protocol: Any, wanted: Sequence[int]) -> None:
        """See `Evaluation`."""
        images: dict[str, dict[Path, None]] = {}
        for frame in self._measuring.frames(protocol):
            for side, changes in enumerate([("",), self._measuring.changes(protocol) or ("",)]):
                for change in changes:
                    own = images.setdefault(f"{frame} {change}".rstrip(), {})
                    own |= dict.fromkeys(pair.paths[side] for pair in self._pairs)
        for frame, paths in images.items():
            self._views.prepare([*paths], frame, self._samples(protocol), wanted)

    def rows(self, protocol: Any, wanted: Sequence[int]) -> list[list[Row]]:
        """See `Evaluation`."""
        found: list[list[Row]] = [[] for _ in wanted]
        for pair, change in product(self._pairs, self._measuring.changes(protocol) or ("",)):
            names = {"pair": f"{pair.name} {change}".rstrip(), "split": pair.split}
            for own, row in zip(found, self._rows_of(protocol, pair, wanted, change), strict=True):
                own.append({**names, **row})
        return found

    def _rows_of(self, protocol: Any, pair: ImagePair, wanted: Sequence[int], change: str) -> list[Row]:
        measuring, paper = self._measuring, self._samples(protocol)
        try:
            frames = measuring.frames(protocol)
            framed = [self._views.pairs(pair.paths, frame, paper, wanted, change) for frame in frames]
        except _REFUSED as error:
            return [measuring.failed(protocol, _reason(error))] * len(wanted)
        rows = []
        seen = zip(*framed, strict=True) if framed else [()] * len(wanted)
        for place, own in zip(wanted, seen, strict=True):
            try:
                rows.append(measuring.measured(protocol, self._entries[place].method, own, pair))
            except _REFUSED as error:
                rows.append(measuring.failed(protocol, _reason(error)))
        return rows


_REFUSED = (ImageError, FeaturesError, cv2.error)


def _reason(error: Exception) -> str:
    return first_line(error) if isinstance(error, cv2.error) else f"{UNREADABLE}{error}"

"""Methods on the pairs of one unit: features in the protocol's frames, and a row of each pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2

from geomatch.benchmarks.harness.task import UNREADABLE, Entry, Row, Source
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.views import Frame, FramedPair, Views
from geomatch.errors import FeaturesError, ImageError, first_line
from geomatch.store import Store


@dataclass(frozen=True)
class ImagePair:
    """Two images of a unit, and the truth between them."""

    name: str  # the unit's name, a space, and what tells the pair within it
    split: str
    paths: tuple[Path, Path]
    truth: Any


class PairUnit(Protocol):
    """A unit of a task on pairs of images."""

    @property
    def pairs(self) -> Sequence[ImagePair]:
        """Its pairs, in order."""


@dataclass(frozen=True)
class Measuring:
    """How a task measures a pair."""

    frames: Callable[[Any], Sequence[Frame]]  # in which a protocol looks at images
    measured: Callable[[Any, Method, Sequence[FramedPair], ImagePair], Row]  # the pair in each frame
    failed: Callable[[Any, str], Row]  # the row of a pair that cannot be evaluated, with the reason
    paper: Callable[[Any], bool] = lambda protocol: False  # True if maps are sampled as in the paper's code


class PairEvaluation:
    """The `Evaluation` of a unit of pairs."""

    def __init__(
        self, unit: PairUnit, entries: Sequence[Entry], store: Store | None, measuring: Measuring
    ) -> None:
        self._pairs, self._entries, self._measuring = unit.pairs, entries, measuring
        self._views = Views(entries, store)

    def _samples(self, protocol: Any) -> bool:
        # methods that sample no map know no difference
        return self._measuring.paper(protocol) and self._entries[0].method.samples

    def sources(self, protocol: Any, wanted: Sequence[int]) -> list[Source]:
        """See `Evaluation`."""
        paths = dict.fromkeys(path for pair in self._pairs for path in pair.paths)
        paper = self._samples(protocol)
        every = [(path, (frame, paper)) for frame in self._measuring.frames(protocol) for path in paths]
        return [Source(path, how, tuple(wanted), self._views) for path, how in every]

    def rows(self, protocol: Any, wanted: Sequence[int]) -> list[list[Row]]:
        """See `Evaluation`."""
        found: list[list[Row]] = [[] for _ in wanted]
        for pair in self._pairs:
            names = {"pair": pair.name, "split": pair.split}
            for own, row in zip(found, self._rows_of(protocol, pair, wanted), strict=True):
                own.append({**names, **row})
        return found

    def _rows_of(self, protocol: Any, pair: ImagePair, wanted: Sequence[int]) -> list[Row]:
        measuring, paper = self._measuring, self._samples(protocol)
        try:
            framed = [
                self._views.pairs(pair.paths, frame, paper, wanted) for frame in measuring.frames(protocol)
            ]
        except (ImageError, FeaturesError, cv2.error) as error:
            reason = first_line(error) if isinstance(error, cv2.error) else f"{UNREADABLE}{error}"
            return [measuring.failed(protocol, reason)] * len(wanted)
        rows = []
        for place, own in zip(wanted, zip(*framed, strict=True), strict=True):
            try:
                rows.append(measuring.measured(protocol, self._entries[place].method, own, pair))
            except cv2.error as error:
                rows.append(measuring.failed(protocol, first_line(error)))
        return rows

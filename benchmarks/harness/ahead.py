"""Features made ahead of the rows, for networks on an accelerator: as a stream of images over all units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from geomatch.benchmarks.harness.task import CachingEvaluation, Entry, find_task
from geomatch.engine import StreamTask
from geomatch.engine.stream import Stage
from geomatch.images import Image
from geomatch.store import Store
from geomatch.types import Features

AT_ONCE = 8  # most images that go through the network together


@dataclass(frozen=True)
class Source:
    """An image of a unit, whose features some methods of a group need."""

    unit: Any
    group: tuple[Entry, ...]  # methods whose features come from the same passes
    path: Path
    how: Any  # see `CachingEvaluation.sources`
    wanted: tuple[int, ...]  # places of the methods in the group
    name: str  # for the user


@dataclass(frozen=True)
class Making:
    """How features are made and cached."""

    task: str
    cache: Store

    def stages(self, group: Sequence[Entry]) -> StreamTask[Source, None]:
        """The work on sources of a group."""
        stages: list[Stage] = [("decoding", self._read)]
        network: Callable[[Sequence[Any]], Sequence[Any]] = self._made
        if not find_task(self.task).dense:
            if getattr(group[0].method.source, "reentrant", False):
                stages.append(("detection", self._detected))
            else:
                network = self._extracted
        return StreamTask(stages, network, self._write, "large network", overlaps=True)

    def _evaluation(self, source: Source) -> CachingEvaluation:
        made = find_task(self.task).evaluation(source.unit, source.group, self.cache)
        return cast(CachingEvaluation, made)

    def _read(self, source: Source) -> tuple[Source, Image] | None:
        image = self._evaluation(source).read(source.path, source.how, source.wanted)
        return None if image is None else (source, image)

    def _detected(self, read: tuple[Source, Image]) -> tuple[Source, tuple[Image, Features]]:
        source, image = read
        return source, (image, source.group[0].method.detect(image))

    def _extracted(self, read: Sequence[tuple[Source, Image]]) -> Sequence[Sequence[Any]]:
        return self._made([self._detected(one) for one in read])

    def _made(self, found: Sequence[tuple[Source, Any]]) -> Sequence[Sequence[Any]]:
        first = found[0][0]
        made = self._evaluation(first).made(first.how, first.wanted, [value for _, value in found])
        return list(zip(*made, strict=True))

    def _write(self, source: Source, made: Sequence[Any]) -> None:
        self._evaluation(source).write(source.path, source.how, source.wanted, made)


def in_batches(sources: Sequence[Source]) -> list[list[Source]]:
    """Blocks of sources of one unit that go through the network together."""
    batches: list[list[Source]] = []
    for source in sources:
        last = batches[-1][-1] if batches else None
        alike = last and (last.name, last.how, last.wanted) == (source.name, source.how, source.wanted)
        if not alike or len(batches[-1]) == AT_ONCE:
            batches.append([])
        batches[-1].append(source)
    return batches

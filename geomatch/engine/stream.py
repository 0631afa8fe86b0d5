"""Work in stages: the CPU's ahead of a network, and the writing behind it, overlap on an accelerator."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple

from geomatch.engine.task import Answers, FailedBlock, FailedItem, Item, Need, Result
from geomatch.engine.worker import attempt
from geomatch.stream import THREADS, ahead

BEHIND = 2
"""Most blocks that wait to be written while the network goes on."""
Stage = tuple[str, Callable[[Any], Any]]
"""What a stage is called, and its function."""


@dataclass
class StageTimes:
    """Where the time of a stream went, in seconds."""

    total: float = 0.0
    network: float = 0.0
    """In which the network was busy."""
    before: float = 0.0
    """In which it waited for the stages ahead."""
    behind: float = 0.0
    """In which it waited for the writing."""
    ahead: dict[str, float] = field(default_factory=dict)
    """Time of each stage ahead, in all threads together."""

    @property
    def busy(self) -> float:
        """Share of the time in which the network was busy."""
        return self.network / self.total if self.total else 0.0

    @property
    def slowest(self) -> str:
        """The stage that the others waited for most; of those ahead the one that took most time."""
        if self.before > max(self.network, self.behind):
            return max(self.ahead, key=self.ahead.__getitem__)
        return "network" if self.network >= self.behind else "writing"

    def __str__(self) -> str:
        threads = f" on {THREADS} threads" if self.slowest in self.ahead else ""
        return (
            f"network busy {100 * self.busy:.0f} % of {self.total:.1f} s; "
            f"the slowest stage is {self.slowest}{threads}"
        )


class _Step(NamedTuple):
    """An item on its way; ``goes_on`` is false where its ``value`` is the result already."""

    item: Any
    value: Any
    goes_on: bool
    seconds: tuple[float, ...] = ()  # of each stage ahead
    error: Exception | None = None


@dataclass(frozen=True)
class StreamTask(Generic[Item, Result]):
    """A task in stages, which give the same whether they overlap or not."""

    ahead: Sequence[Stage]
    """On the CPU, item by item, in several threads at a time: the first takes an item, the next what it gave.
    A `FailedItem`, or None where nothing is to be done, goes no further: it is the result."""
    network: Callable[[Sequence[Any]], Sequence[Any]]
    """What the network makes of a block of these, at least one."""
    write: Callable[[Item, Any], Result]
    """Writes what was made of an item, and gives its result."""
    need: Need = "network"
    overlaps: bool = False
    """True if the network is on an accelerator: then a process that does all blocks overlaps the stages."""
    pixels: Callable[[Item], int] | None = None
    """How many an item holds; bounds what is read ahead."""
    load: Callable[[], None] | None = None
    """Loads the networks."""
    times: StageTimes = field(default_factory=StageTimes, compare=False)
    """Those of blocks whose stages overlapped."""

    def start(self) -> Callable[[Sequence[Item]], Sequence["Result | FailedItem"]]:
        """Load the networks; return the function that does a block, stage by stage."""
        if self.load:
            self.load()
        return lambda block: self._written(self._made([_prepared(self.ahead, item) for item in block]))

    def stream(self, blocks: Sequence[Sequence[Item]]) -> Answers:
        """Try every block of the started task once, in order; threads read what follows, and write.

        What the network has made is written, whatever ends the stream; no thread outlives it.
        """
        times, begun = self.times, time.perf_counter()
        writing: deque[tuple[int, Future[Sequence[Any] | FailedBlock]]] = deque()
        prepare = partial(_prepared, self.ahead)
        items = (item for block in blocks for item in block)
        try:
            with (
                ThreadPoolExecutor(1, "geomatch-behind") as writer,
                closing(ahead(prepare, items, self.pixels)) as steps,
            ):
                for index, block in enumerate(blocks):
                    # no name keeps the images of the last block
                    made = attempt(self._made, self._taken(steps, len(block)))
                    if isinstance(made, FailedBlock):
                        yield index, made
                    else:
                        writing.append((index, writer.submit(attempt, self._written, made)))
                    while writing and (len(writing) > BEHIND or writing[0][1].done()):
                        yield self._answer(writing.popleft())
                while writing:
                    yield self._answer(writing.popleft())
        finally:
            times.total += time.perf_counter() - begun

    def _taken(self, steps: Iterator[_Step], count: int) -> list[_Step]:
        begun = time.perf_counter()
        taken = list(islice(steps, count))
        self.times.before += time.perf_counter() - begun
        for step in taken:
            for (name, _), seconds in zip(self.ahead, step.seconds, strict=False):
                self.times.ahead[name] = self.times.ahead.get(name, 0.0) + seconds
        return taken

    def _made(self, steps: Sequence[_Step]) -> list[_Step]:
        """What the network makes of those that go on."""
        begun = time.perf_counter()
        for step in steps:
            if step.error is not None:
                raise step.error
        going = [step.value for step in steps if step.goes_on]
        made = iter(self.network(going) if going else ())
        found = [step._replace(value=next(made)) if step.goes_on else step for step in steps]
        self.times.network += time.perf_counter() - begun
        return found

    def _written(self, steps: Sequence[_Step]) -> list[Any]:
        return [self.write(step.item, step.value) if step.goes_on else step.value for step in steps]

    def _answer(self, written: "tuple[int, Future[Any]]") -> tuple[int, Any]:
        begun = time.perf_counter()
        answer = written[1].result()
        self.times.behind += time.perf_counter() - begun
        return written[0], answer


def _prepared(stages: Sequence[Stage], item: Any) -> _Step:
    """The item as the stages ahead leave it."""
    value, seconds = item, []
    try:
        for _, function in stages:
            begun = time.perf_counter()
            value = function(value)
            seconds.append(time.perf_counter() - begun)
            if value is None or isinstance(value, FailedItem):
                return _Step(item, value, False, tuple(seconds))
    except Exception as error:  # ends the try of its block alone
        return _Step(item, None, False, tuple(seconds), error)
    return _Step(item, value, True, tuple(seconds))

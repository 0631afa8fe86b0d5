"""Work in stages: the CPU's ahead of a network, and the writing behind it, overlap on an accelerator."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic

from geomatch.engine.task import Answers, FailedBlock, FailedItem, Item, Need, Result
from geomatch.engine.worker import attempt
from geomatch.stream import ahead

BEHIND = 2
"""Most blocks that wait to be written while the network goes on."""
Stage = Callable[[Any], Any]
_Step = tuple[Any, Any]
"""An item, and what it has become: a value on its way, its result or an exception."""


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
    """How many an item holds, see `geomatch.stream.ahead`."""
    load: Callable[[], None] | None = None

    def start(self) -> Callable[[Sequence[Item]], Sequence["Result | FailedItem"]]:
        """Load the networks; return the function that does a block, stage by stage."""
        if self.load:
            self.load()
        return lambda block: self._written(self._made([self._prepared(item) for item in block]))

    def stream(self, blocks: Sequence[Sequence[Item]]) -> Answers:
        """Try every block once, in order; threads read what follows, and write. None of them outlives it."""
        writing: deque[Future[Sequence[Any] | FailedBlock]] = deque()
        items = (item for block in blocks for item in block)
        with (
            ThreadPoolExecutor(1, "geomatch-writing") as writer,
            closing(ahead(self._prepared, items, self.pixels)) as steps,
        ):
            for index, block in enumerate(blocks):
                # no name here keeps the images
                made = attempt(lambda own: self._made([next(steps) for _ in range(len(own))]), block)
                writing.append(writer.submit(self._attempted, made))
                most = BEHIND if index + 1 < len(blocks) else 0
                while writing and (len(writing) > most or writing[0].done()):
                    answer = writing.popleft().result()
                    yield index - len(writing), answer

    def _prepared(self, item: Item) -> _Step:
        value: Any = item
        try:
            for function in self.ahead:
                if not _ended(value):
                    value = function(value)
        except Exception as error:  # ends the try of its block alone
            return item, error
        return item, value

    def _made(self, steps: Sequence[_Step]) -> list[_Step]:
        """The items with what the network makes of them."""
        for _, value in steps:
            if isinstance(value, Exception):
                raise value
        going = [value for _, value in steps if not _ended(value)]
        made = iter(self.network(going) if going else ())
        return [(item, value if _ended(value) else next(made)) for item, value in steps]

    def _written(self, steps: Sequence[_Step]) -> list[Any]:
        return [value if _ended(value) else self.write(item, value) for item, value in steps]

    def _attempted(self, made: Sequence[_Step] | FailedBlock) -> Sequence[Any] | FailedBlock:
        return made if isinstance(made, FailedBlock) else attempt(self._written, made)


def _ended(value: object) -> bool:
    return value is None or isinstance(value, FailedItem)

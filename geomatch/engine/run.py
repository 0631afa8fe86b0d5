"""A stage of work from its first block to its last: blocks that fail are tried again and counted."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from geomatch.engine.task import Engine, FailedBlock, FailedItem, Item, Result, Task
from geomatch.errors import GeomatchError, StoreError
from geomatch.progress import progress_bar

_log = logging.getLogger(__name__)
TRIES = 4  # the first, again, and twice with every item alone, so that one bad item takes no others with it
BRAKE = 8
"""Blocks, besides one per worker, that fail at the store one after the other before the run gives up."""
SHOWN = 5  # names per reason in a summary


@dataclass
class Work:
    """All stages of one run on one engine."""

    engine: Engine
    progress: bool = True
    retries: int = field(default=0, init=False)  # blocks that were tried again

    def results(
        self, task: Task[Item, Result], blocks: Sequence[Sequence[Item]], what: str, unit: str, done: int = 0
    ) -> Iterator[tuple[Item, Result | FailedItem]]:
        """Yield every item with its result, as blocks are done; a block is read when it is scheduled.

        The bar is called ``what``, counts items by the word ``unit``, and begins at ``done``. Raises
        `StoreError` when the store fails again and again, `GeomatchError` when no worker can begin.
        """
        _log.debug("%s: %d there, %d to do", what, done, sum(map(len, blocks)))
        if not blocks:
            return
        todo = blocks
        total = done + sum(len(block) for block in todo)
        with progress_bar(None, what, unit, total, self.progress, done) as bar:
            failed: list[tuple[Sequence[Item], FailedBlock]] = []
            for number in range(TRIES):
                if number:
                    self.retries += len(todo)
                    bar.set_postfix_str(f"{len(todo)} again, {failed[0][1].reason[:60]}")
                failed, in_a_row = [], 0
                with closing(self.engine.map(task, todo)) as answers:
                    for index, answer in answers:
                        if isinstance(answer, FailedBlock):
                            failed.append((todo[index], answer))
                            if answer.kind == "start":
                                raise GeomatchError(answer.reason)
                            in_a_row = in_a_row + 1 if answer.kind == "store" else 0
                            if in_a_row == BRAKE + self.engine.workers:
                                raise _given_up(failed, unit)
                            continue
                        in_a_row = 0
                        bar.update(len(todo[index]))
                        yield from zip(todo[index], answer, strict=True)
                if not failed:
                    return
                todo = [block for block, _ in failed]
                if number:
                    todo = [[item] for block in todo for item in block]
            if any(failure.kind == "store" for _, failure in failed):
                raise _given_up(failed, unit)
            for block, failure in failed:
                bar.update(len(block))
                for item in block:
                    yield item, FailedItem(failure.reason)


def _given_up(failed: Sequence[tuple[Sequence[Any], FailedBlock]], unit: str) -> StoreError:
    reason = next(failure.reason for _, failure in reversed(failed) if failure.kind == "store")
    names = [_label(item) for block, failure in failed if failure.kind == "store" for item in block]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return StoreError(
        f"{reason}; not done: {len(names)} {unit}s at least ({', '.join(names[:SHOWN])}{more}); "
        "what was done stays: when the store is right again, give the same command"
    )


def _label(item: Any) -> str:
    first = item[0] if isinstance(item, tuple) and not hasattr(item, "name") else item
    return str(getattr(first, "name", first))


def grouped(failed: dict[str, str]) -> list[str]:
    """Names by reason, the most frequent first, for the screen.

    >>> grouped({"a.jpg": "no such file", "b.jpg": "no such file"})
    ['2 x no such file: a.jpg, b.jpg']
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in failed.items():
        own = re.sub(rf"(?<!\w){re.escape(str(name))}(?!\w)", "", reason).lstrip(": ") or reason
        reasons.setdefault(own, []).append(name)
    lines = []
    for reason, names in sorted(reasons.items(), key=lambda entry: -len(entry[1])):
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        several = f"{len(names)} x {reason}: {', '.join(names[:SHOWN])}{more}"
        alone = f"{names[0]}: {failed[names[0]].removeprefix(f'{names[0]}: ')}"
        lines.append(several if len(names) > 1 else alone)
    return lines


@dataclass(frozen=True, slots=True)
class LazyBlock(Sequence[Item]):
    """Items that are made when the block is scheduled: of millions only the places are held."""

    places: Sequence[int]
    make: Callable[[int], Item]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.make(self.places[index])


def in_blocks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Split into consecutive blocks of that size, the last perhaps smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]

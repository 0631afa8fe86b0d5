"""Blocks go to whoever is free; who dies is replaced, and the block it had is given back."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from geomatch.engine.task import Failure, Task
from geomatch.errors import GeomatchError, first_line

STARTS = 5
"""Workers that may die one after the other before any has begun."""


class Worker(Protocol):
    """A process somewhere."""

    def ready(self) -> "Future[Any]":
        """Done when the process can take a block."""
        ...

    def submit(self, task: Task[Any, Any], block: Sequence[Any]) -> "Future[Any]":
        """Results or a `Failure`; an exception means that the process died."""
        ...

    def stop(self) -> None:
        """End the process at once."""
        ...


@dataclass
class Crew:
    """The workers of an engine, which stay from stage to stage."""

    hire: Callable[[], Worker]
    died: str
    """What a death is called."""

    def __post_init__(self) -> None:
        self._idle: list[Worker] = []
        self._starting: dict[Future[Any], Worker] = {}

    def map(
        self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]], count: int
    ) -> Generator[tuple[int, Sequence[Any] | Failure], None, None]:
        """See `Engine.map`; at most ``count`` blocks are under way at a time.

        Raises:
            GeomatchError: when no worker can be started.
        """
        queue = deque(range(len(blocks)))
        wanted = min(count, len(blocks))
        # those that are still starting may wait for room for ever; they help if they come
        busy: dict[Future[Any], tuple[Worker, int | None]] = {
            future: (worker, None) for future, worker in self._starting.items()
        }
        self._starting = {}
        failed_starts = 0

        def begin(worker: Worker) -> None:
            busy[worker.ready()] = worker, None

        try:
            for worker in self._idle[:wanted]:
                begin(worker)
            del self._idle[:wanted]
            while len(busy) < wanted:
                begin(self.hire())
            while queue or any(index is not None for _, index in busy.values()):
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    worker, index = busy.pop(future)
                    error = future.exception()
                    if error is not None:
                        worker.stop()
                        if index is None:
                            failed_starts += 1
                            if failed_starts == STARTS:
                                raise GeomatchError(
                                    f"no worker can be started: {first_line(error)}"
                                ) from error
                        if queue:
                            begin(self.hire())
                    else:
                        failed_starts = 0
                        if queue:
                            following = queue.popleft()
                            busy[worker.submit(task, list(blocks[following]))] = worker, following
                        else:
                            self._idle.append(worker)
                    if index is not None:
                        yield index, (Failure(self.died) if error is not None else future.result())
            self._starting = {future: worker for future, (worker, _) in busy.items()}
        except BaseException:
            for worker, _ in busy.values():
                worker.stop()
            raise

    def dismiss(self) -> None:
        """End all."""
        for worker in [*self._idle, *self._starting.values()]:
            worker.stop()
        self._idle.clear()
        self._starting.clear()

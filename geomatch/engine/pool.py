"""Blocks go to idle workers; a worker that dies is replaced, and its block reported as failed."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from geomatch.engine.task import Answers, FailedBlock, Task
from geomatch.errors import GeomatchError, first_line

_log = logging.getLogger(__name__)
STARTS = 5
"""Workers that may fail to start in a stage; then no more are started, and without others it is an error."""
PATIENCE = 30.0  # seconds without any worker after which the user is told


class _Worker(Protocol):
    """A process somewhere; `ready` ends when it can take a block, and `stop` ends it at once."""

    def ready(self) -> "Future[Any]": ...

    def submit(self, task: Task[Any, Any], block: Sequence[Any]) -> "Future[Any]": ...

    def stop(self) -> None: ...


@dataclass
class WorkerPool:
    """The workers of an engine, which stay from stage to stage."""

    start: Callable[[], _Worker]
    death: type[BaseException]  # the exception of `submit` that means that the worker died
    died: str  # the reason given then
    hint: str = ""  # what to do when no worker can be started

    def __post_init__(self) -> None:
        self._idle: list[_Worker] = []
        self._starting: dict[Future[Any], _Worker] = {}

    def map(self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]], count: int) -> Answers:
        """Try every block once, at most ``count`` at a time."""
        queue = deque(range(len(blocks)))
        wanted = min(count, len(blocks))
        # those that are still starting may wait for free cores for ever; they help if they come
        busy: dict[Future[Any], tuple[_Worker, int | None]]
        busy = {future: (worker, None) for future, worker in self._starting.items()}
        self._starting = {}
        failed_starts = 0
        told = False

        def begin(worker: _Worker) -> None:
            busy[worker.ready()] = worker, None

        def working() -> bool:
            return any(index is not None for _, index in busy.values())

        try:
            for worker in self._idle[:wanted]:
                begin(worker)
            del self._idle[:wanted]
            while len(busy) < wanted:
                begin(self.start())
            while queue or working():
                done = wait(busy, PATIENCE, FIRST_COMPLETED).done
                if not done and not told and not working():
                    _log.warning("waiting for free cores for workers")
                    told = True
                for future in done:
                    worker, index = busy.pop(future)
                    error = future.exception()
                    if error is not None and (index is None or isinstance(error, self.death)):
                        worker.stop()
                        failed_starts += index is None
                        if failed_starts >= STARTS and not working():
                            reason = f"no worker can be started: {first_line(error)}{self.hint}"
                            raise GeomatchError(reason) from error
                        if queue and failed_starts < STARTS:
                            begin(self.start())
                    elif queue:
                        following = queue.popleft()
                        busy[worker.submit(task, list(blocks[following]))] = worker, following
                    else:
                        self._idle.append(worker)
                    if index is None:
                        failed_starts = failed_starts if error is not None else 0
                    elif isinstance(error, self.death):
                        yield index, FailedBlock(self.died)
                    else:
                        cause = getattr(error, "cause", None) or error  # Ray's errors begin with a header
                        yield index, future.result() if cause is None else FailedBlock(first_line(cause))
            self._starting = {future: worker for future, (worker, _) in busy.items()}
        except BaseException:
            for worker, _ in busy.values():
                worker.stop()
            raise

    def stop(self) -> None:
        """End all workers."""
        for worker in [*self._idle, *self._starting.values()]:
            worker.stop()
        self._idle.clear()
        self._starting.clear()

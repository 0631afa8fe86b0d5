"""The processes of this machine."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from typing import Any

from geomatch.engine.pool import Crew
from geomatch.engine.task import Failure, Task, attempt, started
from geomatch.errors import first_line

HINT = "; a script must begin work under: if __name__ == '__main__':"
DIED = "the process that worked on it died (of too little memory, perhaps)"


@dataclass
class LocalEngine:
    """Processes of this machine; a single one is this process itself."""

    count: int | None = None
    """How many; None takes one per core. Large networks, and networks on an accelerator, work in this process
    unless a number is given."""
    _crew: Crew = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._crew = Crew(lambda: _Process(self.workers), (BrokenExecutor,), DIED, HINT)

    @property
    def workers(self) -> int:
        """See `Engine.workers`."""
        return self.count or os.cpu_count() or 1

    def device(self, name: str) -> str:
        """See `Engine.device`."""
        from geomatch.dift.backends.loading import find_device  # here, since torch is loaded with it

        return find_device(name)

    def map(
        self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]
    ) -> Generator[tuple[int, Sequence[Any] | Failure], None, None]:
        """See `Engine.map`."""
        alone = self.count is None and (
            task.need == "large network" or (task.need == "network" and self.device("auto") != "cpu")
        )
        if self.workers == 1 or alone:
            with threads(threads_for(task, os.cpu_count() or 1)):
                work = started(task)
                for index, block in enumerate(blocks):
                    yield index, work if isinstance(work, Failure) else attempt(work, list(block))
            return
        yield from self._crew.map(task, blocks, self.workers)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self._crew.dismiss()


class _Process:
    """A process of its own, so that its death takes no other's block with it."""

    def __init__(self, workers: int) -> None:
        # a fork of a process that has run torch may hang; a fork of one that only imported it starts at once
        kinds = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            context.set_forkserver_preload(["geomatch.engine.preload"])
            with _deaf():  # the server, too, while it imports
                forkserver.ensure_running()
        self._cores = max(1, (os.cpu_count() or 1) // workers)
        self._pool = ProcessPoolExecutor(1, context, _begin, (dict(os.environ),))

    def ready(self) -> "Future[Any]":
        return self._submit(os.getpid)

    def submit(self, task: Task[Any, Any], block: Sequence[Any]) -> "Future[Any]":
        return self._submit(_work, pickle.dumps(task), block, self._cores)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        try:
            return self._pool.submit(function, *arguments)
        except BrokenExecutor as error:  # it died while it was idle
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def stop(self) -> None:
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # what it was at is made again; objects are written whole or not at all
        for process in processes:
            process.join()


def _begin(environment: dict[str, str]) -> None:
    os.environ.update(environment)  # that of the server is as old as the server
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C does nothing meanwhile, nor to processes that are started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def begun(pickled: bytes, cores: int) -> Callable[[Sequence[Any]], Sequence[Any]] | Failure:
    """A task that arrived, started on its number of threads."""
    try:
        task = pickle.loads(pickled)
    except Exception as error:  # of a class that is not importable there
        return Failure(f"the work cannot be read by a worker ({first_line(error)})", "start")
    set_threads(threads_for(task, cores))
    return started(task)


def threads_for(task: Task[Any, Any], cores: int) -> int:
    """One, so that the bits of a result do not depend on the number of cores; large networks take all."""
    return cores if task.need == "large network" else 1


def set_threads(count: int) -> None:
    """Of torch and OpenCV; before the first use of OpenCV, whose idle threads else take the others' time."""
    import cv2
    import torch

    cv2.setNumThreads(count)
    torch.set_num_threads(count)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """As `set_threads`, and back at the end."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


_last: tuple[bytes, Callable[[Sequence[Any]], Sequence[Any]] | Failure] | None = None


def _work(pickled: bytes, block: Sequence[Any], cores: int) -> Sequence[Any] | Failure:
    """A block in a worker, which keeps the last task's models."""
    global _last
    if _last is None or _last[0] != pickled:
        _last = None  # the old models go before new ones are loaded
        _last = pickled, begun(pickled, cores)
    work = _last[1]
    return work if isinstance(work, Failure) else attempt(work, block)

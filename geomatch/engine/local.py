"""The processes of this machine."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from typing import Any

from geomatch.engine.pool import WorkerPool
from geomatch.engine.stream import StreamTask
from geomatch.engine.task import Answers, FailedBlock, Task
from geomatch.engine.worker import WarmTask, attempt, set_threads, started, threads, threads_for

_HINT = "; a script must begin work under: if __name__ == '__main__':"
_DIED = "the process that worked on it died (of too little memory, perhaps)"


@dataclass
class LocalEngine:
    """Processes of this machine; a single one is this process itself."""

    count: int | None = None
    """How many; None takes one per core, and this process for large networks and those on an accelerator."""
    _pool: WorkerPool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pool = WorkerPool(lambda: _Process(self.workers), BrokenExecutor, _DIED, _HINT)

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self.count or os.cpu_count() or 1

    def device(self, name: str) -> str:
        """The device that ``auto`` means here."""
        from geomatch.devices import find_device  # here, since torch is loaded with it

        return find_device(name)

    def map(self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]) -> Answers:
        """Try every block once, see `geomatch.engine.Engine.map`."""
        alone = self.count is None and (
            task.need == "large network" or (task.need == "network" and self.device("auto") != "cpu")
        )
        if self.workers > 1 and not alone:
            yield from self._pool.map(task, blocks, self.workers)
            return
        stream = task.stream if isinstance(task, StreamTask) and task.overlaps else None
        with threads(1 if stream else threads_for(task, os.cpu_count() or 1)):
            function = started(task)
            if stream and not isinstance(function, FailedBlock):
                yield from stream(blocks)
                return
            for index, block in enumerate(blocks):
                yield index, attempt(function, list(block))

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.stop()


class _Process:
    """A pool of one process, so that its death takes no other's block with it."""

    def __init__(self, workers: int) -> None:
        # a fork of a process that has run torch may hang; a fork of one that only imported it starts at once
        kinds = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            context.set_forkserver_preload(["cv2", "torch"])
            with _handled(signal.SIG_IGN, signal.SIGINT):  # by the server, too, while it imports
                forkserver.ensure_running()
        cores = max(1, (os.cpu_count() or 1) // workers)
        self._executor = ProcessPoolExecutor(1, context, _begin, (dict(os.environ), cores))
        held: list[int] = []
        with _handled(lambda number, frame: held.append(number), signal.SIGINT, signal.SIGTERM):
            self.ready()  # half begun, a process would look for what this one has removed by then
        try:
            for number in held:
                signal.raise_signal(number)
        except BaseException:
            self.stop()
            raise

    def ready(self) -> "Future[Any]":
        return self._submit(os.getpid)

    def submit(self, task: Task[Any, Any], block: Sequence[Any]) -> "Future[Any]":
        return self._submit(_run, pickle.dumps(task), block)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        try:
            return self._executor.submit(function, *arguments)
        except BrokenExecutor as error:  # it died while it was idle
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def stop(self) -> None:
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # its block is done again; objects are written whole or not at all
        for process in processes:
            process.join()


_warm: WarmTask


def _begin(environment: dict[str, str], cores: int) -> None:
    global _warm
    os.environ.update(environment)  # that of the server is as old as the server
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_threads(1)
    _warm = WarmTask(cores)


def _run(pickled: bytes, block: Sequence[Any]) -> Sequence[Any] | FailedBlock:
    return _warm.run(pickled, block)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _handled(handler: Any, *numbers: int) -> Iterator[None]:
    """Signals are handled so in the block; what is ignored is, too, by processes that are started in it."""
    main = threading.current_thread() is threading.main_thread()  # others cannot, and none comes to them
    heard = [number for number in numbers if main and signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)

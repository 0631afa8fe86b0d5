"""What a worker does, wherever it is: a task is started once, and its models stay loaded."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from geomatch.engine.task import FailedBlock, Task
from geomatch.errors import StoreError, first_line

Function = Callable[[Sequence[Any]], Sequence[Any]]


class WarmTask:
    """The last task that a worker was given, ready for the next block."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pickled = b""
        self._function: Function | FailedBlock | None = None

    def run(self, pickled: bytes, block: Sequence[Any]) -> Sequence[Any] | FailedBlock:
        """Do a block of the pickled task."""
        if self._function is None or pickled != self._pickled:
            self._function = None  # the old models go before new ones are loaded
            try:
                task = pickle.loads(pickled)
            except Exception as error:  # of a class that is not importable here
                return FailedBlock(f"the work cannot be read by a worker ({first_line(error)})", "start")
            set_threads(threads_for(task, self._cores))
            self._pickled, self._function = pickled, started(task)
        return attempt(self._function, block)


def started(task: Task[Any, Any]) -> Function | FailedBlock:
    """Start a task; a `FailedBlock` says why it cannot."""
    try:
        return task.start()
    except Exception as error:
        return FailedBlock(first_line(error), "start")


def attempt(function: Function | FailedBlock, block: Sequence[Any]) -> Sequence[Any] | FailedBlock:
    """Try a block once; only exceptions that end the process get out."""
    if isinstance(function, FailedBlock):
        return function
    try:
        return function(block)
    except StoreError as error:
        return FailedBlock(first_line(error), "store")
    except MemoryError:
        return FailedBlock("out of memory")
    except Exception as error:
        return FailedBlock(first_line(error))


def threads_for(task: Task[Any, Any], cores: int) -> int:
    """One, so that the bits of a result do not depend on the number of cores; large networks take all."""
    return cores if task.need == "large network" else 1


def set_threads(count: int) -> None:
    """Set torch's and OpenCV's threads; before OpenCV's first use, whose idle threads take others' time."""
    import cv2
    import torch

    cv2.setNumThreads(count)
    torch.set_num_threads(count)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use that many threads in the block."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])

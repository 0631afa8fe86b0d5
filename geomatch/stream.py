"""Images read ahead of what waits for them, by threads while a network is at work; and where time goes."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = max(1, min(16, (os.cpu_count() or 1) - 1))
"""One core is left to the thread that feeds the network; 16 decode faster than one network takes images."""
AHEAD = 32
"""Most items that are begun and not taken: one for each thread, and two batches of eight."""
AHEAD_PIXELS = 256_000_000
"""Most pixels of these, 0.8 GB; an item that is larger is alone."""


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], pixels: Callable[[Item], int] | None = None
) -> Generator[Result, None, None]:
    """Give the function's result of each item, in order, while threads work on the items that follow.

    ``pixels`` says how many an item will hold, see `AHEAD_PIXELS`. The first exception is raised where its
    result would be. When the iterator is closed, or ends, so have the threads.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    held = 0
    pool = ThreadPoolExecutor(THREADS, "geomatch-ahead")
    try:
        for item in items:
            own = pixels(item) if pixels else 0
            while waiting and (len(waiting) == AHEAD or held + own > AHEAD_PIXELS):
                held -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(function, item), own))
            held += own
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall time of the block to ``seconds[name]``, and log it."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - begun
        seconds[name] = seconds.get(name, 0.0) + spent
        _log.debug("%s took %.2f s", name.replace("_", " "), spent)

"""The images of a pair side by side, each in a thread with its share of the cores.

Dozens of small operations on all cores wait for one another, the more so when other programs are at work on
one of them; two images on a core each do not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_alone = Lock()  # a second call meanwhile, from another thread, would take the share for the whole


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of each item, in order; one by one with one thread, or beside another such call."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2 or not _alone.acquire(blocking=False):
        return [function(item) for item in items]
    share = max(1, threads // len(items))
    # the number belongs to a thread, but threads that start later begin with the one set last
    try:
        with ThreadPoolExecutor(
            min(len(items), threads), "geomatch", torch.set_num_threads, (share,)
        ) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)
        _alone.release()

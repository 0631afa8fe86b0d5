"""The best partners of each item, found block by block, so that memory does not grow with the square."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Score = Callable[[slice, slice], NDArray[np.floating]]
"""(n, m) scores of some items with others, larger is better, minus infinity for never."""


def best_partners(score: Score, part: slice, total: int, count: int, step: int) -> NDArray[np.int64]:
    """(n, count) best partners of the items in ``part``, of equals the first; -1 where there are fewer.

    Args:
        score: scores two slices of the items.
        part: slice of the items.
        total: number of items.
        count: number of partners.
        step: number of items that are compared at a time.
    """
    own = np.arange(part.start, part.stop)
    values = np.full((len(own), count), -np.inf)
    chosen = np.full((len(own), count), -1)
    for start in range(0, total, step):
        others = np.arange(start, min(start + step, total))
        found = np.array(score(part, slice(others[0], others[-1] + 1)), np.float64)
        found[own[:, None] == others[None]] = -np.inf
        every = np.concatenate([values, found], axis=1)
        names = np.concatenate([chosen, np.broadcast_to(others, found.shape)], axis=1)
        best = np.argpartition(-every, count - 1, axis=1)[:, :count]
        values, chosen = np.take_along_axis(every, best, axis=1), np.take_along_axis(names, best, axis=1)
    order = np.lexsort((chosen, -values), axis=1)
    ranked = np.take_along_axis(chosen, order, axis=1)
    return np.where(np.take_along_axis(values, order, axis=1) > -np.inf, ranked, -1)

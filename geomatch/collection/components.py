"""Connected components by union-find."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def components(total: int, edges: Iterable[NDArray[np.integer]]) -> NDArray[np.int64]:
    """(total,) the smallest node of each node's component; edges are arrays (M, 2) of joined nodes.

    >>> components(4, [np.array([[3, 1]])]).tolist()
    [0, 1, 2, 1]
    """
    parent = list(range(total))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for rows in edges:
        for i, j in rows.tolist():
            a, b = root(i), root(j)
            parent[max(a, b)] = min(a, b)
    return np.array([root(node) for node in range(total)], np.int64)

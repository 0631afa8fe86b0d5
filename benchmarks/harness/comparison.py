"""Two methods on the same pairs: the difference, and how far chance could have made it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.task import Row, Task

FEW = 10  # below so many units the resamples are too much alike for an interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """First method minus second, in points of the measure in percent."""

    first: str
    second: str
    difference: float
    low: float  # 2.5 % of the resamples lie below
    high: float  # 2.5 % of the resamples lie above
    items: int  # rows that both methods have
    units: int  # Sequences, categories or videos, which are drawn whole
    budgets: tuple[int | None, int | None] = (None, None)  # keypoints per image of either

    @property
    def verdict(self) -> str:
        """What the 95 % interval says: of few units nothing, else if it leaves out zero."""
        found = "clear" if self.low > 0 or self.high < 0 else "not told apart"
        if self.units < FEW:
            found = "too few to tell"
        first, second = self.budgets
        return found if first == second else f"{found}, at {first} and {second} keypoints"


def compare(
    task: Task, protocol: Any, rows0: Sequence[Row], rows1: Sequence[Row], resamples: int = 2000
) -> Comparison:
    """The protocol's headline measure of two methods, on the pairs that both have rows of.

    The 95 % interval is a bootstrap of clusters (Davison and Hinkley, 1997, ch. 3.8): rows of one unit share
    images and fail together, so that whole units are drawn. Raises ValueError without a common pair.
    """
    by_pair0, by_pair1 = ({row["pair"]: row for row in rows} for rows in (rows0, rows1))
    common = [pair for pair in by_pair0 if pair in by_pair1]
    if not common:
        raise ValueError("the methods have no pair in common")
    values0 = task.values(protocol, [by_pair0[pair] for pair in common])
    values1 = task.values(protocol, [by_pair1[pair] for pair in common])

    def difference(places: NDArray[np.intp]) -> float:
        return task.statistic(protocol, values0[places]) - task.statistic(protocol, values1[places])

    low, high, units = _resampled(common, difference, resamples)
    return Comparison(
        rows0[0]["method"], rows1[0]["method"], difference(np.arange(len(common))), low, high, len(common),
        units,
    )  # fmt: skip


def interval(task: Task, protocol: Any, rows: Sequence[Row]) -> tuple[float, tuple[float, float] | None]:
    """The headline measure of one method's rows, and its 95 % interval, see `compare`; None of few units."""
    values = task.values(protocol, rows)
    pairs = [row["pair"] for row in rows]
    low, high, units = _resampled(pairs, lambda places: task.statistic(protocol, values[places]))
    return task.statistic(protocol, values), (low, high) if units >= FEW else None


def _resampled(
    pairs: Sequence[str], statistic: Callable[[NDArray[np.intp]], float], resamples: int = 2000
) -> tuple[float, float, int]:
    """2.5 and 97.5 % of a statistic of the places of pairs when units are drawn; the number of units."""
    units = np.array([pair.split()[0] for pair in pairs])
    members = [np.flatnonzero(units == name) for name in dict.fromkeys(units)]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        chosen = rng.integers(len(members), size=len(members))
        drawn.append(statistic(np.concatenate([members[k] for k in chosen])))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high), len(members)


def compare_all(
    task: Task, protocol: Any, by_method: Mapping[str, Sequence[Row]], budgets: Mapping[str, int | None]
) -> list[Comparison]:
    """Every two methods that have a pair in common; ``budgets`` are their keypoints per image."""
    return [
        replace(compare(task, protocol, rows0, rows1), budgets=(budgets[method0], budgets[method1]))
        for (method0, rows0), (method1, rows1) in combinations(by_method.items(), 2)
        if {row["pair"] for row in rows0} & {row["pair"] for row in rows1}
    ]

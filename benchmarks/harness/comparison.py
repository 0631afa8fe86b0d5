"""Two methods on the same pairs: the difference, and how far chance could have made it.

Pairs of one sequence (or category, or video) share images and fail together, so that whole sequences
are drawn, not pairs (bootstrap of clusters; Davison and Hinkley, 1997, ch. 3.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.suite import Row, Suite

RESAMPLES = 2000
FEW = 10
"""Below so many sequences the resamples are too much alike for an interval."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """First method minus second, in points of the measure in percent."""

    first: str
    second: str
    measure: str
    difference: float
    low: float
    """2.5 % of the resamples lie below."""
    high: float
    """2.5 % of the resamples lie above."""
    items: int
    """Rows that both methods have."""
    units: int
    """Sequences, categories or videos, which are drawn whole."""

    @property
    def verdict(self) -> str:
        """Whether the 95 % interval leaves out zero; of few sequences it says nothing."""
        if self.units < FEW:
            return "too few to tell"
        return "clear" if self.low > 0 or self.high < 0 else "not told apart"


def compare(
    suite: Suite,
    protocol: Any,
    rows0: Sequence[Row],
    rows1: Sequence[Row],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """The protocol's headline measure of two methods, on the pairs that both have.

    Args:
        suite: of the rows.
        protocol: under which all rows were taken.
        rows0: of the first method.
        rows1: of the second.
        resamples: draws of sequences with replacement.
        seed: of the draws.

    Raises:
        ValueError: when the methods have no pair in common.
    """
    by_pair0, by_pair1 = ({row["pair"]: row for row in rows} for rows in (rows0, rows1))
    common = [pair for pair in by_pair0 if pair in by_pair1]
    if not common:
        raise ValueError("the methods have no pair in common")
    values0 = suite.values(protocol, [by_pair0[pair] for pair in common])
    values1 = suite.values(protocol, [by_pair1[pair] for pair in common])
    statistic = suite.statistic(protocol)
    names = np.array([pair.split()[0] for pair in common])
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(names)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        drawn.append(statistic(values0[chosen]) - statistic(values1[chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Comparison(
        rows0[0]["method"], rows1[0]["method"], protocol.headline,
        statistic(values0) - statistic(values1), float(low), float(high), len(common), len(members),
    )  # fmt: skip


def compare_all(suite: Suite, protocol: Any, rows: Sequence[Row]) -> list[Comparison]:
    """Every two methods among rows of one protocol."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return [compare(suite, protocol, a, b) for a, b in combinations(by_method.values(), 2)]

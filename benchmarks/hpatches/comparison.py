"""Two methods on the same pairs: the difference, and how far chance could have made it.

Pairs of one sequence share image 1 and fail together, so that whole sequences
are drawn, not pairs (bootstrap of clusters; Davison and Hinkley, 1997, ch. 3.8).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.hpatches.measures import accuracy, trapezoid_auc
from geomatch.benchmarks.hpatches.protocols import Protocol, Row, errors_of

RESAMPLES = 2000
FEW = 10
"""Below so many sequences the resamples are too much alike for an interval."""
Statistic = Callable[[NDArray[np.float64]], float]


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
    pairs: int
    """That both methods have."""
    sequences: int

    @property
    def verdict(self) -> str:
        """Whether the 95 % interval leaves out zero; of few sequences it says nothing."""
        if self.sequences < FEW:
            return "too few sequences to tell"
        return "clear" if self.low > 0 or self.high < 0 else "not told apart"


def compare(
    protocol: Protocol, rows0: Sequence[Row], rows1: Sequence[Row], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """The protocol's headline measure of two methods, on the pairs that both have.

    Args:
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
    values0 = pair_values(protocol, [by_pair0[pair] for pair in common])
    values1 = pair_values(protocol, [by_pair1[pair] for pair in common])
    statistic = headline_of(protocol)
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


def compare_all(protocol: Protocol, rows: Sequence[Row]) -> list[Comparison]:
    """Every two methods among rows of one protocol."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return [compare(protocol, a, b) for a, b in combinations(by_method.values(), 2)]


def pair_values(protocol: Protocol, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(pairs, seeds) what `headline_of` works on: errors in pixels, or the share of right matches."""
    if protocol.kind == "mma":
        threshold = int(protocol.headline.split("@")[1])
        return np.array([[row["within"][threshold - 1] / max(1, row["matches"])] for row in rows])
    return np.array([errors_of(row, "errors_px") for row in rows])


def headline_of(protocol: Protocol) -> Statistic:
    """From `pair_values` to the headline measure in percent."""
    name, _, number = protocol.headline.partition("@")
    threshold = float(number)
    if name == "MMA":
        return lambda values: 100 * float(values.mean())
    measure = {"accuracy": accuracy, "AUC": trapezoid_auc}[name]
    return lambda values: 100 * float(np.mean([measure(column, threshold) for column in values.T]))

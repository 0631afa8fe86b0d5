"""All sets and methods of several runs in one table, and two methods compared on the same pairs."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.record import Run, allowed
from geomatch.benchmarks.harness.task import FOLDERS, Row, Task
from geomatch.files import digest_of

RESAMPLES = 2000  # of units, for an interval
FEW = 10  # below so many units the resamples are too much alike for an interval


@dataclass(frozen=True, slots=True)
class Standing:
    """A method's headline measure on one set, in percent."""

    value: float
    interval: tuple[float, float] | None  # 95 % of bootstrap samples of whole units; None of few units

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (" [{:.1f}, {:.1f}]".format(*self.interval) if self.interval else "")


def published_rows(task: str, protocol: str) -> list[dict[str, Any]]:
    """Rows of somebody's tables under one protocol of a task; none where no source was read.

    ``method``, ``split``, ``measures`` by the names that our tables have (percentages, and repeatability as a
    share), ``source``, and what differs from the protocol, as far as it says.
    """
    package = files(f"geomatch.benchmarks.tasks.{FOLDERS[task]}")
    content = json.loads(package.joinpath("published.json").read_text(encoding="utf-8"))
    return [
        {**row, "source": group["source"] + (f" ({group['note']})" if "note" in group else "")}
        for group in content
        for row in group["rows"]
        if group["protocol"] == protocol
    ]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Methods, those on most sets first, and of these the best on average."""

    columns: list[str]  # set, protocol and measure
    rows: dict[str, list[Standing | None]]  # by method
    keypoints: int | None  # per image, at most; None of dense features
    left_out: list[str]  # methods at other budgets

    def csv(self) -> str:
        """One row per method and column, as comma-separated values."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "keypoints", "column", "value", "low", "high"])
        for label, found in self.rows.items():
            for column, one in zip(self.columns, found, strict=True):
                if one:
                    writer.writerow([label, self.keypoints, column, one.value, *(one.interval or ("", ""))])
        return file.getvalue()


def leaderboard(runs: Sequence[Run], keypoints: int | None = None) -> Leaderboard:
    """Standings under every protocol of every run, at a budget of ``keypoints``: by default that of most."""
    budgets = Counter(method.budget for run in runs for method in run.methods.values())
    if keypoints is None:
        keypoints = max((b for b in budgets if b is not None), key=lambda b: (budgets[b], b), default=None)
    columns, rows, left_out = [], dict[str, dict[str, Standing]](), dict[str, None]()
    for run in runs:
        for protocol in run.protocols.values():
            column = f"{run.title}, {protocol.name}, {protocol.headline}"
            column += f" ({digest_of(run.data['units'])[:8]})" if column in columns else ""
            columns.append(column)
            for label, method in run.methods.items():
                wanted = allowed(protocol, keypoints)
                if method.budget is not None and allowed(protocol, method.budget) != wanted:
                    left_out[label if "keypoints" in label else f"{label} ({method.budget} keypoints)"] = None
                    continue
                own = [row for row in run.rows_of(protocol.name) if row["method"] == label]
                if own:
                    rows.setdefault(label, {})[column] = _standing(run.task, protocol, own)
    means = {label: fmean(standing.value for standing in own.values()) for label, own in rows.items()}
    ordered = sorted(rows, key=lambda label: (-len(rows[label]), -means[label]))
    cells = {label: [rows[label].get(column) for column in columns] for label in ordered}
    return Leaderboard(columns, cells, keypoints, list(left_out))


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
    def told(self) -> bool:
        """True if there are enough units for the interval to say something."""
        return self.units >= FEW

    @property
    def verdict(self) -> str:
        """What the 95 % interval says: of few units nothing, else if it leaves out zero."""
        found = "beyond chance" if self.low > 0 or self.high < 0 else "not told apart"
        if not self.told:
            found = "too few to tell"
        first, second = self.budgets
        return found if first == second else f"{found}, at {first} and {second} keypoints"


def compare(task: Task, protocol: Any, rows0: Sequence[Row], rows1: Sequence[Row]) -> Comparison:
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

    low, high, units = _resampled(common, difference)
    return Comparison(
        rows0[0]["method"], rows1[0]["method"], difference(np.arange(len(common))), low, high, len(common),
        units,
    )  # fmt: skip


def _standing(task: Task, protocol: Any, rows: Sequence[Row]) -> Standing:
    values, pairs = task.values(protocol, rows), [row["pair"] for row in rows]
    low, high, units = _resampled(pairs, lambda places: task.statistic(protocol, values[places]))
    return Standing(task.statistic(protocol, values), (low, high) if units >= FEW else None)


def _resampled(
    pairs: Sequence[str], statistic: Callable[[NDArray[np.intp]], float]
) -> tuple[float, float, int]:
    """2.5 and 97.5 % of a statistic of the places of pairs when units are drawn; the number of units."""
    units = np.array([pair.split()[0] for pair in pairs])
    members = [np.flatnonzero(units == name) for name in dict.fromkeys(units)]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(members), size=len(members))
        drawn.append(statistic(np.concatenate([members[k] for k in chosen])))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high), len(members)


def rank(task: Task, protocol: Any, by_method: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """The headline measure in percent of methods that have rows.

    Those with most rows stand first, and of these the best: a method without the hard pairs leads nothing.
    """
    found = {
        m: task.statistic(protocol, task.values(protocol, rows)) for m, rows in by_method.items() if rows
    }
    return dict(sorted(found.items(), key=lambda item: (-len(by_method[item[0]]), -item[1])))


def compare_all(
    task: Task, protocol: Any, by_method: Mapping[str, Sequence[Row]], budgets: Mapping[str, int | None]
) -> list[Comparison]:
    """Every two methods that have a pair in common; ``budgets`` are their keypoints per image."""
    return [
        replace(compare(task, protocol, rows0, rows1), budgets=(budgets[method0], budgets[method1]))
        for (method0, rows0), (method1, rows1) in combinations(by_method.items(), 2)
        if {row["pair"] for row in rows0} & {row["pair"] for row in rows1}
    ]

"""All sets and methods of several runs in one table, at one budget of keypoints, with intervals."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import compress
from statistics import fmean

from geomatch.benchmarks.harness.comparison import interval
from geomatch.benchmarks.harness.record import allowed
from geomatch.benchmarks.harness.runs import Run
from geomatch.benchmarks.harness.task import FOLDERS
from geomatch.files import digest_of

REPORTED = {"wxbs": "test", "spair": "test", "davis": "val", "jhmdb": "1"}  # splits of published rows


@dataclass(frozen=True, slots=True)
class Standing:
    """A method's headline measure on one set, in percent."""

    value: float
    interval: tuple[float, float] | None  # 95 % of bootstrap samples of whole units; None of few units

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (" [{:.1f}, {:.1f}]".format(*self.interval) if self.interval else "")


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of somebody's table, taken under one protocol."""

    method: str
    split: str
    measures: dict[str, float]  # by the names that our tables have; percentages, and repeatability as a share
    source: str  # and what differs from the protocol, as far as it says


@cache
def published_rows(task: str, protocol: str) -> tuple[PublishedRow, ...]:
    """Rows under one protocol of a task; none where no source was read."""
    package = files(f"geomatch.benchmarks.tasks.{FOLDERS[task]}")
    content = json.loads(package.joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(
        PublishedRow(source=group["source"] + (f" ({group['note']})" if "note" in group else ""), **row)
        for group in content
        for row in group["rows"]
        if group["protocol"] == protocol
    )


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Methods, those on most sets first, and of these the best on average; then published rows."""

    columns: list[str]  # set, protocol and measure
    rows: dict[tuple[str, str], list[Standing | None]]
    """By method and source, which is empty for what was run."""
    keypoints: int | None  # per image, at most; None of dense features
    left_out: list[str]  # methods at other budgets

    def table(self, published: bool) -> list[list[str]]:
        """Cells as text, the head first, of published rows or the others, without empty columns."""
        rows = [row for row in self.rows.items() if published == (row[0][1] != "")]
        lines = [[label, *(str(one or "") for one in found), source] for (label, source), found in rows]
        lines.insert(0, ["method", *self.columns, "source"])
        shown = [any(cells) for cells in zip(*lines[1:], strict=True)]
        return [[cell or "-" for cell in compress(line, shown)] for line in lines]

    def csv(self) -> str:
        """One row per method and column, as comma-separated values."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "keypoints", "column", "value", "low", "high", "source"])
        for (label, source), found in self.rows.items():
            for column, one in zip(self.columns, found, strict=True):
                if one:
                    budget, ends = "" if source else self.keypoints, one.interval or ("", "")
                    writer.writerow([label, budget, column, one.value, *ends, source])
        return file.getvalue()


def leaderboard(runs: Sequence[Run], keypoints: int | None = None) -> Leaderboard:
    """Standings under every protocol of every run, at a budget of ``keypoints``: by default that of most."""
    budgets = Counter(method.budget for run in runs for method in run.methods.values())
    if keypoints is None:
        keypoints = max((b for b in budgets if b is not None), key=lambda b: (budgets[b], b), default=None)
    columns, rows, left_out = [], dict[tuple[str, str], dict[str, Standing]](), dict[str, None]()
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
                    rows.setdefault((label, ""), {})[column] = Standing(*interval(run.task, protocol, own))
            split = run.data["split"]
            whole = run.data["complete"] and split == REPORTED.get(run.task.name, split)
            for row in published_rows(run.task.name, protocol.name) if whole else ():
                if row.split == "all" and protocol.headline in row.measures:
                    standing = Standing(row.measures[protocol.headline], None)
                    rows.setdefault((row.method, row.source), {})[column] = standing
    means = {one: fmean(standing.value for standing in own.values()) for one, own in rows.items()}
    ordered = sorted(rows, key=lambda one: (one[1] != "", -len(rows[one]), -means[one]))
    cells = {one: [rows[one].get(column) for column in columns] for one in ordered}
    return Leaderboard(columns, cells, keypoints, list(left_out))

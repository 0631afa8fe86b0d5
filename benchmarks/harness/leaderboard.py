"""All sets and methods of several runs in one table, at one budget of keypoints, with intervals and costs."""

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import compress
from statistics import fmean

from torch import nn

from geomatch.benchmarks.harness.comparison import interval
from geomatch.benchmarks.harness.record import allowed
from geomatch.benchmarks.harness.runs import RecordedMethod, Run
from geomatch.benchmarks.harness.task import FOLDERS, Task
from geomatch.demo import bundled_pair
from geomatch.errors import GeomatchError
from geomatch.files import digest_of
from geomatch.images import load_image
from geomatch.store import Store

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
    costs: Mapping[str, tuple[float, float]]
    """Seconds for the bundled pair, 640 x 480 pixels each, and its matches, the second time, on this machine;
    megabytes of weights in memory."""
    keypoints: int | None  # per image, at most; None of dense features
    left_out: list[str]  # methods at other budgets

    def table(self, published: bool | None = None) -> list[list[str]]:
        """Cells as text, the head first, of published rows, the others or all, without empty columns."""
        lines = []
        rows = [row for row in self.rows.items() if published in (None, row[0][1] != "")]
        for (label, source), found in rows:
            cost = None if source else self.costs.get(label)
            spent = [f"{cost[0]:.2f}", f"{cost[1]:.1f}"] if cost else ["", ""]
            lines.append([label, *(str(one or "") for one in found), *spent, source])
        lines.insert(0, ["method", *self.columns, "seconds a pair", "MB", "source"])
        shown = [any(cells) for cells in zip(*lines[1:], strict=True)]
        return [[cell or "-" for cell in compress(line, shown)] for line in lines]

    def csv(self) -> str:
        """One row per method and column, as comma-separated values."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "keypoints", "column", "value", "low", "high", "seconds", "MB", "source"])
        for (label, source), found in self.rows.items():
            spent = ("", "") if source else self.costs.get(label, ("", ""))
            for column, one in zip(self.columns, found, strict=True):
                if one:
                    budget, ends = "" if source else self.keypoints, one.interval or ("", "")
                    writer.writerow([label, budget, column, one.value, *ends, *spent, source])
        return file.getvalue()


def leaderboard(runs: Sequence[Run], keypoints: int | None = None, costs: bool = False) -> Leaderboard:
    """Standings under every protocol of every run.

    ``keypoints`` is the budget that is shown, by default that of most methods; ``costs`` measures the methods
    that strings name, here and now.
    """
    budgets = Counter(method.budget for run in runs for method in run.methods.values())
    if keypoints is None:
        keypoints = max((b for b in budgets if b is not None), key=lambda b: (budgets[b], b), default=None)
    columns, rows, left_out = [], dict[tuple[str, str], dict[str, Standing]](), dict[str, None]()
    strings: dict[str, tuple[Task, RecordedMethod]] = {}
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
                    strings.setdefault(label, (run.task, method))
            split = run.data["split"]
            whole = run.data["complete"] and split == REPORTED.get(run.task.name, split)
            for row in published_rows(run.task.name, protocol.name) if whole else ():
                if row.split == "all" and protocol.headline in row.measures:
                    standing = Standing(row.measures[protocol.headline], None)
                    rows.setdefault((row.method, row.source), {})[column] = standing
    spent = {label: cost for label, one in strings.items() if costs and (cost := measured_cost(*one))}
    means = {one: fmean(standing.value for standing in own.values()) for one, own in rows.items()}
    ordered = sorted(rows, key=lambda one: (one[1] != "", -len(rows[one]), -means[one]))
    cells = {one: [rows[one].get(column) for column in columns] for one in ordered}
    return Leaderboard(columns, cells, spent, keypoints, list(left_out))


def measured_cost(task: Task, recorded: RecordedMethod) -> tuple[float, float] | None:
    """See `Leaderboard.costs`; None for an object, features in files, or what cannot be made here."""
    pair = bundled_pair()
    images = [load_image(pair.image0), load_image(pair.image1)]
    try:
        method = recorded.made(task)
        for _ in range(2):  # the first time networks are loaded
            start = time.perf_counter()
            if method.pair_matcher:
                method.pair_matcher.match_images(*images)
            elif task.dense:
                method.maps(images)
            else:
                method.match(*(method.extract(image) for image in images))
            seconds = time.perf_counter() - start
    except (GeomatchError, TypeError, ValueError):
        return None
    return seconds, _bytes_of(method, set()) / 1e6


def _bytes_of(part: object, seen: set[int]) -> int:
    """Bytes of the weights that an object holds."""
    if id(part) in seen or isinstance(part, (str, bytes, type, Store)):
        return 0
    seen.add(id(part))
    if isinstance(part, nn.Module):
        return sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
    names = (*getattr(part, "__dict__", ()), *getattr(part, "__slots__", ()))
    held = part if isinstance(part, (list, tuple)) else [getattr(part, name, None) for name in names]
    return sum(_bytes_of(one, seen) for one in held)

"""All sets and methods of several runs in one table, at one budget of keypoints, with intervals and costs."""

import csv
import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import fmean
from typing import Any

from torch import nn

from geomatch.benchmarks.harness.comparison import interval
from geomatch.benchmarks.harness.record import allowed, markdown_table
from geomatch.benchmarks.harness.runs import Run
from geomatch.benchmarks.methods.method import Method
from geomatch.demo import bundled_pair
from geomatch.images import load_image
from geomatch.store import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """A method's headline measure on one set, in percent."""

    value: float
    interval: tuple[float, float] | None  # 95 % of bootstrap samples of whole units; None of few units

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (
            "" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.interval)
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method takes on this machine for the bundled pair, 640 x 480 pixels each."""

    seconds: float  # for both images and their matches, the second time
    megabytes: float  # weights in memory


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Methods by their mean standing, best first."""

    columns: list[str]  # set, protocol and measure
    rows: dict[str, list[Standing | None]]
    costs: Mapping[str, Cost]
    keypoints: int | None  # per image, at most; None of dense features
    left_out: list[str]  # methods at other budgets

    @property
    def table(self) -> list[list[str]]:
        """Cells as text, the head first."""
        head = ["method", *self.columns, *(["seconds a pair", "MB"] if self.costs else [])]
        lines = [head]
        for label, found in self.rows.items():
            cost = self.costs.get(label)
            spent = [f"{cost.seconds:.2f}", f"{cost.megabytes:.1f}"] if cost else ["-", "-"]
            lines.append([label, *("-" if one is None else str(one) for one in found)])
            lines[-1] += spent if self.costs else []
        return lines

    def markdown(self) -> str:
        """The table in Markdown."""
        head, *lines = self.table
        return markdown_table(head, lines)

    def csv(self) -> str:
        """One row per method and column, as comma-separated values."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "keypoints", "column", "value", "low", "high", "seconds", "megabytes"])
        for label, found in self.rows.items():
            cost = self.costs.get(label)
            spent = [cost.seconds, cost.megabytes] if cost else ["", ""]
            for column, one in zip(self.columns, found, strict=True):
                if one:
                    ends = one.interval or ("", "")
                    writer.writerow([label, self.keypoints, column, one.value, *ends, *spent])
        return file.getvalue()

    def latex(self) -> str:
        """The table for LaTeX with booktabs, intervals left out."""
        head = self.table[0]
        lines = [
            [label, *("--" if one is None else f"{one.value:.1f}" for one in found)]
            for label, found in self.rows.items()
        ]
        if self.costs:
            lines = [[*line, *own[-2:]] for line, own in zip(lines, self.table[1:], strict=True)]
        body = [" & ".join(map(_escaped, line)) + r" \\" for line in (head, *lines)]
        begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
        return "\n".join(
            [begin, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", ""]
        )


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def leaderboard(runs: Sequence[Run], keypoints: int | None = None, costs: bool = False) -> Leaderboard:
    """Standings under every protocol of every run.

    ``keypoints`` is the budget that is shown, by default that of most methods; ``costs`` measures the methods
    that strings name, here and now.
    """
    budgets = Counter(method.budget for run in runs for method in run.methods.values())
    if keypoints is None:
        keypoints = max((b for b in budgets if b is not None), key=lambda b: (budgets[b], b), default=None)
    columns, rows, left_out = [], dict[str, dict[str, Standing]](), dict[str, None]()
    strings: dict[str, Method] = {}
    for run in runs:
        for protocol in run.protocols.values():
            column = f"{run.task.title} {run.data['folder']}, {protocol.name}, {protocol.headline}"
            columns.append(column)
            for label, method in run.methods.items():
                wanted = allowed(protocol, keypoints)
                if method.budget is not None and allowed(protocol, method.budget) != wanted:
                    budget = f" ({method.budget} keypoints)"
                    left_out[label.removesuffix(budget) + budget] = None
                    continue
                own = [row for row in run.rows_of(protocol.name) if row["method"] == label]
                if own:
                    found = interval(run.task, protocol, own)
                    rows.setdefault(label, {})[column] = Standing(*found)
                    if costs and method.string and label not in strings:
                        strings[label] = run.task.method(method.string, method.run_settings, "cpu")
    spent = {label: measured_cost(method) for label, method in strings.items()}
    cells = {label: [own.get(column) for column in columns] for label, own in rows.items()}
    ordered = sorted(cells, key=lambda label: -fmean(one.value for one in cells[label] if one))
    return Leaderboard(columns, {label: cells[label] for label in ordered}, spent, keypoints, list(left_out))


def measured_cost(method: Method) -> Cost:
    """Seconds and weights of a method."""
    pair = bundled_pair()
    images = [load_image(pair.image0), load_image(pair.image1)]
    for _ in range(2):  # the first time networks are loaded
        start = time.perf_counter()
        if method.pair_matcher:
            method.pair_matcher.match_images(*images)
        elif method.source is None:
            method.maps(images)
        else:
            method.match(*(method.extract(image) for image in images))
        seconds = time.perf_counter() - start
    return Cost(seconds, _bytes_of(method, set()) / 1e6)


def _bytes_of(part: object, seen: set[int]) -> int:
    """Bytes of the weights that an object holds."""
    if id(part) in seen or isinstance(part, (str, bytes, type, Store)):
        return 0
    seen.add(id(part))
    if isinstance(part, nn.Module):
        return sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
    if isinstance(part, (list, tuple)):
        return sum(_bytes_of(one, seen) for one in part)
    held: dict[str, Any] = dict(getattr(part, "__dict__", {}))
    if is_dataclass(part) and not isinstance(part, type):
        held |= {field.name: getattr(part, field.name) for field in fields(part)}
    return sum(_bytes_of(one, seen) for one in held.values())

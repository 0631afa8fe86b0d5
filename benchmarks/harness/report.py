"""Records of runs as one page of HTML that needs nothing else."""

import io
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.harness import record as records
from geomatch.benchmarks.harness.leaderboard import RESAMPLES, compare_all, leaderboard, published_rows, rank
from geomatch.benchmarks.harness.record import Run, find_runs, merge, without_folders
from geomatch.benchmarks.harness.task import Row, Task, Words
from geomatch.engine.run import grouped
from geomatch.errors import reading, require
from geomatch.files import write_whole
from geomatch.progress import progress_bar

WORST = 5  # rows listed per method and protocol
COLOURS = ["#1f6fd6", "#d1610a", "#1c8a4d", "#b3288d", "#7a5af0", "#9a7400", "#0b8a94", "#c0322f"]
"""The colours of curves; further methods have dashes."""


def write_report(paths: Sequence[Path], out: Path, keypoints: int | None = None) -> list[Path]:
    """Write ``report.html`` and ``leaderboard.csv`` of records, or folders with records, into a folder.

    The leaderboard is at a budget of ``keypoints``, by default that of most methods; there are no curves
    without matplotlib. Returns the paths. Raises GeomatchError without a record, for one of another version,
    or two definitions of one protocol.
    """
    import jinja2

    found = find_runs(paths)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = files("geomatch.benchmarks.harness").joinpath("report.html").read_text(encoding="utf-8")
    with reading(", ".join(map(str, found)), "set of records"):  # whatever was edited in them
        runs = merge(found)
        board = leaderboard(runs, keypoints)
        sections = [
            _section(run, number) for number, run in enumerate(progress_bar(runs, "report", "set"), 1)
        ]
        page = environment.from_string(template).render(
            sections=sections, colours=COLOURS, board=board, resamples=RESAMPLES
        )
        texts = {"report.html": page, "leaderboard.csv": board.csv()}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / name for name in texts]


def _section(run: Run, number: int) -> dict[str, Any]:
    return {
        "anchors": {label: f"m{number}-{place}" for place, label in enumerate(run.methods, 1)},
        "data": run.data, "task": run.task, "title": run.title,
        "skipped": grouped({name: without_folders(reason) for name, reason in run.skipped.items()}),
        "words": {label: method.words for label, method in run.methods.items()},
        "machines": sorted({"{processor}, {cores} cores".format(**r["machine"]) for r in run.records}),
        "versions": run.records[0]["versions"],
        "protocols": [_part(run, protocol) for protocol in run.protocols.values()],
    }  # fmt: skip


def _part(run: Run, protocol: Any) -> dict[str, Any]:
    rows, summaries = run.rows_of(protocol.name), run.summaries(protocol)
    by_method = {method: [r for r in rows if r["method"] == method] for method in run.methods}
    task = run.task
    columns = records.columns_of(task, summaries)
    tables = [(split, [r for r in summaries if r["split"] == split]) for split in task.splits]
    best = {
        (split, column): max((r[column] for r in own if r.get(column) is not None), default=None)
        for split, own in tables
        for column in columns
    }
    charts = []
    for split in (split for split, own in tables if own and find_spec("matplotlib")):
        parts = {m: [r for r in part if split in ("all", r["split"])] for m, part in by_method.items()}
        charts.append(draw_curves(task, protocol, parts, split))
    budgets = {label: records.allowed(protocol, method.budget) for label, method in run.methods.items()}
    most = max(budget or 0 for budget in budgets.values())
    definition = [
        (name, f"{text}; here {most}" if name == "max_keypoints" and most < int(text) else text)
        for name, text in task.definition(protocol)
    ]
    ranked = rank(task, protocol, by_method)
    comparisons = compare_all(task, protocol, {method: by_method[method] for method in ranked}, budgets)
    behind = {one.second: one for one in comparisons if one.first == next(iter(ranked))}
    return {
        "protocol": protocol, "definition": definition, "axes": task.axes(protocol),
        "columns": columns, "tables": tables, "best": best, "cell": records.cell,
        "charts": charts, "shown": [(i, m) for i, (m, part) in enumerate(by_method.items()) if part],
        "published": _published_table(published_rows(task.name, protocol.name)),
        "comparisons": comparisons,
        "ranking": [(method, value, behind.get(method)) for method, value in ranked.items()],
        "heat": _heat(run, protocol, by_method), "worst": _worst(run, protocol, by_method),
    }  # fmt: skip


def _heat(run: Run, protocol: Any, by_method: dict[str, list[Row]]) -> list[tuple[str, list[float | None]]]:
    """The headline measure per unit and method, worst units first."""
    names = dict.fromkeys(row["pair"].split()[0] for rows in by_method.values() for row in rows)
    table: dict[str, list[float | None]] = {name: [] for name in names}
    for name, rows in product(names, by_method.values()):
        own = [row for row in rows if row["pair"].split()[0] == name]
        table[name].append(run.task.statistic(protocol, run.task.values(protocol, own)) if own else None)
    return sorted(table.items(), key=lambda line: np.mean([cell for cell in line[1] if cell is not None]))


def _worst(
    run: Run, protocol: Any, by_method: dict[str, list[Row]]
) -> list[tuple[str, list[tuple[Row, Words]]]]:
    """The `WORST` rows of each method, with what stands beside them."""
    found = []
    for label, rows in by_method.items():
        if rows:
            severity = run.task.severity(protocol, run.task.values(protocol, rows))
            order = np.argsort(-severity, kind="stable")[:WORST]
            found.append((label, [(rows[i], run.task.worst(protocol, rows[i])) for i in order]))
    return found


def _published_table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells, the head first."""
    columns = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    cells = [
        [row["method"], row["split"],
         *(f"{row['measures'][name]:g}" if name in row["measures"] else "-" for name in columns),
         row["source"]]
        for row in rows
    ]  # fmt: skip
    return [["method", "split", *columns, "source"], *cells]


def draw_curves(task: Task, protocol: Any, by_method: Mapping[str, Sequence[Row]], title: str) -> str:
    """One chart as SVG, on white."""
    matplotlib = require("matplotlib", "report", "drawing the report's curves")
    figures = require("matplotlib.figure", "report", "drawing the report's curves")
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"{protocol.name} {title}", "font.size": 11}
    with matplotlib.rc_context(settings):
        figure = figures.Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        words = task.axes(protocol)
        x_end = words.start
        for index, rows in enumerate(by_method.values()):
            if not rows:
                continue  # a method keeps its colour
            style, colour = ("-", "--", ":")[index // len(COLOURS) % 3], COLOURS[index % len(COLOURS)]
            x, y = task.curve(protocol, rows)
            x_end = float(x[-1])
            steps = "steps-post" if words.steps else "default"
            axes.plot(x, y, style, drawstyle=steps, color=colour, linewidth=2)
        axes.set(xlim=(words.start, x_end), ylim=(0, 100), xlabel=words.x, ylabel=words.y, title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(linewidth=0.5, alpha=0.5)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"font(-family)?: [^;\"]*", "font: 11px system-ui, sans-serif", svg)

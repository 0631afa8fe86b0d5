"""Records of runs as a Markdown file and one page of HTML that needs nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from geomatch.benchmarks.harness import record as records
from geomatch.benchmarks.harness.charts import COLOURS, draw_curves
from geomatch.benchmarks.harness.comparison import Comparison, compare_all
from geomatch.benchmarks.harness.leaderboard import Leaderboard, leaderboard
from geomatch.benchmarks.harness.runs import Run, find_runs, merge, without_folders
from geomatch.benchmarks.harness.task import FOLDERS, Picture, Row
from geomatch.engine.run import grouped
from geomatch.errors import GeomatchError, first_line, reading
from geomatch.files import replacing
from geomatch.store import Store

WORST = 5  # rows listed per method and protocol
PICTURES = 3  # rows drawn of these, under one protocol


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of somebody's table, taken under one protocol."""

    method: str
    split: str
    measures: dict[str, float]  # by the names that our tables have; percentages, and repeatability as a share
    source: str
    note: str = ""  # what differs from the protocol, as far as the source says


@cache
def published_rows(task: str, protocol: str) -> tuple[PublishedRow, ...]:
    """Rows under one protocol of a task; none where no source was read."""
    package = files(f"geomatch.benchmarks.tasks.{FOLDERS[task]}")
    content = json.loads(package.joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(
        PublishedRow(source=group["source"], note=group.get("note", ""), **row)
        for group in content
        for row in group["rows"]
        if group["protocol"] == protocol
    )


@dataclass
class _Worst:
    pair: str
    cells: list[tuple[str, str]]
    row: Row
    image: str | None = None
    why: str | None = None


def write_report(
    paths: Sequence[Path],
    out: Path,
    data: Path | None = None,
    store: str | None = None,
    keypoints: int | None = None,
    costs: bool = False,
) -> list[Path]:
    """Write ``report.md``, ``report.html``, ``leaderboard.csv`` and ``leaderboard.tex``; return their paths.

    Args:
        paths: records, or folders with records.
        out: the folder, made if need be.
        data: the runs' folder of images, for pictures of the worst pairs.
        store: the runs' store, where it is not the folder of the record.
        keypoints, costs: of the leaderboard, see `geomatch.benchmarks.harness.leaderboard.leaderboard`.

    Raises:
        GeomatchError: without a record, for one of another version, or two definitions of one protocol.

    Without matplotlib there are no curves.
    """
    import jinja2

    found = find_runs(paths)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = files("geomatch.benchmarks.harness").joinpath("report.html").read_text(encoding="utf-8")
    with reading(", ".join(map(str, found)), "set of records"):  # whatever was edited in them
        runs = merge(found)
        board = leaderboard(runs, keypoints, costs)
        sections = [_section(run, data, store) for run in runs]
        page = environment.from_string(template).render(sections=sections, colours=COLOURS, board=board)
        texts = {"report.md": _markdown(runs, board), "report.html": page}
        texts |= {"leaderboard.csv": board.csv(), "leaderboard.tex": board.latex()}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def _section(run: Run, data: Path | None, store: str | None) -> dict[str, Any]:
    drawn = "geomatch" if "geomatch" in run.protocols else next(iter(run.protocols))
    return {
        "data": run.data, "task": run.task, "methods": list(run.methods), "skipped": _skipped(run),
        "words": {label: method.words for label, method in run.methods.items()},
        "machines": sorted({"{processor}, {cores} cores".format(**r["machine"]) for r in run.records}),
        "versions": run.records[0]["versions"], "has_pictures": data is not None,
        "protocols": [
            _part(run, p, data if p.name == drawn else None, store) for p in run.protocols.values()
        ],
    }  # fmt: skip


def _part(run: Run, protocol: Any, data: Path | None, store: str | None) -> dict[str, Any]:
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
    for split in task.splits:
        parts = {m: [r for r in part if split in ("all", r["split"])] for m, part in by_method.items()}
        if any(parts.values()) and find_spec("matplotlib"):
            charts.append(draw_curves(task, protocol, {m: part for m, part in parts.items() if part}, split))
    return {
        "protocol": protocol, "definition": task.in_words(protocol), "axes": task.axes(protocol),
        "columns": columns, "tables": tables, "best": best, "cell": records.cell, "charts": charts,
        "published": published_rows(task.name, protocol.name), "heat": _heat(run, protocol, by_method),
        "comparisons": compare_all(task, protocol, rows, _allowed(run, protocol)),
        "worst": _worst(run, protocol, by_method, data, store),
    }  # fmt: skip


def _heat(run: Run, protocol: Any, by_method: dict[str, list[Row]]) -> list[tuple[str, list[float | None]]]:
    """The headline measure per unit and method, worst units first."""
    names = dict.fromkeys(row["pair"].split()[0] for rows in by_method.values() for row in rows)
    table = []
    for name in names:
        cells: list[float | None] = []
        for rows in by_method.values():
            own = [row for row in rows if row["pair"].split()[0] == name]
            cells.append(run.task.statistic(protocol, run.task.values(protocol, own)) if own else None)
        table.append((name, cells))
    return sorted(table, key=lambda line: np.mean([cell for cell in line[1] if cell is not None]))


def _worst(
    run: Run, protocol: Any, by_method: dict[str, list[Row]], data: Path | None, store: str | None
) -> list[tuple[str, list[_Worst]]]:
    found = []
    for label, rows in by_method.items():
        if not rows:
            continue
        severity = run.task.severity(protocol, run.task.values(protocol, rows))
        order = np.argsort(-severity, kind="stable")[:WORST]
        listed = [_Worst(row["pair"], run.task.worst(protocol, row), row) for row in (rows[i] for i in order)]
        if data and run.task.draw:
            for entry in listed[:PICTURES]:
                _draw(entry, run, label, protocol, data, store)
        found.append((label, listed))
    return found


def _draw(entry: _Worst, run: Run, label: str, protocol: Any, data: Path, store: str | None) -> None:
    method = run.methods[label]
    if method.string is None:
        entry.why = f"no picture: {label} is an object, which the report does not have"
        return
    wanted = Picture(data, run.data, Store.at(store or method.folder), method.string, method.settings)
    try:
        entry.image = cast(Any, run.task.draw)(protocol, entry.row, wanted)
    except GeomatchError as error:
        entry.why = first_line(error)


def _markdown(runs: Sequence[Run], board: Leaderboard) -> str:
    blocks = ["# Report", board.markdown()]
    if board.left_out:
        blocks.append(f"At other budgets than {board.keypoints} keypoints: {', '.join(board.left_out)}.")
    for run in runs:
        count, task = len(run.data["units"]), run.task
        have = f"{count} {task.unit[count != 1]}" + (f" of {task.whole}" if task.whole else "")
        blocks.append(f"## {task.title}, {run.data['folder']}: {have}")
        if not run.data["complete"]:
            blocks.append("Not the whole release: these numbers compare with no published ones.")
        words = {label: method.words for label, method in run.methods.items()}
        names = list(dict.fromkeys(name for own in words.values() for name in own))
        rows = [[label, *(own.get(name, "-") for name in names)] for label, own in words.items()]
        blocks.append(records.markdown_table(["method", *names], rows))
        for protocol in run.protocols.values():
            blocks.append(records.table(task, run.summaries(protocol)))
            blocks.append("\n".join(f"- {name}: {text}" for name, text in task.in_words(protocol)))
            comparisons = compare_all(task, protocol, run.rows_of(protocol.name), _allowed(run, protocol))
            if comparisons:
                blocks.append("\n".join(f"- {in_words(one, task.unit[1])}" for one in comparisons))
            published = published_rows(task.name, protocol.name)
            if published:
                blocks.append(_published_table(published))
        if run.skipped:
            blocks.append("Skipped:\n\n" + "\n".join(f"- {line}" for line in _skipped(run)))
    return "\n\n".join(blocks) + "\n"


def _skipped(run: Run) -> list[str]:
    return grouped({name: without_folders(reason) for name, reason in run.skipped.items()})


def _allowed(run: Run, protocol: Any) -> dict[str, int | None]:
    return {label: records.allowed(protocol, budget) for label, budget in run.budgets.items()}


def in_words(one: Comparison, units: str) -> str:
    """A comparison as a sentence."""
    return (
        f"{one.first} minus {one.second}, {one.measure}: {one.difference:+.1f} "
        f"[{one.low:+.1f}, {one.high:+.1f}] at 95 % over {one.units} {units}: {one.verdict}"
    )


def _published_table(rows: Sequence[PublishedRow]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.measures))
    cells = [
        [row.method, row.split,
         *(f"{row.measures[name]:g}" if name in row.measures else "-" for name in columns),
         row.source + (f" ({row.note})" if row.note else "")]
        for row in rows
    ]  # fmt: skip
    return records.markdown_table(["published, on the whole release", "split", *columns, "source"], cells)

"""Records of runs as a Markdown file and one page of HTML that needs nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from geomatch.benchmarks.hpatches import record as records
from geomatch.benchmarks.hpatches.charts import COLOURS, draw_curves
from geomatch.benchmarks.hpatches.comparison import Comparison, compare_all, headline_of, pair_values
from geomatch.benchmarks.hpatches.pictures import picture
from geomatch.benchmarks.hpatches.protocols import SPLITS, Protocol, Row, summarise
from geomatch.benchmarks.hpatches.published import PublishedRow, published_rows
from geomatch.benchmarks.hpatches.runs import Run, find_runs, merge
from geomatch.benchmarks.hpatches.sequences import read_data
from geomatch.errors import GeomatchError, first_line
from geomatch.files import replacing
from geomatch.store import Store

WORST = 5
"""Pairs listed per method and protocol."""
PICTURES = 3
"""Of these drawn, under one protocol."""


@dataclass
class _Worst:
    pair: str
    value: str
    row: Row
    image: str | None = field(default=None)
    why: str | None = field(default=None)


def write_report(paths: Sequence[Path], out: Path, data: Path | None = None) -> list[Path]:
    """Write ``report.md`` and ``report.html`` into ``out``.

    Args:
        paths: records, or folders with records.
        out: folder, made if need be.
        data: the runs' folder of sequences, for pictures of the worst pairs.

    Returns:
        The files.

    Raises:
        GeomatchError: see `find_runs` and `merge`.
        MissingDependencyError: without matplotlib.
    """
    runs = merge(find_runs(paths))
    sections = [_section(run, data) for run in runs]
    out.mkdir(parents=True, exist_ok=True)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = files("geomatch.benchmarks.hpatches").joinpath("report.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(sections=sections, colours=COLOURS)
    texts = {"report.md": _markdown(runs), "report.html": page}
    for name, text in texts.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def _summaries(run: Run, protocol: Protocol) -> list[Row]:
    found = []
    for method in run.methods:
        own = [row for row in run.of(protocol.name) if row["method"] == method]
        if own:
            labels = {"protocol": protocol.name, "method": method}
            found += [{**labels, **row} for row in summarise(protocol, own)]
    return found


def _section(run: Run, data: Path | None) -> dict[str, Any]:
    drawn = "geomatch" if "geomatch" in run.protocols else next(iter(run.protocols))
    return {
        "data": run.data,
        "methods": list(run.methods),
        "skipped": run.skipped,
        "machines": sorted(
            {f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in run.records}
        ),
        "versions": run.records[0]["versions"],
        "protocols": [_part(run, p, data if p.name == drawn else None) for p in run.protocols.values()],
        "has_pictures": data is not None,
    }


def _machine(found: dict[str, Any]) -> str:
    return f"{found['processor']}, {found['cores']} cores"


def _part(run: Run, protocol: Protocol, data: Path | None) -> dict[str, Any]:
    rows, summaries = run.of(protocol.name), _summaries(run, protocol)
    by_method = {method: [r for r in rows if r["method"] == method] for method in run.methods}
    columns = records.columns_of(summaries)
    best = {
        (split, column): max((r[column] for r in own if r.get(column) is not None), default=None)
        for split in SPLITS
        for own in [[r for r in summaries if r["split"] == split]]
        for column in columns
    }
    charts = []
    for split in reversed(SPLITS):
        own = {m: [r for r in part if split in ("all", r["split"])] for m, part in by_method.items()}
        if any(own.values()):
            charts.append(draw_curves(protocol, {m: part for m, part in own.items() if part}, split))
    return {
        "protocol": protocol,
        "rules": rules(protocol),
        "columns": columns,
        "tables": [(split, [r for r in summaries if r["split"] == split]) for split in reversed(SPLITS)],
        "best": best,
        "cell": records.cell,
        "published": published_rows(protocol.name),
        "charts": charts,
        "heat": _heat(protocol, by_method),
        "comparisons": compare_all(protocol, rows),
        "worst": _worst(run, protocol, by_method, data),
    }


def rules(protocol: Protocol) -> list[tuple[str, str]]:
    """A protocol's definition in words."""
    frame = {
        "original": "original pixels",
        "short480": "short side 480 pixels",
        "crop640x480": "grey, centre crop of 640 x 480 pixels (repeatability: 320 x 240)",
    }
    found = [
        ("source", protocol.source),
        ("sequences", "116" if protocol.large else "108, without the eight largest"),
        ("frame", frame[protocol.frame]),
        ("keypoints", f"best {protocol.max_keypoints}" + (", distinct places" if protocol.unique else "")),
        ("matches", f"best {protocol.max_matches}" if protocol.max_matches else "all mutual neighbours"),
    ]
    if protocol.solver:
        seeds = f", {protocol.seeds} orders of the matches" if protocol.seeds > 1 else ""
        name, threshold = protocol.solver.split()
        limit = "" if name == "lmeds" else f", {threshold} px"
        found.append(("estimator", f"{name}{limit}{seeds}"))
    if protocol.relative_to:
        found.append(("unit", f"(short side of image 2) / {protocol.relative_to:g} pixels"))
    return found


def _heat(protocol: Protocol, by_method: dict[str, list[Row]]) -> list[tuple[str, list[float | None]]]:
    """The headline measure per sequence and method, worst sequences first."""
    statistic = headline_of(protocol)
    names = dict.fromkeys(row["pair"].split()[0] for rows in by_method.values() for row in rows)
    table = []
    for name in names:
        cells: list[float | None] = []
        for rows in by_method.values():
            own = [row for row in rows if row["pair"].split()[0] == name]
            cells.append(statistic(pair_values(protocol, own)) if own else None)
        table.append((name, cells))
    return sorted(table, key=lambda line: np.mean([cell for cell in line[1] if cell is not None]))


def _worst(
    run: Run, protocol: Protocol, by_method: dict[str, list[Row]], data: Path | None
) -> list[tuple[str, list[_Worst]]]:
    found = []
    for label, rows in by_method.items():
        if not rows:
            continue
        values = pair_values(protocol, rows).mean(axis=1)
        badness = -values if protocol.kind == "mma" else values
        order = np.argsort(-badness, kind="stable")[:WORST]
        unit = "%" if protocol.kind == "mma" else "px"
        listed = []
        for index in order:
            value = 100 * values[index] if protocol.kind == "mma" else values[index]
            shown = f"{value:.1f} {unit}" if math.isfinite(value) else _failures(rows[index])
            listed.append(_Worst(rows[index]["pair"], shown, rows[index]))
        for entry in listed[:PICTURES] if data else []:
            _draw(entry, run, label, protocol, data)
        found.append((label, listed))
    return found


def _failures(row: Row) -> str:
    errors = row["errors_px"]
    failed = sum(error is None for error in errors)
    return "no homography" + (f" in {failed} of {len(errors)} orders" if failed < len(errors) else "")


def _draw(entry: _Worst, run: Run, label: str, protocol: Protocol, data: Path | None) -> None:
    name, _, pair = entry.pair.partition(" 1-")
    ran = run.methods[label]
    sequences = {s.name: s for s in read_data(data).sequences} if data else {}
    if name not in sequences or sequences[name].fingerprint != run.data["sequences"][name]:
        entry.why = "the sequence is not in the folder given, or is another one there"
        return
    try:
        store = Store.at(ran.folder)
        entry.image = picture(sequences[name], pair, ran.text, protocol, store, ran.max_keypoints)
    except GeomatchError as error:
        entry.why = first_line(error)


def _markdown(runs: Sequence[Run]) -> str:
    blocks = ["# HPatches"]
    for run in runs:
        count = len(run.data["sequences"])
        blocks.append(f"## {run.data['folder']}: {count} of 116 sequences")
        if not run.data["complete"]:
            blocks.append("Not the whole release: these numbers compare with no published ones.")
        for protocol in run.protocols.values():
            blocks.append(records.table(_summaries(run, protocol)))
            blocks.append("\n".join(f"- {name}: {text}" for name, text in rules(protocol)))
            comparisons = compare_all(protocol, run.of(protocol.name))
            if comparisons:
                blocks.append("\n".join(f"- {in_words(one)}" for one in comparisons))
            published = published_rows(protocol.name)
            if published:
                blocks.append(_published_table(published))
        if run.skipped:
            blocks.append("Skipped:\n\n" + "\n".join(f"- {k}: {v}" for k, v in run.skipped.items()))
    return "\n\n".join(blocks) + "\n"


def in_words(one: Comparison) -> str:
    """A comparison as a sentence."""
    return (
        f"{one.first} minus {one.second}, {one.measure}: {one.difference:+.1f} "
        f"[{one.low:+.1f}, {one.high:+.1f}] at 95 % over {one.sequences} sequences: {one.verdict}"
    )


def _published_table(rows: Sequence[PublishedRow]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.measures))
    lines = ["| published, on the whole release | split | " + " | ".join([*columns, "source"]) + " |"]
    lines.append("| --- " * (3 + len(columns)) + "|")
    for row in rows:
        cells = [f"{row.measures[name]:g}" if name in row.measures else "-" for name in columns]
        source = row.source + (f" ({row.note})" if row.note else "")
        lines.append("| " + " | ".join([row.method, row.split, *cells, source]) + " |")
    return "\n".join(lines)

"""The record of a run: written, read, checked, summed up."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from geomatch.benchmarks.harness.cache import SCHEMA
from geomatch.benchmarks.harness.task import FOLDERS, Row, Task, find_task, unreadable
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, read_json, write_whole

_KEYS = {"schema", "benchmark", "data", "protocols", "methods", "settings", "skipped", "versions", "machine",
         "rows"}  # fmt: skip


def write_run(folder: Path, record: dict[str, Any]) -> Path:
    """Write ``<benchmark>-<content>.json`` and return its path; the same run has the same name."""
    keys = ("data", "protocols", "methods", "settings", "versions")
    path = folder / f"{record['benchmark']}-{digest_of([record[key] for key in keys])[:12]}.json"
    write_whole(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Where a run was measured; ``accelerator`` where there is one of CUDA."""
    file = Path("/proc/cpuinfo")  # of Linux
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found | ({"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def read_run(path: Path) -> dict[str, Any]:
    """A record from its file."""
    record = read_json(path, "record")
    if "rows" in record and record.get("schema", SCHEMA) != SCHEMA:
        found = f"a record of layout {record['schema']}, this version reads {SCHEMA}"
        raise GeomatchError(f"{path}: {found}; run again, or move it away")
    if not record.keys() >= _KEYS or record["benchmark"] not in list(FOLDERS):
        raise GeomatchError(f"{path}: not a record of geomatch benchmark")
    return record


def protocols_of(record: dict[str, Any]) -> list[Any]:
    """The definitions under which the record was taken, whatever this version's are."""
    task = find_task(record["benchmark"])
    return [task.protocol_of(values) for values in record["protocols"].values()]


def summarise_record(record: dict[str, Any]) -> list[Row]:
    """One row per method, protocol and split of a record."""
    task = find_task(record["benchmark"])
    budgets = dict.fromkeys(record["methods"], record["settings"].get("max_keypoints"))
    return [
        row
        for protocol in protocols_of(record)
        for row in summaries_of(task, protocol, budgets, record["rows"])
    ]


def summaries_of(
    task: Task, protocol: Any, budgets: Mapping[str, int | None], rows: Sequence[Row]
) -> list[Row]:
    """One row per method and split with any, under one protocol; ``budgets``: their keypoints per image."""
    found = []
    for method, budget in budgets.items():
        own = [row for row in rows if (row["protocol"], row["method"]) == (protocol.name, method)]
        own = [row for row in own if not unreadable(row)]
        if own:
            labels = {"protocol": protocol.name, "method": method, "keypoints": allowed(protocol, budget)}
            found += [
                {**labels, **row}
                for row in task.summarise(protocol, own)
                # a split that has all of the rows would say the same twice
                if row["split"] == "all" or 0 < row[task.item] < len(own)
            ]
    return found


def allowed(protocol: Any, budget: int | None) -> int | None:
    """The most keypoints per image that the protocol takes of a run with that budget."""
    own = getattr(protocol, "max_keypoints", None)
    return budget if own is None or budget is None else min(own, budget)


def unreadable_pairs(rows: Sequence[Row]) -> dict[str, str]:
    """Why methods could not be tried, by method and pairs."""
    pairs: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if reason := unreadable(row):
            pairs.setdefault((row["method"], reason), {})[row["pair"]] = None
    return {
        f"{method} on {next(iter(own))}" + (f" and {len(own) - 1} more" if len(own) > 1 else ""): reason
        for (method, reason), own in pairs.items()
    }


def table(task: Task, summaries: list[Row]) -> str:
    """In Markdown, one table per protocol, so that no number loses its protocol."""
    blocks = []
    for name in dict.fromkeys(row["protocol"] for row in summaries):
        own = [row for row in summaries if row["protocol"] == name]
        columns = columns_of(task, own)
        first = ["method", "keypoints", "split", task.item, "failures"]
        if all(row["keypoints"] is None for row in own):
            first.remove("keypoints")
        rows = [[*(str(row[key]) for key in first), *(cell(row, key) for key in columns)] for row in own]
        blocks.append(f"### {name}\n\n{markdown_table([*first, *columns], rows)}")
    return "\n\n".join(blocks)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells in Markdown."""
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, *rows))
    lines = ["| " + " | ".join(cells) + " |" for cells in escaped]
    return "\n".join([lines[0], "| --- " * len(head) + "|", *lines[1:]])


def columns_of(task: Task, summaries: list[Row]) -> list[str]:
    """The measures that a table shows."""
    first = ("protocol", "method", "keypoints", "split", task.item, "failures")
    shown = (key for row in summaries for key in row if key not in first and not key.endswith("spread"))
    return [key for key in dict.fromkeys(shown) if task.shown(key)]


def cell(row: Row, column: str) -> str:
    """A measure as a table shows it: percentages with one digit, and half the range of seeds."""
    value, spread = row.get(column), row.get(f"{column} spread")
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    digits = 1 if "@" in column or column[0] in "JF" else 3
    return f"{value:.{digits}f}" + (f" ± {spread / 2:.1f}" if spread and spread >= 0.1 else "")

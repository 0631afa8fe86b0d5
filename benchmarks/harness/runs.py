"""Records of runs, found and put together, so that one report shows them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.record import protocols_of, read_run, summaries_of
from geomatch.benchmarks.harness.task import FOLDERS, Row, Task, find_task
from geomatch.errors import GeomatchError


@dataclass(frozen=True)
class RecordedMethod:
    """A method as one record has it."""

    text: str  # its string, or the user's name for it
    folder: Path  # the folder of the record and its caches
    settings: dict[str, Any]  # the record's
    key: tuple[Any, ...] = field(repr=False)  # all that decides its numbers


@dataclass(frozen=True)
class Run:
    """Records on the same data put together."""

    task: Task
    data: dict[str, Any]
    protocols: dict[str, Any]
    methods: dict[str, "RecordedMethod"]
    """By label: the method's string, with a number where it was run in two ways."""
    rows: list[Row]  # with labels as methods
    skipped: dict[str, str]
    records: list[dict[str, Any]]

    def rows_of(self, protocol: str) -> list[Row]:
        """The rows under one protocol."""
        return [row for row in self.rows if row["protocol"] == protocol]

    def summaries(self, protocol: Any) -> list[Row]:
        """One row per method and split under one protocol."""
        return summaries_of(self.task, protocol, self.methods, self.rows)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The record files: those given, and ``<benchmark>-*.json`` in folders given."""
    found: list[Path] = []
    for path in paths:
        own = [path]
        if path.is_dir():
            own = [file for name in FOLDERS for file in sorted(path.glob(f"{name}-*.json"))]
        if not own or not own[0].is_file():
            raise GeomatchError(f"{path}: no record of a run there (hpatches-....json, for one)")
        found += own
    return list(dict.fromkeys(found))


def merge(paths: Sequence[Path]) -> list[Run]:
    """Records grouped by their data; a method that was run in two ways has two labels."""
    runs: dict[str, Run] = {}
    for path in paths:
        found = read_run(path)
        key = json.dumps([found["benchmark"], found["data"]["units"]], sort_keys=True)
        task = find_task(found["benchmark"])
        run = runs.setdefault(key, Run(task, found["data"], {}, {}, [], {}, []))
        run.records.append(found)
        run.skipped.update(found["skipped"])
        for protocol in protocols_of(found):
            known = run.protocols.setdefault(protocol.name, protocol)
            if known != protocol:
                raise GeomatchError(
                    f"{path}: its protocol {protocol.name} is another version; report it alone"
                )
        labels = {text: _label(run, found, text, path) for text in found["methods"]}
        have = {(row["protocol"], row["method"]) for row in run.rows}
        for row in found["rows"]:
            if (row["protocol"], labels[row["method"]]) not in have:
                run.rows.append({**row, "method": labels[row["method"]]})
    return list(runs.values())


def _label(run: Run, found: dict[str, Any], text: str, path: Path) -> str:
    """The method's string without folders, with a number when another run's method of that string differs."""
    key = found["methods"][text], found["settings"], found["versions"]
    short = "+".join(re.sub(r":.*/", ":", part) for part in text.split("+"))
    label, number = short, 1
    while label in run.methods and run.methods[label].key != key:
        number += 1
        label = f"{short} ({number})"
    run.methods.setdefault(label, RecordedMethod(text, path.parent, found["settings"], key))
    return label

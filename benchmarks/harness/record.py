"""Records of runs: written, read, checked, summed up, and put together, so that one report shows them."""

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geomatch.benchmarks.harness.task import FOLDERS, SCHEMA, Row, Task, find_task, unreadable
from geomatch.benchmarks.methods.strings import named
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
    """Why methods could not be tried, by method and pair."""
    return {f"{row['method']} on {row['pair']}": reason for row in rows if (reason := unreadable(row))}


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


@dataclass(frozen=True)
class RecordedMethod:
    """A method as one record has it."""

    string: str | None  # what it was made of; None for an object
    key: dict[str, Any]  # `Method.key`
    settings: dict[str, Any]  # the record's, as are the versions
    versions: dict[str, str]

    @property
    def budget(self) -> int | None:
        """Keypoints per image, at most; None for dense features."""
        return self.settings.get("max_keypoints")

    @property
    def words(self) -> dict[str, str]:
        """What decides its numbers, as far as words say it, and a checksum of all."""
        types = sorted(set(re.findall(r"torch\.(\w+)", json.dumps(self.key))))
        found = {"made of": next(iter(named([self.string]))) if self.string else "an object"}
        found |= {} if self.budget is None else {"keypoints": f"{self.budget} keypoints"}
        found |= {"device": self.settings["device"], "precision": ", ".join(types) or "-"}
        packages = ("geomatch-dift", "torch", "opencv-python")
        found["versions"] = ", ".join(f"{name} {self.versions[name]}" for name in packages)
        return found | {"checksum": digest_of([self.key, self.settings, self.versions])[:8]}


def without_folders(text: str) -> str:
    """The text with files instead of paths.

    >>> without_folders("aliked:/home/me/a.pth: no such file, see https://host/a/b")
    'aliked:a.pth: no such file, see https://host/a/b'
    """
    return re.sub(r"(?<![\w/])/(?:[^\s/:,;]+/)+", "", text)


@dataclass(frozen=True)
class Run:
    """Records on the same data put together."""

    task: Task
    data: dict[str, Any]
    protocols: dict[str, Any]
    methods: dict[str, RecordedMethod]
    """By label: the method's name, with what differs where it was run in several ways."""
    rows: list[Row]  # with labels as methods
    skipped: dict[str, str]
    records: list[dict[str, Any]]

    def rows_of(self, protocol: str) -> list[Row]:
        """The rows under one protocol, without those whose files could not be read."""
        return [row for row in self.rows if row["protocol"] == protocol and not unreadable(row)]

    def summaries(self, protocol: Any) -> list[Row]:
        """One row per method and split under one protocol."""
        budgets = {label: method.budget for label, method in self.methods.items()}
        return summaries_of(self.task, protocol, budgets, self.rows)

    @property
    def title(self) -> str:
        """The set, its folder and its split."""
        return ", ".join(filter(None, (self.task.title, self.data["folder"], self.data["split"])))


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The record files: those given, and ``<benchmark>-*.json`` in folders given."""
    found: list[Path] = []
    for path in paths:
        inside = [file for name in FOLDERS for file in sorted(path.glob(f"{name}-*.json"))]
        own = inside if path.is_dir() else [path]
        if not own or not own[0].is_file():
            raise GeomatchError(f"{path}: no record of a run there (hpatches-....json, for one)")
        found += own
    return list(dict.fromkeys(found))


def merge(paths: Sequence[Path]) -> list[Run]:
    """Records grouped by their data; a method that was run in several ways has as many labels."""
    records = [(path, read_run(path)) for path in paths]
    methods = {
        (number, name): RecordedMethod(
            entry["string"], {part: entry[part] for part in entry if part != "string"},
            found["settings"], found["versions"])
        for number, (path, found) in enumerate(records)
        for name, entry in found["methods"].items()
    }  # fmt: skip
    labels = _labels(methods)
    runs: dict[str, Run] = {}
    rows: dict[str, dict[tuple[str, ...], Row]] = {}
    for number, (path, found) in enumerate(records):
        key = json.dumps([found["benchmark"], found["data"]["units"]], sort_keys=True)
        task = find_task(found["benchmark"])
        run = runs.setdefault(key, Run(task, found["data"], {}, {}, [], {}, []))
        run.records.append(found)
        run.skipped.update(found["skipped"])
        for protocol in protocols_of(found):
            known = run.protocols.setdefault(protocol.name, protocol)
            if known != protocol:
                raise GeomatchError(f"{path}: another version of {protocol.name}; report it alone")
        for name in found["methods"]:
            run.methods.setdefault(labels[number, name], methods[number, name])
        own = rows.setdefault(key, {})
        for row in found["rows"]:
            place = row["protocol"], labels[number, row["method"]], row["pair"]
            if place not in own or unreadable(own[place]):
                own[place] = {**row, "method": place[1]}
    for key, run in runs.items():
        run.rows.extend(rows[key].values())
        for found in run.records:  # skipped in one run, and done in another
            done = {f"{row['method']} under {row['protocol']}" for row in found["rows"]}
            done |= found["methods"].keys() | unreadable_pairs(found["rows"]).keys()
            for name in run.skipped.keys() & done:
                del run.skipped[name]
        run.skipped.update(unreadable_pairs(run.rows))
    return list(runs.values())


def _labels(methods: Mapping[tuple[int, str], RecordedMethod]) -> dict[tuple[int, str], str]:
    """A name alone, or with all that differs between the methods of that name, on whatever data."""
    words = {place: method.words for place, method in methods.items()}
    found = {}
    for place, own in words.items():
        alike = {other["checksum"]: other for (_, name), other in words.items() if name == place[1]}.values()
        differs = [part for part in own if any(other.get(part) != own[part] for other in alike)][:-1]
        same = sum(all(other.get(part) == own[part] for part in differs) for other in alike)
        said = [own[part] for part in differs if own[part] != "-"] + ([own["checksum"]] if same > 1 else [])
        found[place] = place[1] + (f" ({'; '.join(said)})" if said else "")
    return found

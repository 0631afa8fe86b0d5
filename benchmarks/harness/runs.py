"""Records of runs, found and put together, so that one report shows them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.record import protocols_of, read_run, summaries_of, unreadable_pairs
from geomatch.benchmarks.harness.task import FOLDERS, Row, Task, find_task, unreadable
from geomatch.benchmarks.methods.strings import named
from geomatch.errors import GeomatchError
from geomatch.files import digest_of


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

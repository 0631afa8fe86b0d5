"""Records of runs, found and put together, so that one report shows them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.record import protocols_of, read_run, summaries_of
from geomatch.benchmarks.harness.task import FOLDERS, Row, Settings, Task, find_task, unreadable
from geomatch.errors import GeomatchError
from geomatch.files import digest_of


@dataclass(frozen=True)
class RecordedMethod:
    """A method as one record has it."""

    string: str | None  # what it was made of; None for an object
    folder: Path  # the folder of the record and its caches
    settings: dict[str, Any]  # the record's
    key: tuple[Any, ...] = field(repr=False)  # all that decides its numbers

    @property
    def budget(self) -> int | None:
        """Keypoints per image, at most; None for dense features."""
        return self.settings.get("max_keypoints")

    @property
    def run_settings(self) -> Settings:
        """The settings of the run."""
        return Settings() if self.budget is None else Settings(self.budget)

    @property
    def words(self) -> dict[str, str]:
        """What decides its numbers, as far as words say it, and a checksum of all."""
        identity, settings, versions = self.key
        types = sorted(set(re.findall(r"torch\.(\w+)", json.dumps(identity))))
        found = {"made of": without_folders(self.string or "an object")}
        found |= {} if self.budget is None else {"keypoints": f"{self.budget} keypoints"}
        found |= {"device": settings["device"], "precision": ", ".join(types) or "-"}
        packages = ("geomatch-dift", "torch", "opencv-python")
        found["versions"] = ", ".join(f"{name} {versions[name]}" for name in packages)
        return found | {"checksum": digest_of(self.key)[:8]}


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
    methods: dict[str, "RecordedMethod"]
    """By label: the method's name, with what differs where it was run in several ways."""
    rows: list[Row]  # with labels as methods
    skipped: dict[str, str]
    records: list[dict[str, Any]]

    def rows_of(self, protocol: str) -> list[Row]:
        """The rows under one protocol, without those whose files could not be read."""
        return [row for row in self.rows if row["protocol"] == protocol and not unreadable(row)]

    def summaries(self, protocol: Any) -> list[Row]:
        """One row per method and split under one protocol."""
        return summaries_of(self.task, protocol, self.budgets, self.rows)

    @property
    def budgets(self) -> dict[str, int | None]:
        """Keypoints per image, at most, of each method."""
        return {label: method.budget for label, method in self.methods.items()}


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
    for run in runs.values():
        have = {(row["protocol"], row["method"]) for row in run.rows}
        done = run.methods.keys() | {f"{method} under {protocol}" for protocol, method in have}
        for name in run.skipped.keys() & done:  # skipped in one run, and done in another
            del run.skipped[name]
    return list(runs.values())


def _label(run: Run, found: dict[str, Any], name: str, path: Path) -> str:
    """The method's name, with what differs when another run's method of that name is another one."""
    entry = found["methods"][name]
    identity = {part: value for part, value in entry.items() if part != "string"}
    key = identity, found["settings"], found["versions"]
    method = RecordedMethod(entry["string"], path.parent, found["settings"], key)
    label, number = name, 1
    while label in run.methods and run.methods[label].key != key:
        words, others = method.words, run.methods[name].words
        different = [words[part] for part in words if part != "checksum" and words[part] != others.get(part)]
        different += [words["checksum"]] if number > 1 or not different else []
        label, number = f"{name} ({'; '.join(different)})", number + 1
    run.methods.setdefault(label, method)
    return label

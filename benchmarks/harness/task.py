"""A task: a kind of evaluation on one data set, from its units to its tables and charts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.methods import Method, create_dense_method, create_method
from geomatch.files import digest_of
from geomatch.provenance import versions
from geomatch.store import Store

SCHEMA = 5  # version of the record's layout and of what is cached; part of every key
Row = dict[str, Any]
"""A row of a record; ``pair`` begins with the name of its unit, ``reason`` says why it failed, if it did."""
UNREADABLE = "unreadable: "
"""Begins the ``reason`` of a row whose files could not be read: the run names it as skipped, it counts
neither for nor against a method, and the next run tries it again."""
Words = list[tuple[str, str]]  # headings, and what stands there
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # thresholds, and percentages within them
Values = NDArray[np.float64]  # (rows, ...), from `Task.values`


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the numbers of a run besides data, protocols and methods."""

    max_keypoints: int = 2000
    """Keypoints per image, at most; protocols take the best of them."""
    split: str | None = None
    """The data set's split, where it has several; None takes the one that is reported."""


@dataclass(frozen=True)
class Entry:
    """A method in a run."""

    method: Method
    key: dict[str, Any]  # `Method.key`
    string: str | None = None  # what the method was made of, if that was a string


class Evaluation(Protocol):
    """A method on one unit, under any protocols."""

    def rows(self, protocol: Any) -> list[Row]:
        """What the protocol measures, without names of protocol and method."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Words of a chart."""

    title: str
    x: str
    y: str
    steps: bool = True  # True if the curve is level between its points
    start: float = 0.0  # the least x


@dataclass(frozen=True, slots=True)
class Task:
    """How methods are evaluated on one data set, and how its rows are summed up and shown.

    A protocol is a frozen dataclass of everything that decides a number, with ``name``, ``version`` (counts
    its changes), ``source`` (who defined it) and ``headline``, the measure by which methods are compared. A
    unit is what is evaluated alone (a sequence, a category, a video), with ``name``, without spaces, and
    ``fingerprint``, a SHA-256 of its images and annotations.
    """

    name: str  # the command's, and the record's
    title: str
    unit: tuple[str, str]  # what a unit is called, one and several
    item: str  # what a row is, in plural
    whole: int | Mapping[str, int]  # units of the release, perhaps by split; 0 where there is none
    read: Callable[[Path, str | None], DataSet[Any]]  # of a split, or of the one that is reported
    protocols: Mapping[str, Any]
    evaluation: Callable[[Any, Entry, Store], Evaluation]  # on a unit; caches features
    measures: Callable[[Any, Sequence[Row]], Row]  # of one method's rows, at least one
    values: Callable[[Any, Sequence[Row]], Values]  # what the headline is a statistic of
    statistic: Callable[[Any, Values], float]  # the headline measure of such values, in percent
    severity: Callable[[Any, Values], NDArray[np.float64]]  # (rows,) larger for worse
    worst: Callable[[Any, Row], Words]  # headings and cells of a row among the worst
    axes: Callable[[Any], Axes]
    curve: Callable[[Any, Sequence[Row]], Curve]
    notes: Callable[[Any], Words] = lambda protocol: []  # what a protocol's fields do not say
    splits: tuple[str, ...] = ("all",)  # those with a table of their own in a report, in its order
    dense: bool = True  # True if methods compare feature maps of whole images, and need no keypoints
    covers: Callable[[Any, Any], bool] = lambda protocol, unit: True  # True if the protocol has that unit
    undefined: Callable[[Any, Method], str | None] = lambda protocol, method: None  # why it is not
    shown: Callable[[str], bool] = lambda measure: True  # True if a measure is in tables; records have all
    create: Callable[[str, Settings, str], Method] | None = None  # a method from its string, if not as usual

    def method(self, text: str, settings: Settings, device: str) -> Method:
        """A method from its string, for a device."""
        if self.create:
            return self.create(text, settings, device)
        if self.dense:
            return create_dense_method(text, device)
        return create_method(text, settings.max_keypoints, device)

    def summarise(self, protocol: Any, rows: Sequence[Row]) -> list[Row]:
        """One row per split of one method's: the number of items, failures, and measures, if it has any."""
        named = set(self.splits) - {"all"} or {row["split"] for row in rows} - {"all"}
        parts = {split: [row for row in rows if row["split"] == split] for split in sorted(named)}
        parts["all"] = list(rows)
        found = []
        for split, own in parts.items():
            failures = sum(row["reason"] is not None for row in own)
            numbers = {"split": split, self.item: len(own), "failures": failures}
            found.append(numbers | (self.measures(protocol, own) if own else {}))
        return found

    def definition(self, protocol: Any) -> Words:
        """The fields of a protocol that decide its numbers."""
        named = [field.name for field in fields(protocol) if field.name not in ("name", "version")]
        values = [(name, getattr(protocol, name)) for name in named]
        shown = [(name, _words(value)) for name, value in values if value not in (None, False, (), "")]
        return shown + self.notes(protocol)

    def find_protocols(self, names: str) -> list[Any]:
        """Protocols of names separated by commas, or ``all``; raises ValueError for a name that is none."""
        wanted = list(self.protocols) if names == "all" else list(dict.fromkeys(names.split(",")))
        unknown = [name for name in wanted if name not in self.protocols]
        if unknown:
            raise ValueError(
                f"unknown protocol {unknown[0]!r}; choose from: {', '.join(self.protocols)}, all"
            )
        return [self.protocols[name] for name in wanted]

    def protocol_of(self, values: Mapping[str, Any]) -> Any:
        """A protocol from the fields that a record has of it."""
        kind = type(next(iter(self.protocols.values())))
        return kind(**{field.name: _tuples(values[field.name]) for field in fields(kind)})

    def amount(self, count: int, split: str | None) -> str:
        """That many units in words, and of how many of the release's split."""
        whole = self.whole if isinstance(self.whole, int) else self.whole[str(split)]
        return f"{count} of {whole} {self.unit[1]}" if whole else f"{count} {self.unit[count != 1]}"

    def warning(self, data: DataSet[Any]) -> str | None:
        """Why numbers from there compare with no others, in a line; None for the whole release."""
        if data.complete:
            return None
        count = self.amount(len(data.units), data.split)
        text = (
            f"this is not the whole of {self.title} ({count}): numbers are not comparable with published ones"
        )
        return f"{text}; missing: {data.missing}" if data.missing else text


def by_name(*protocols: Any) -> dict[str, Any]:
    """The protocols of a task, in this order."""
    return {protocol.name: protocol for protocol in protocols}


FOLDERS = {"hpatches": "homography", "evd": "homography", "homogr": "homography", "oxford": "homography",
           "pairs": "homography", "wxbs": "epipolar", "megadepth": "pose", "scannet": "pose", "pose": "pose",
           "spair": "semantic", "willow": "semantic", "cub": "semantic", "davis": "temporal",
           "jhmdb": "temporal", "sfm": "sfm"}  # fmt: skip
"""Where the tasks are: the folders below ``geomatch.benchmarks.tasks``, each with `TASKS` in ``task.py``."""


def key_of(*parts: object) -> str:
    """SHA-256 of all that decides a cached object, and of the versions of the packages."""
    return digest_of([SCHEMA, *parts, versions("pycolmap")])


def find_task(name: str) -> Task:
    """The task of that name."""
    if name not in FOLDERS:
        raise ValueError(f"unknown task {name!r}; choose from: {', '.join(FOLDERS)}")
    task: Task = import_module(f"geomatch.benchmarks.tasks.{FOLDERS[name]}.task").TASKS[name]
    return task


def unreadable(row: Row) -> str:
    """Why its files could not be read, or its method failed on them; nothing for any other row."""
    reason = str(row["reason"])
    return reason.removeprefix(UNREADABLE) if reason.startswith(UNREADABLE) else ""


def threshold_of(measure: str) -> float:
    """The number after the @ of a measure's name.

    >>> threshold_of("PCK@0.1 per image")
    0.1
    """
    return float(measure.partition("@")[2].split()[0])


def _words(value: Any) -> str:
    return ", ".join(map(_words, value)) if isinstance(value, tuple) else str(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value

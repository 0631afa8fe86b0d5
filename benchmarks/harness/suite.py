"""What a kind of data set brings: how its units are evaluated, and how its rows are summed up and shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from geomatch.store import Store

AnyRules = TypeVar("AnyRules")
Row = dict[str, Any]
"""Of a record; ``pair`` begins with the name of its unit, ``reason`` says why it failed, if it did."""
Statistic = Callable[[NDArray[np.float64]], float]
"""From a `Suite.values` array to the headline measure in percent."""


class Rules(Protocol):
    """A protocol: a frozen dataclass of everything that decides a number."""

    @property
    def name(self) -> str:
        """Of the protocol."""
        ...

    @property
    def version(self) -> int:
        """Counts its changes."""
        ...

    @property
    def source(self) -> str:
        """Whose rules."""
        ...

    @property
    def headline(self) -> str:
        """The measure by which methods are compared."""
        ...


class Unit(Protocol):
    """A part of a data set that is evaluated alone: a sequence, a category, a video."""

    @property
    def name(self) -> str:
        """Without spaces."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its images and annotations."""
        ...


class Evaluation(Protocol):
    """One unit with one method, under any number of protocols; made anew by every worker."""

    def extract(self, rules: Any) -> None:
        """Make and keep the features, several images at a time, if they are kept at all."""
        ...

    def rows(self, rules: Any) -> list[Row]:
        """What the protocol measures, without the names of protocol and method."""
        ...


class Evaluator(Protocol):
    """How methods work on the units of one kind of data set. It is pickled and travels to workers."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides numbers besides methods, protocols and data, as JSON can hold it."""
        ...

    def identity(self, text: str) -> dict[str, Any]:
        """All that decides the numbers of the method of that string, as JSON can hold it.

        Raises:
            GeomatchError: when weights or packages are missing.
            ValueError: when there is no such method.
        """
        ...

    def covers(self, text: str, rules: Any, unit: Any) -> bool:
        """Whether the protocol has that unit."""
        ...

    def undefined(self, text: str, rules: Any) -> str | None:
        """Why the protocol is not defined for the method; None when it is."""
        ...

    def begin(self, text: str, identity: dict[str, Any], unit: Any, store: Store) -> Evaluation:
        """Start on a unit."""
        ...


@dataclass(frozen=True, slots=True)
class Axes:
    """Words of a chart."""

    title: str
    x: str
    y: str
    steps: bool = True
    """Whether the curve is level between its points, not a line."""
    start: float = 0.0
    """Of the x axis."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture of a row needs."""

    data: Path
    """The folder of the data set."""
    split: str | None
    """Of the data set, where it has several."""
    fingerprints: dict[str, str]
    """Of the run's units."""
    store: Store
    """The run's."""
    method: str
    settings: dict[str, Any]
    """`Evaluator.settings` of the run."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One kind of data set, as records and reports know it."""

    name: str
    """Of the command, and of records."""
    title: str
    """For people."""
    unit: tuple[str, str]
    """What a unit is called, one and several."""
    item: str
    """What a row is, in plural."""
    whole: str
    """What the release has, such as ``116 sequences``."""
    package: str
    """With ``published.json``."""
    splits: tuple[str, ...]
    """Those with a table of their own in a report, in its order."""
    rules_of: Callable[[dict[str, Any]], Any]
    """A protocol from its fields."""
    in_words: Callable[[Any], list[tuple[str, str]]]
    """A protocol's definition."""
    summarise: Callable[[Any, Sequence[Row]], list[Row]]
    """One row per split of one method's rows: ``split``, the number of items, ``failures`` and measures."""
    values: Callable[[Any, Sequence[Row]], NDArray[np.float64]]
    """(rows, k) what the headline is a statistic of."""
    statistic: Callable[[Any], Statistic]
    """Of the headline."""
    badness: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]]
    """(rows,) of values, larger for worse."""
    worst: Callable[[Any, Row], list[tuple[str, str]]]
    """Headings and cells of a row among the worst."""
    axes: Callable[[Any], Axes]
    curve: Callable[[Any, Sequence[Row]], tuple[NDArray[np.float64], NDArray[np.float64]]]
    """Thresholds, and percentages within them."""
    shown: Callable[[str], bool] = lambda measure: True
    """Whether a measure is in tables; records have all."""
    draw: Callable[[Any, Row, Picture], str] | None = None
    """A JPEG as a data URL; raises GeomatchError with the reason when there is none."""
    caption: str = ""
    """Of such a picture."""

    def overall(self, rules: Any, rows: Sequence[Row]) -> dict[str, Any]:
        """Of all rows of one method: their number, the measures, and the number of failures."""
        found = {key: value for key, value in self.summarise(rules, rows)[-1].items() if key != "split"}
        return found | {"failures": found.pop("failures")}


MODULES = {
    "hpatches": "geomatch.benchmarks.tasks.homography.suite",
    "spair": "geomatch.benchmarks.tasks.semantic.suite",
    "willow": "geomatch.benchmarks.tasks.semantic.suite",
    "cub": "geomatch.benchmarks.tasks.semantic.suite",
    "davis": "geomatch.benchmarks.tasks.temporal.suite",
    "jhmdb": "geomatch.benchmarks.tasks.temporal.suite",
}
"""Where the suites are, by name; each has ``SUITES``."""


def chosen(known: Mapping[str, AnyRules], names: str) -> list[AnyRules]:
    """Protocols of a list of names separated by commas; ``all`` is every one.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    wanted = list(known) if names == "all" else list(dict.fromkeys(names.split(",")))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"unknown protocol {unknown[0]!r}; choose from: {', '.join(known)}, or all")
    return [known[name] for name in wanted]


def threshold_of(measure: str) -> float:
    """The number after the @ of a measure's name.

    >>> threshold_of("PCK@0.1 per image")
    0.1
    """
    return float(measure.partition("@")[2].split()[0])


def find_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        KeyError: when there is none.
    """
    suite: Suite = import_module(MODULES[name]).SUITES[name]
    return suite

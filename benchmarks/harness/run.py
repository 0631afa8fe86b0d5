"""Protocols times methods over the units of a data set, with everything that is done kept.

Two stages, both kept: features once per image, then rows once per unit,
protocol and method. The name of a kept object is the SHA-256 of all that
decides its content (pixels, weights, settings, versions), so that nothing
old is ever taken for something new, and several processes may share a store.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.keys import SCHEMA
from geomatch.benchmarks.harness.machine import machine
from geomatch.benchmarks.harness.record import summarise_record, write_run
from geomatch.benchmarks.harness.suite import Evaluation, Evaluator, Row, Suite, Unit
from geomatch.engine import Engine, FailedItem, Work
from geomatch.engine.run import grouped
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, GeomatchError, first_line
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions
from geomatch.store import Manifest, Store

KIND = "rows"
"""Of the rows in the store."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run found."""

    path: Path
    """The record."""
    record: dict[str, Any]
    """``record.schema.json`` beside this module says what it holds."""
    computed: int
    """Units x protocols x methods that were not on disk."""

    def summaries(self) -> list[Row]:
        """One row per method, protocol and split, computed from the record's rows."""
        return summarise_record(self.record)


def run_suite(
    suite: Suite,
    data: DataSet[Unit],
    protocols: Sequence[Any],
    methods: Sequence[str],
    evaluator: Evaluator,
    out: Path,
    engine: Engine,
    store: Store | str | os.PathLike[str] | None = None,
    ahead: bool = False,
    progress: bool = True,
    skipped: dict[str, str] | None = None,
    need: Need = "processor",
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        suite: of the data set.
        data: with an absolute folder, since workers may run elsewhere.
        protocols: the suite's.
        methods: strings that the evaluator understands; one whose weights or packages are missing is
            skipped with the reason.
        evaluator: of the suite.
        out: folder of records.
        engine: who does the work, within its ``with`` statement.
        store: of features and rows: a folder, or a URL of fsspec; None takes ``out``.
        ahead: make the features of all units first, as accelerators like it.
        progress: show a bar.
        skipped: what was left out already, with the reason.
        need: of the evaluation, when it runs a network that no features were made ahead for.

    Returns:
        The record, written as ``out/<suite>-....json``.

    Raises:
        GeomatchError: when there is no method to evaluate, or something could not be done after several
            tries; what was done is kept.
        ValueError: for methods that are none.
    """
    usable: dict[str, dict[str, Any]] = {}
    skipped = {**data.broken, **(skipped or {})}
    for text in methods:
        try:
            usable[text] = evaluator.identity(text)
        except GeomatchError as error:
            skipped[text] = first_line(error)
            continue
        for rules in protocols:
            reason = evaluator.undefined(text, rules)
            if reason is not None:
                skipped[f"{text} under {rules.name}"] = reason
    if not usable or not protocols:
        raise GeomatchError("nothing can run: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    where = store if isinstance(store, Store) else Store.at(store or out)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(unit, text, identity, tuple(protocols), where, evaluator)
        for text, identity in usable.items()
        for unit in data.units
    ]
    manifest = Manifest.start(
        where,
        suite.name,
        str(data.folder),
        {"protocols": [asdict(rules) for rules in protocols], "methods": usable, **evaluator.settings},
        digest_of([unit.fingerprint for unit in data.units]),
    )
    keys = tuple(dict.fromkeys(job.key(rules) for job in jobs for rules in job.wanted()))
    manifest = manifest.saved(
        where, names=tuple(job.name for job in jobs), objects={KIND: keys}, failed=skipped
    )
    work = Work(engine, progress)
    rows, computed = _evaluated(jobs, work, suite, Evaluating(need), ahead)
    manifest.saved(where, retries=work.retries, complete=True)
    record = {
        "schema": SCHEMA,
        "benchmark": suite.name,
        "data": {
            "folder": data.folder.resolve().name,
            "split": data.split,
            "units": {unit.name: unit.fingerprint for unit in data.units},
            "complete": data.complete,
        },
        "protocols": {rules.name: asdict(rules) for rules in protocols},
        "methods": usable,
        "settings": evaluator.settings,
        "skipped": skipped,
        "versions": versions(),
        "machine": machine(),
        "rows": [row for own in rows for row in own],
    }
    return RunResult(write_run(out, record), record, computed)


@dataclass(frozen=True)
class Job:
    """One unit with one method, under all protocols."""

    unit: Unit
    text: str
    identity: dict[str, Any]
    protocols: tuple[Any, ...]
    store: Store
    evaluator: Evaluator

    @property
    def name(self) -> str:
        """For the user."""
        return f"{self.text} on {self.unit.name}"

    def begin(self) -> Evaluation:
        """The evaluation of the unit."""
        return self.evaluator.begin(self.text, self.identity, self.unit, self.store)

    def wanted(self) -> list[Any]:
        """Protocols that have this unit and are defined for the method."""
        return [
            rules
            for rules in self.protocols
            if self.evaluator.undefined(self.text, rules) is None
            and self.evaluator.covers(self.text, rules, self.unit)
        ]

    def key(self, rules: Any) -> str:
        """Of the rows."""
        return digest_of([SCHEMA, asdict(rules), self.identity, self.unit.fingerprint, versions()])

    def kept(self) -> list[Row] | None:
        """The rows of all protocols, if all are in the store."""
        rows: list[Row] = []
        for rules in self.wanted():
            own = self.stored(rules)
            if own is None:
                return None
            rows += own
        return rows

    def stored(self, rules: Any) -> list[Row] | None:
        """The rows of one protocol, if they are in the store."""
        key = self.key(rules)
        try:
            text = unpack_arrays(self.store.read(KIND, key), key, KIND, ("rows",))["rows"]
        except (KeyError, DamagedError):  # made, or made again
            return None
        rows: list[Row] = json.loads(str(text))
        return [{**row, "method": self.text} for row in rows]  # one method may be written in two ways


@dataclass(frozen=True, slots=True)
class Extracting:
    """The task: features of a unit, a batch of images at a time, for `Evaluating` to find."""

    need: Need = "large network"

    def start(self) -> Callable[[Sequence[Job]], list[str]]:
        """See `Task.start`; results are names."""
        return lambda block: [_extract(job) for job in block]


@dataclass(frozen=True, slots=True)
class Evaluating:
    """The task: the rows of a unit under all protocols, and how many protocols had to be computed."""

    need: Need = "processor"

    def start(self) -> Callable[[Sequence[Job]], list[tuple[list[Row], int]]]:
        """See `Task.start`."""
        return lambda block: [_evaluate(job) for job in block]


def _evaluated(
    jobs: Sequence[Job], work: Work, suite: Suite, evaluating: Evaluating, ahead: bool
) -> tuple[list[list[Row]], int]:
    """The rows of each job, and the number of computed protocols."""
    unit = suite.unit[0]
    rows = [job.kept() for job in jobs]
    todo = [[job] for job, own in zip(jobs, rows, strict=True) if own is None]
    lost: dict[str, str] = {}
    if ahead:
        for job, extracted in work.results(Extracting(), todo, "features", unit):
            if isinstance(extracted, FailedItem):
                lost[job.name] = extracted.reason
        todo = [block for block in todo if block[0].name not in lost]
    place = {id(job): index for index, job in enumerate(jobs)}
    computed = 0
    for job, result in work.results(evaluating, todo, suite.name, unit, len(jobs) - len(todo)):
        if isinstance(result, FailedItem):
            lost[job.name] = result.reason
        else:
            rows[place[id(job)]], count = result
            computed += count
    if lost:
        raise GeomatchError(
            f"not done after several tries: {'; '.join(grouped(lost))}; what was done is kept: run again"
        )
    return [own for own in rows if own is not None], computed


def _extract(job: Job) -> str:
    """Make the features of a job."""
    evaluation = job.begin()
    for rules in job.wanted():
        if not job.store.has(KIND, job.key(rules)):
            evaluation.extract(rules)
    return job.name


def _evaluate(job: Job) -> tuple[list[Row], int]:
    """The rows of all protocols, and how many protocols had to be computed."""
    evaluation = job.begin()
    rows: list[Row] = []
    computed = 0
    for rules in job.wanted():
        own = job.stored(rules)
        if own is None:
            names = {"protocol": rules.name, "method": job.text}
            own = [{**names, **row} for row in evaluation.rows(rules)]
            data = pack_arrays(KIND, {"rows": json.dumps(own, allow_nan=False)})
            job.store.write(KIND, job.key(rules), data)
            computed += 1
        rows += own
    return rows, computed

"""Protocols times methods over a folder in HPatches layout, with everything that is done kept on disk.

Two stages, both kept: features once per image and frame, then rows once per
sequence, protocol and method. The name of a kept object is the SHA-256 of all
that decides its content (pixels, weights, settings, versions), so that nothing
old is ever taken for something new, and several processes may share a store.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from geomatch.benchmarks.hpatches.evaluation import create_solver, evaluate, failed
from geomatch.benchmarks.hpatches.frames import Frame
from geomatch.benchmarks.hpatches.keys import SCHEMA
from geomatch.benchmarks.hpatches.protocols import Protocol, Row
from geomatch.benchmarks.hpatches.record import summarise_record, write_run
from geomatch.benchmarks.hpatches.sequences import LARGE, HPatchesSequence, read_data, split_of
from geomatch.benchmarks.hpatches.views import SMALL, Views
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.methods.matchers import LoFTRMatcher
from geomatch.benchmarks.record import machine
from geomatch.engine import Engine, LocalEngine, Lost, Work
from geomatch.engine.run import grouped
from geomatch.engine.task import Need
from geomatch.errors import (
    DamagedError,
    FeaturesError,
    GeomatchError,
    ImageError,
    MissingDependencyError,
    first_line,
)
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
    """See `run_hpatches`."""
    computed: int
    """Sequences x protocols x methods that were not on disk."""

    def summaries(self) -> list[Row]:
        """One row per method, protocol and split, computed from the record's rows."""
        return summarise_record(self.record)


def run_hpatches(
    data: Path,
    protocols: Sequence[Protocol],
    methods: Sequence[str],
    out: Path,
    max_keypoints: int = 2000,
    engine: Engine | None = None,
    device: str = "auto",
    store: Store | str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        data: folder in HPatches layout.
        protocols: see `find_protocols`.
        methods: see `create_method`; one whose weights or packages are missing is skipped with the reason.
        out: folder of records.
        max_keypoints: per image, at most; protocols take the best of them.
        engine: who does the work, within its ``with`` statement; None takes the cores of this machine.
        device: of the networks. On an accelerator features come first, a sequence's images at a time, and
            then the rows.
        store: of features and rows: a folder, or a URL of fsspec; None takes ``out``.
        progress: show a bar.

    Returns:
        The record, written as ``out/hpatches-....json``; ``record.schema.json`` beside this module
        says what it holds.

    Raises:
        GeomatchError: when there is no sequence or no method to evaluate, or something could not be done
            after several tries; what was done is kept.
        ValueError: for methods that are none.
    """
    if engine is None:
        with LocalEngine() as own:
            return run_hpatches(data, protocols, methods, out, max_keypoints, own, device, store, progress)
    data = data.absolute()  # workers may run elsewhere
    found = read_data(data)
    device = engine.device(device)
    usable: dict[str, dict[str, Any]] = {}
    skipped = dict(found.broken)
    allowed = []
    for protocol in protocols:
        try:
            if protocol.solver:
                create_solver(protocol)
            allowed.append(protocol)
        except MissingDependencyError as error:
            skipped[protocol.name] = first_line(error)
    protocols = allowed
    for text in methods:
        try:
            method = create_method(text, max_keypoints, device)
            usable[text] = method.identity
        except GeomatchError as error:
            skipped[text] = first_line(error)
            continue
        for protocol in protocols:
            if not _defined(method, protocol):
                skipped[f"{text} under {protocol.name}"] = "it has no keypoints that could repeat"
    if not usable or not protocols:
        raise GeomatchError("nothing can run: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    where = store if isinstance(store, Store) else Store.at(store or out)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(sequence, text, identity, tuple(protocols), where, max_keypoints, device)
        for text, identity in usable.items()
        for sequence in found.sequences
    ]
    manifest = Manifest.start(
        where,
        "hpatches",
        str(data),
        {"protocols": [asdict(protocol) for protocol in protocols], "methods": usable,
         "max_keypoints": max_keypoints, "device": device},
        digest_of([sequence.fingerprint for sequence in found.sequences]),
    )  # fmt: skip
    keys = tuple(dict.fromkeys(job.key(protocol) for job in jobs for protocol in job.wanted()))
    manifest = manifest.saved(
        where, names=tuple(job.name for job in jobs), objects={KIND: keys}, lost=skipped
    )
    work = Work(engine, progress)
    rows, computed = _evaluated(jobs, work, ahead=device != "cpu")
    manifest.saved(where, retries=work.retries, complete=True)
    record = {
        "schema": SCHEMA,
        "data": {
            "folder": data.resolve().name,
            "sequences": {sequence.name: sequence.fingerprint for sequence in found.sequences},
            "complete": found.complete,
        },
        "protocols": {protocol.name: asdict(protocol) for protocol in protocols},
        "methods": usable,
        "max_keypoints": max_keypoints,
        "skipped": skipped,
        "versions": versions(),
        "machine": machine(),
        "rows": [row for own in rows for row in own],
    }
    return RunResult(write_run(out, record), record, computed)


def _defined(method: Method, protocol: Protocol) -> bool:
    return not (isinstance(method.source, LoFTRMatcher) and protocol.kind == "superpoint")


@dataclass(frozen=True)
class Job:
    """One sequence with one method, under all protocols."""

    sequence: HPatchesSequence
    text: str
    identity: dict[str, Any]
    protocols: tuple[Protocol, ...]
    store: Store
    max_keypoints: int
    device: str

    @property
    def name(self) -> str:
        """For the user."""
        return f"{self.text} on {self.sequence.name}"

    def method(self) -> Method:
        """Made anew in every process, once."""
        return create_method(self.text, self.max_keypoints, self.device)

    def views(self) -> Views:
        """Its features."""
        identity = {key: self.identity[key] for key in ("source", "descriptor")}
        return Views(self.method(), identity, self.store)

    def wanted(self) -> list[Protocol]:
        """Those that have this sequence and are defined for the method."""
        method = self.method()
        return [
            protocol
            for protocol in self.protocols
            if (protocol.large or self.sequence.name not in LARGE) and _defined(method, protocol)
        ]

    def key(self, protocol: Protocol) -> str:
        """Of the rows."""
        return digest_of([SCHEMA, asdict(protocol), self.identity, self.sequence.fingerprint, versions()])

    def kept(self) -> list[Row] | None:
        """The rows of all protocols, if all are in the store."""
        rows: list[Row] = []
        for protocol in self.wanted():
            own = self.stored(protocol)
            if own is None:
                return None
            rows += own
        return rows

    def stored(self, protocol: Protocol) -> list[Row] | None:
        """The rows of one protocol, if they are in the store."""
        key = self.key(protocol)
        try:
            text = unpack_arrays(self.store.read(KIND, key), key, KIND, ("rows",))["rows"]
        except (KeyError, DamagedError):  # made, or made again
            return None
        rows: list[Row] = json.loads(str(text))
        return [{**row, "method": self.text} for row in rows]  # one method may be written in two ways


@dataclass(frozen=True, slots=True)
class Extracting:
    """The task: features of a sequence, a batch of images at a time, for `Evaluating` to find."""

    need: Need = "large network"

    def start(self) -> Callable[[Sequence[Job]], list[str]]:
        """See `Task.start`; results are names."""
        return lambda block: [_extract(job) for job in block]


@dataclass(frozen=True, slots=True)
class Evaluating:
    """The task: the rows of a sequence under all protocols, and how many protocols had to be computed."""

    need: Need = "processor"

    def start(self) -> Callable[[Sequence[Job]], list[tuple[list[Row], int]]]:
        """See `Task.start`."""
        return lambda block: [_evaluate(job) for job in block]


def _evaluated(jobs: Sequence[Job], work: Work, ahead: bool) -> tuple[list[list[Row]], int]:
    """The rows of each job, and the number of computed protocols."""
    rows = [job.kept() for job in jobs]
    todo = [[job] for job, own in zip(jobs, rows, strict=True) if own is None]
    lost: dict[str, str] = {}
    if ahead:
        for job, extracted in work.results(Extracting(), todo, "features", "sequence"):
            if isinstance(extracted, Lost):
                lost[job.name] = extracted.reason
        todo = [block for block in todo if block[0].name not in lost]
    place = {id(job): index for index, job in enumerate(jobs)}
    computed = 0
    for job, result in work.results(Evaluating(), todo, "hpatches", "sequence", len(jobs) - len(todo)):
        if isinstance(result, Lost):
            lost[job.name] = result.reason
        else:
            rows[place[id(job)]], count = result
            computed += count
    if lost:
        raise GeomatchError(
            f"not done after several tries: {'; '.join(grouped(lost))}; what was done is kept: run again"
        )
    return [own for own in rows if own is not None], computed


def _frames(protocol: Protocol) -> tuple[Frame, ...]:
    return (protocol.frame, SMALL) if protocol.kind == "superpoint" else (protocol.frame,)


def _extract(job: Job) -> str:
    """Fill the cache for a job, a batch of images at a time."""
    views = job.views()
    paths = [job.sequence.reference, *(path for _, path, _ in job.sequence.targets)]
    for protocol in job.wanted():
        if not job.store.has(KIND, job.key(protocol)):
            for frame in _frames(protocol):
                views.extract(paths, frame, protocol.paper_sampling)
    return job.name


def _evaluate(job: Job) -> tuple[list[Row], int]:
    """The rows of all protocols, and how many protocols had to be computed."""
    views = job.views()
    rows: list[Row] = []
    computed = 0
    for protocol in job.wanted():
        own = job.stored(protocol)
        if own is None:
            own = _rows(job, views, protocol)
            data = pack_arrays(KIND, {"rows": json.dumps(own, allow_nan=False)})
            job.store.write(KIND, job.key(protocol), data)
            computed += 1
        rows += own
    return rows, computed


def _rows(job: Job, views: Views, protocol: Protocol) -> list[Row]:
    method = views.method
    rules = protocol
    if method.estimator and protocol.solver:
        rules = replace(protocol, solver=f"{method.estimator} {protocol.solver.split()[1]}")
    match = None if isinstance(method.source, LoFTRMatcher) else method.match
    rows = []
    for number, path, truth in job.sequence.targets:
        try:
            pairs = [
                views.pair(job.sequence.reference, path, truth, frame, protocol.paper_sampling)
                for frame in _frames(protocol)
            ]
            small = pairs[1] if len(pairs) > 1 else None
            weighted = match is None or method.matcher is not None
            row = evaluate(rules, pairs[0], match, small, weighted)
        except (ImageError, FeaturesError, cv2.error) as error:
            row = failed(protocol, first_line(error))
        where = {"protocol": protocol.name, "method": job.text, "pair": f"{job.sequence.name} 1-{number}"}
        rows.append({**where, "split": split_of(job.sequence.name), **row})
    return rows

"""Protocols times methods over the units of a data set, with everything that is done cached.

Features are cached per image, rows per unit, protocol and method. The name of a cached object is the
SHA-256 of all that decides its content (pixels, weights, settings, versions), so that nothing old is ever
taken for something new, and several processes may share a store.
"""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.record import allowed, machine, summarise_record, unreadable_pairs, write_run
from geomatch.benchmarks.harness.task import SCHEMA, Entry, Row, Settings, Task, find_task, key_of, unreadable
from geomatch.benchmarks.methods.functions import FunctionMatcher
from geomatch.benchmarks.methods.method import Method, PairMatcher
from geomatch.benchmarks.methods.strings import named, split_methods
from geomatch.describers import Describer
from geomatch.engine import FailedItem, LocalEngine, RunContext, Work
from geomatch.engine.run import grouped
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, GeomatchError, first_line, reading
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.keypoints import Detector, create_detector
from geomatch.provenance import versions
from geomatch.store import Manifest, Store

Given = str | Method | Describer | tuple[Detector, Describer | None] | PairMatcher | Callable[..., Any]
"""A method's string, a `Method`, a describer (a dense one for dense tasks; else of SIFT's keypoints), a
detector and a describer (None: the detector brings descriptors), a `PairMatcher`, or a function of two
images, see `geomatch.benchmarks.methods.functions.FunctionMatcher`."""
Methods = str | Sequence[str | Method] | Mapping[str, Given]
"""Strings separated by commas, methods, or methods by the names that the record gives them."""
Cells = dict[str, list[Row]]  # rows by protocol
ROWS = "rows"  # kind of the rows in the store


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run found."""

    path: Path
    """The record."""
    record: dict[str, Any]
    """``record.schema.json`` beside this module says what it holds."""
    computed: int
    """Units x protocols x methods that were not on disk."""
    warning: str | None = None
    """Why the numbers compare with no others, in a line; None on a whole release."""

    def summaries(self) -> list[Row]:
        """One row per method, protocol and split, computed from the record's rows."""
        return summarise_record(self.record)


def run_benchmark(
    name: str,
    data: Path,
    protocols: str | Sequence[Any],
    methods: Methods,
    out: Path,
    context: RunContext | None = None,
    settings: Settings | None = None,
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        name: the task, a name in `geomatch.benchmarks.harness.task.FOLDERS`.
        protocols: names separated by commas, or protocols.
        methods: see `Methods`; strings as `geomatch.benchmarks.methods.create_method` reads them, for dense
            tasks `create_dense_method`, perhaps as ``NAME=STRING``. One whose weights or packages are missing
            is skipped with the reason.
        out: folder of the record, ``<name>-....json``, and of the cache where the context has none.
        context: without one, objects are evaluated in this process, strings by one worker per core, or in
            this process on an accelerator.
        settings: what else decides the numbers.

    Raises GeomatchError for data that cannot be read, when there is nothing to evaluate, or something could
    not be done after several tries (what was done is cached); ValueError for protocols or methods that are
    none, or an object whose settings cannot be read.
    """
    task, settings = find_task(name), settings or Settings()
    chosen = task.find_protocols(protocols) if isinstance(protocols, str) else list(protocols)
    found = task.read(data.absolute(), settings.split)  # workers may run elsewhere
    by_name = _by_name(methods)
    if context is None:
        objects = any(not isinstance(given, str) for given in by_name.values())
        context = RunContext(engine=LocalEngine(1)) if objects else RunContext()
    with context.started() as started:
        work = started.work()
        device = work.engine.device(started.device)
        usable, skipped = _usable(task, chosen, by_name, settings, device)
        skipped = {**found.broken, **skipped}
        if not usable:
            why = "; ".join(f"{k}: {v}" for k, v in skipped.items()) or "no method was given"
            raise GeomatchError(f"nothing can run: {why}")
        store = started.store_at(out)
        out.mkdir(parents=True, exist_ok=True)
        need: Need = "processor" if device == "cpu" else "large network"
        limited = list(chosen)
        if not task.dense:  # an object may find more
            limited = [replace(one, max_keypoints=allowed(one, settings.max_keypoints)) for one in chosen]
        evaluating = Evaluating(name, tuple(limited), tuple(usable), store, need)
        given = {"device": device} | ({} if task.dense else {"max_keypoints": settings.max_keypoints})
        keys = {entry.method.name: entry.key for entry in usable}
        fields = {protocol.name: asdict(protocol) for protocol in chosen}
        manifest = Manifest.start(
            store, name, str(found.folder), {"protocols": list(fields.values()), "methods": keys, **given},
            digest_of([unit.fingerprint for unit in found.units]),
        )  # fmt: skip
        _check_travels(evaluating, work.engine.workers)
        manifest, cells, computed = _evaluated(evaluating, found, work, manifest, skipped)
        manifest.saved(store, retries=work.retries, complete=True)
    rows = [
        {"protocol": protocol, "method": method, **row}
        for method in keys
        for unit in found.units
        for protocol in fields
        for row in cells[method, unit.name].get(protocol, [])
    ]
    skipped |= unreadable_pairs(rows)
    units = {unit.name: unit.fingerprint for unit in found.units}
    described = {"folder": found.folder.resolve().name, "split": found.split, "units": units,
                 "complete": found.complete}  # fmt: skip
    record = {
        "schema": SCHEMA, "benchmark": name, "data": described, "protocols": fields,
        "methods": {entry.method.name: {"string": entry.string, **entry.key} for entry in usable},
        "settings": given, "skipped": skipped, "versions": versions("pycolmap"), "machine": machine(),
        "rows": rows,
    }  # fmt: skip
    return RunResult(write_run(out, record), record, computed, task.warning(found))


def _by_name(methods: Methods) -> Mapping[str, Given]:
    if isinstance(methods, str):
        return split_methods(methods)
    if isinstance(methods, Mapping):
        return methods
    if any(not isinstance(given, (str, Method)) for given in methods):
        raise ValueError("give objects by name: {'mine': object}")
    strings = named(given for given in methods if isinstance(given, str))
    return strings | {given.name: given for given in methods if isinstance(given, Method)}


def _usable(
    task: Task, protocols: Sequence[Any], methods: Mapping[str, Given], settings: Settings, device: str
) -> tuple[list[Entry], dict[str, str]]:
    """The methods that can run, and the others with the reason."""
    skipped: dict[str, str] = {}
    usable: list[Entry] = []
    known: dict[Any, Any] = {}
    for name, given in methods.items():
        try:
            method = _method(task, name, given, settings, device)
            usable.append(Entry(method, method.key(known), given if isinstance(given, str) else None))
        except ValueError as error:
            raise ValueError(f"{name}: {first_line(error)}" if name != given else str(error)) from error
        except GeomatchError as error:
            skipped[name] = first_line(error)
            continue
        for protocol in protocols:
            reason = task.undefined(protocol, method)
            if reason is not None:
                skipped[f"{name} under {protocol.name}"] = reason
    return usable, skipped


def _method(task: Task, name: str, given: Given, settings: Settings, device: str) -> Method:
    if isinstance(given, str):
        return replace(task.method(given, settings, device), name=name)
    if isinstance(given, Method):
        method = replace(given, name=name)
    elif isinstance(given, tuple):
        method = Method.of(name, *given)
    elif hasattr(given, "describe") or hasattr(given, "dense_many"):
        source = None if task.dense else create_detector("sift", settings.max_keypoints)
        method = Method.of(name, source, cast(Describer, given))
    else:
        function = FunctionMatcher(given) if callable(given) else None
        method = Method(name, pair_matcher=given if hasattr(given, "match_images") else function)
    needed = "keypoints or matches: (detector, describer), a describer or a function"
    right = method.source is not None or method.pair_matcher is not None
    if task.dense:
        needed = "a describer of whole images, see DenseDescriber"
        right = hasattr(method.descriptor, "dense_many")
    if not right:
        raise ValueError(f"{task.name} needs a string, or {needed}; got {type(given).__name__!r}")
    return method


def _check_travels(evaluating: "Evaluating", workers: int) -> None:
    """Raise GeomatchError, naming the method, when one cannot be sent to worker processes."""
    for entry in evaluating.entries if workers > 1 else ():
        try:
            pickle.dumps(entry)
        except Exception as error:  # whatever a user's object raises
            raise GeomatchError(
                f"{entry.method.name} cannot be sent to worker processes ({first_line(error)}): define its "
                "classes at the top of a module, or take a single worker"
            ) from error


class Job(NamedTuple):
    """One unit with one method, under all protocols."""

    unit: Any
    place: int  # of the method in `Evaluating.entries`
    name: str  # for the user


@dataclass(frozen=True)
class Evaluating:
    """The engine's task: rows of a unit by protocol, and how many of these had to be computed."""

    task: str
    protocols: tuple[Any, ...]
    entries: tuple[Entry, ...]
    store: Store
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[Job]], list[tuple[Cells, int]]]:
        """See `geomatch.engine.Task.start`."""
        return lambda block: [self.evaluate(job) for job in block]

    def keys(self, job: Job) -> list[tuple[Any, str]]:
        """The protocols that are defined for the unit and the method, each with the key of the rows."""
        task, entry = find_task(self.task), self.entries[job.place]
        return [
            (protocol, key_of(asdict(protocol), entry.key, job.unit.fingerprint))
            for protocol in self.protocols
            if task.covers(protocol, job.unit) and task.undefined(protocol, entry.method) is None
        ]

    def evaluate(self, job: Job) -> tuple[Cells, int]:
        """Rows, and how many had to be computed."""
        evaluation = find_task(self.task).evaluation(job.unit, self.entries[job.place], self.store)
        cells: Cells = {}
        computed = 0
        for protocol, key in self.keys(job):
            own = self.store.found(ROWS, key, _unpacked)
            if own is None:
                own, computed = evaluation.rows(protocol), computed + 1
                if not any(map(unreadable, own)):
                    packed = pack_arrays(ROWS, {"rows": json.dumps(own, allow_nan=False)})
                    self.store.write(ROWS, key, packed)
            cells[protocol.name] = own
        return cells, computed


def _unpacked(data: bytes, label: str) -> list[Row]:
    with reading(label, "list of rows", DamagedError):
        return [dict(row) for row in json.loads(str(unpack_arrays(data, label, ROWS, ("rows",))["rows"]))]


def _evaluated(
    evaluating: Evaluating, data: DataSet[Any], work: Work, manifest: Manifest, skipped: dict[str, str]
) -> tuple[Manifest, dict[tuple[str, str], Cells], int]:
    """Rows by method and unit, and the number of computed cells."""
    task, methods = find_task(evaluating.task), [entry.method.name for entry in evaluating.entries]
    jobs = [Job(unit, place, f"{method} on {unit.name}") for place, method in enumerate(methods)
            for unit in data.units]  # fmt: skip
    keys = dict.fromkeys(key for job in jobs for _, key in evaluating.keys(job))
    names = tuple(job.name for job in jobs)
    manifest = manifest.saved(evaluating.store, names=names, objects={ROWS: tuple(keys)}, failed=skipped)
    cells: dict[tuple[str, str], Cells] = {}
    failed: dict[str, str] = {}
    computed = 0
    for job, result in work.results(evaluating, [[job] for job in jobs], task.name, task.unit[0]):
        if isinstance(result, FailedItem):
            failed[job.name] = result.reason
        else:
            cells[methods[job.place], job.unit.name], count = result
            computed += count
    if failed:
        reasons = "; ".join(grouped(failed))
        raise GeomatchError(f"not done after several tries: {reasons}; what was done is cached: run again")
    return manifest, cells, computed

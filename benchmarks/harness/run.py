"""Protocols times methods over the units of a data set, with everything that is done cached.

Features are cached per image, rows per unit, protocol and method. The name of a cached object is the
SHA-256 of all that decides its content (pixels, weights, settings, versions), so that nothing old is ever
taken for something new, and several processes may share a store.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from geomatch.benchmarks.harness.cache import ROWS, SCHEMA, key_of, pack_rows, read_or_make, unpack_rows
from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.record import allowed, machine, summarise_record, unreadable_pairs, write_run
from geomatch.benchmarks.harness.task import Entry, Row, Settings, Task, find_task, unreadable
from geomatch.benchmarks.methods.functions import FunctionMatcher
from geomatch.benchmarks.methods.method import Method, PairMatcher
from geomatch.benchmarks.methods.strings import named, split_methods
from geomatch.benchmarks.methods.together import groups
from geomatch.describers import Describer
from geomatch.engine import FailedItem, LocalEngine, RunContext, Work
from geomatch.engine.run import grouped
from geomatch.engine.task import Need
from geomatch.errors import GeomatchError, first_line
from geomatch.files import digest_of
from geomatch.keypoints import Detector, create_detector
from geomatch.provenance import versions
from geomatch.store import Manifest, Store

Given = str | Method | Describer | tuple[Detector, Describer | None] | PairMatcher | Callable[..., Any]
"""A method's string, a `Method`, a describer (a dense one for dense tasks; else of SIFT's keypoints), a
detector and a describer (None: the detector brings descriptors), a `PairMatcher`, or a function of two
images, see `geomatch.benchmarks.methods.functions.FunctionMatcher`."""
Methods = str | Sequence[str | Method] | Mapping[str, Given]
"""Strings separated by commas, methods, or methods by the names that the record gives them."""
Cells = dict[tuple[str, str], list[Row]]  # rows by protocol and method


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
        context: on an accelerator features come first, unit by unit, and then the rows. Without one, objects
            are evaluated in this process, strings by one worker per core.
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
        entries = {entry.method.name: entry for entry in usable}
        shared = groups([entry.method for entry in usable])
        parts = tuple(tuple(entries[method.name] for method in group) for group in shared)
        cache = store if settings.cache_features and task.caches else None
        ahead = cache is not None and device != "cpu"
        need: Need = "processor" if ahead or device == "cpu" else "large network"
        limited = list(chosen)
        if not task.dense:  # an object may find more
            limited = [replace(one, max_keypoints=allowed(one, settings.max_keypoints)) for one in chosen]
        evaluating = Evaluating(name, tuple(limited), parts, store, cache, need)
        given = {"device": device} | ({} if task.dense else {"max_keypoints": settings.max_keypoints})
        keys = {entry.method.name: entry.key for entry in usable}
        fields = {protocol.name: asdict(protocol) for protocol in chosen}
        manifest = Manifest.start(
            store, name, str(found.folder), {"protocols": list(fields.values()), "methods": keys, **given},
            digest_of([unit.fingerprint for unit in found.units]),
        )  # fmt: skip
        _check_travels(evaluating, work.engine.workers)
        manifest, cells, computed = _evaluated(evaluating, found, work, ahead, manifest, skipped)
        manifest.saved(store, retries=work.retries, complete=True)
    rows = [
        {"protocol": protocol, "method": method, **row}
        for method in keys
        for unit in found.units
        for protocol in fields
        for row in cells.get((method, unit.name, protocol), [])
    ]
    skipped |= unreadable_pairs(rows)
    units = {unit.name: unit.fingerprint for unit in found.units}
    described = {"folder": found.folder.resolve().name, "split": found.split, "units": units,
                 "complete": found.complete}  # fmt: skip
    record = {
        "schema": SCHEMA, "benchmark": name, "data": described, "protocols": fields,
        "methods": {entry.method.name: {"string": entry.string, **entry.key} for entry in usable},
        "settings": given, "skipped": skipped, "versions": versions(), "machine": machine(), "rows": rows,
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
    elif hasattr(given, "match_images"):
        method = Method(name, pair_matcher=given)
    else:
        method = Method(name, pair_matcher=FunctionMatcher(given) if callable(given) else None)
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
    for entry in (entry for group in evaluating.groups for entry in group if workers > 1):
        try:
            pickle.dumps(entry)
        except Exception as error:  # whatever a user's object raises
            raise GeomatchError(
                f"{entry.method.name} cannot be sent to worker processes ({first_line(error)}): define its "
                "classes at the top of a module, or take a single worker"
            ) from error


@dataclass(frozen=True)
class Job:
    """One unit with the methods of one group, under all protocols."""

    unit: Any
    group: int  # place in `Evaluating.groups`
    name: str  # for the user


@dataclass(frozen=True)
class Evaluating:
    """The engine's task: rows of a unit, by protocol and method, and how many of these had to be computed."""

    task: str
    protocols: tuple[Any, ...]
    groups: tuple[tuple[Entry, ...], ...]  # methods whose features come from the same passes
    store: Store
    cache: Store | None  # where features are cached, if at all
    need: Need = "processor"
    features: bool = False  # True if what the rows need is made and cached, and no row

    def start(self) -> Callable[[Sequence[Job]], list[tuple[Cells, int]]]:
        """See `geomatch.engine.Task.start`."""
        return lambda block: [self.evaluate(job) for job in block]

    def keys(self, job: Job, protocol: Any) -> dict[int, str]:
        """Keys of the rows, by place in the group of the methods for which the protocol is defined."""
        task, group = find_task(self.task), self.groups[job.group]
        if not task.covers(protocol, job.unit):
            return {}
        return {
            place: key_of(asdict(protocol), entry.key, job.unit.fingerprint)
            for place, entry in enumerate(group)
            if task.undefined(protocol, entry.method) is None
        }

    def evaluate(self, job: Job) -> tuple[Cells, int]:
        """Rows, and how many had to be computed."""
        group = self.groups[job.group]
        evaluation = find_task(self.task).evaluation(job.unit, group, self.cache)
        cells: Cells = {}
        computed = 0
        for protocol in self.protocols:
            keys = self.keys(job, protocol)
            places = list(keys)
            if self.features:
                missing = [place for place, key in keys.items() if not self.store.has(ROWS, key)]
                if missing:
                    evaluation.prepare(protocol, missing)
                continue

            def make(missing: list[int], protocol: Any = protocol, places: list[int] = places) -> Any:
                nonlocal computed
                computed += len(missing)
                return evaluation.rows(protocol, [places[k] for k in missing])

            found = read_or_make(self.store, ROWS, list(keys.values()), make, pack_rows, unpack_rows)
            for (place, key), own in zip(keys.items(), found, strict=True):
                cells[protocol.name, group[place].method.name] = own
                if any(map(unreadable, own)):
                    self.store.remove(ROWS, key)
        return cells, computed


def _evaluated(
    evaluating: Evaluating,
    data: DataSet[Any],
    work: Work,
    ahead: bool,
    manifest: Manifest,
    skipped: dict[str, str],
) -> tuple[Manifest, dict[tuple[str, str, str], list[Row]], int]:
    """Rows by method, unit and protocol, and the number of computed cells."""
    jobs = []
    for number, group in enumerate(evaluating.groups):
        label = group[0].method.name + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        jobs += [Job(unit, number, f"{label} on {unit.name}") for unit in data.units]
    pairs = [(job, protocol) for job in jobs for protocol in evaluating.protocols]
    keys = dict.fromkeys(key for pair in pairs for key in evaluating.keys(*pair).values())
    names = tuple(job.name for job in jobs)
    manifest = manifest.saved(evaluating.store, names=names, objects={ROWS: tuple(keys)}, failed=skipped)
    task = find_task(evaluating.task)
    rows: dict[str, Cells] = {}
    todo = [[job] for job in jobs]
    failed: dict[str, str] = {}
    if ahead:
        first = replace(evaluating, features=True, need="large network")
        made = work.results(first, todo, "features", task.unit[0])
        failed = {job.name: result.reason for job, result in made if isinstance(result, FailedItem)}
    todo = [block for block in todo if block[0].name not in failed]
    computed = 0
    for job, result in work.results(evaluating, todo, task.name, task.unit[0]):
        if isinstance(result, FailedItem):
            failed[job.name] = result.reason
        else:
            rows[job.name], count = result
            computed += count
    if failed:
        reasons = "; ".join(grouped(failed))
        raise GeomatchError(f"not done after several tries: {reasons}; what was done is cached: run again")
    cells = {
        (method, job.unit.name, protocol): own
        for job in jobs
        for (protocol, method), own in rows[job.name].items()
    }
    return manifest, cells, computed

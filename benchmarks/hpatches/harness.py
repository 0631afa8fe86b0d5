"""Protocols times methods over a folder in HPatches layout, with everything that is done kept on disk.

Two loops, both cached: features once per image and frame, then rows once per
sequence, protocol and method. The name of a kept file is the SHA-256 of all
that decides its content (pixels, weights, settings, versions), so that nothing
old is ever taken for something new, and several processes may share a folder.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

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
from geomatch.dift.loading import find_device
from geomatch.errors import FeaturesError, GeomatchError, ImageError, MissingDependencyError, first_line
from geomatch.files import digest_of, replacing
from geomatch.provenance import versions


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
    workers: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        data: folder in HPatches layout.
        protocols: see `find_protocols`.
        methods: see `create_method`; one whose weights or packages are missing is skipped with the reason.
        out: folder for caches and records.
        max_keypoints: per image, at most; protocols take the best of them.
        workers: processes; None takes one per core.
        device: of the networks. On an accelerator one process extracts, a sequence's images at a
            time, while the others evaluate.
        progress: show a bar.

    Returns:
        The record, written as ``out/hpatches-....json``; ``record.schema.json`` beside this module
        says what it holds.

    Raises:
        GeomatchError: when there is no sequence or no method to evaluate, or a process dies.
        ValueError: for methods that are none.
    """
    found = read_data(data)
    device = find_device(device)
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
    for folder in ("features", "rows"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(sequence, text, identity, tuple(protocols), out, max_keypoints, device)
        for text, identity in usable.items()
        for sequence in found.sequences
    ]
    rows: dict[int, list[Row]] = {}
    computed = 0
    with tqdm(total=len(jobs), desc="hpatches", unit="sequence", disable=not progress) as bar:
        todo = []
        for index, job in enumerate(jobs):
            kept = job.kept()
            if kept is None:
                todo.append(index)
            else:
                rows[index] = kept
                bar.update()
        ahead = device != "cpu"
        for index, fresh, count in _run(jobs, todo, workers or os.cpu_count() or 1, ahead):
            rows[index], computed = fresh, computed + count
            bar.update()
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
        "rows": [row for index in range(len(jobs)) for row in rows[index]],
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
    out: Path
    max_keypoints: int
    device: str

    def method(self) -> Method:
        """Made anew in every process, once."""
        return create_method(self.text, self.max_keypoints, self.device)

    def views(self) -> Views:
        """Its features."""
        identity = {key: self.identity[key] for key in ("source", "descriptor")}
        return Views(self.method(), identity, self.out / "features")

    def wanted(self) -> list[Protocol]:
        """Those that have this sequence and are defined for the method."""
        method = self.method()
        return [
            protocol
            for protocol in self.protocols
            if (protocol.large or self.sequence.name not in LARGE) and _defined(method, protocol)
        ]

    def path(self, protocol: Protocol) -> Path:
        """Of the rows."""
        parts = [SCHEMA, asdict(protocol), self.identity, self.sequence.fingerprint, versions()]
        return self.out / "rows" / f"{digest_of(parts)}.json"

    def kept(self) -> list[Row] | None:
        """The rows of all protocols, if all are on disk."""
        rows: list[Row] = []
        for protocol in self.wanted():
            own = self.stored(protocol)
            if own is None:
                return None
            rows += own
        return rows

    def stored(self, protocol: Protocol) -> list[Row] | None:
        """The rows of one protocol, if they are on disk."""
        try:
            rows: list[Row] = json.loads(self.path(protocol).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return [{**row, "method": self.text} for row in rows]  # one method may be written in two ways


def _run(jobs: list[Job], todo: list[int], workers: int, ahead: bool) -> Iterator[tuple[int, list[Row], int]]:
    """Index, rows and number of computed protocols of each job, as they are done."""
    if workers == 1 or len(todo) < 2:
        for index in todo:
            if ahead:
                _extract(jobs[index])
            yield index, *_evaluate(jobs[index])
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # a fork of a process that has run torch may hang; a fork of one that only imported it starts at once
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if "forkserver" in kinds:
        context.set_forkserver_preload([__name__])
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(todo)), context, _start, (threads,)) as pool:
        try:
            futures = {}
            for index in todo:
                if ahead:
                    _extract(jobs[index])
                futures[pool.submit(_evaluate, jobs[index])] = index
            for future in as_completed(futures):
                yield futures[future], *future.result()
        except BrokenProcessPool as error:
            raise GeomatchError(
                "a worker process died, perhaps for lack of memory; what was done is kept: "
                "run again, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()  # what it was at is made again; files are written whole or not at all
            raise


def _start(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _frames(protocol: Protocol) -> tuple[Frame, ...]:
    return (protocol.frame, SMALL) if protocol.kind == "superpoint" else (protocol.frame,)


def _extract(job: Job) -> None:
    """Fill the cache for a job, a batch of images at a time."""
    views = job.views()
    paths = [job.sequence.reference, *(path for _, path, _ in job.sequence.targets)]
    for protocol in job.wanted():
        if not job.path(protocol).is_file():
            for frame in _frames(protocol):
                views.extract(paths, frame, protocol.paper_sampling)


def _evaluate(job: Job) -> tuple[list[Row], int]:
    """The rows of all protocols, and how many protocols had to be computed."""
    views = job.views()
    rows: list[Row] = []
    computed = 0
    for protocol in job.wanted():
        own = job.stored(protocol)
        if own is None:
            own = _rows(job, views, protocol)
            with replacing(job.path(protocol)) as temporary:
                temporary.write_text(json.dumps(own, allow_nan=False), encoding="utf-8")
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

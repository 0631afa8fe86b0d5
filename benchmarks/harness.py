"""Protocols times methods over a folder in HPatches layout, with everything that is done kept on disk.

Two loops, both cached: features once per image and frame, then rows once per
sequence, protocol and method. The name of a kept file is the SHA-256 of all
that decides its content (pixels, weights, settings, versions), so that nothing
old is ever taken for something new, and several processes may share a folder.
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from geomatch.benchmarks.evaluation import Pair, evaluate, failed
from geomatch.benchmarks.frames import Frame, framed
from geomatch.benchmarks.hpatches import LARGE, HPatchesSequence, read_data, split_of
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.protocols import Protocol, Row, find_protocols, summarise
from geomatch.benchmarks.record import machine
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.files import replacing, sha256_of
from geomatch.images import load_image
from geomatch.pipeline import versions
from geomatch.types import Features

SCHEMA = 1
"""Version of the record's layout."""
SMALL: Frame = "crop320x240"
_FIRST = ("protocol", "method", "split", "pairs", "failures")
_MMA = ("MMA@1", "MMA@2", "MMA@3", "MMA@5", "MMA@10")  # in tables; records have all


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


def summarise_record(record: dict[str, Any]) -> list[Row]:
    """One row per method, protocol and split of a record."""
    found = []
    for name in record["protocols"]:
        (protocol,) = find_protocols(name)
        for method in record["methods"]:
            own = [r for r in record["rows"] if r["protocol"] == name and r["method"] == method]
            if own:
                found += [{"protocol": name, "method": method, **row} for row in summarise(protocol, own)]
    return found


def run_hpatches(
    data: Path,
    protocols: Sequence[Protocol],
    methods: Sequence[str],
    out: Path,
    max_keypoints: int = 2000,
    workers: int | None = None,
    progress: bool = True,
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        data: folder in HPatches layout.
        protocols: see `find_protocols`.
        methods: see `create_method`; one whose weights are missing is skipped with the reason.
        out: folder for caches and records.
        max_keypoints: per image, at most; protocols take the best of them.
        workers: processes; None takes one per core.
        progress: show a bar.

    Returns:
        The record, written as ``out/hpatches-....json``: ``schema``, ``protocols`` and ``methods``
        with their definitions, ``skipped`` sequences and methods with reasons, ``data``,
        ``versions``, ``machine``, and ``rows``, one per pair.

    Raises:
        GeomatchError: when there is no sequence or no method to evaluate.
        ValueError: for methods that are none.
    """
    found = read_data(data)
    usable: dict[str, dict[str, Any]] = {}
    skipped = dict(found.broken)
    for text in methods:
        try:
            usable[text] = create_method(text, max_keypoints).identity
        except GeomatchError as error:
            skipped[text] = first_line(error)
    if not usable:
        raise GeomatchError("no method can run: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    for folder in ("features", "rows"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    jobs = [
        _Job(sequence, text, identity, tuple(protocols), out, max_keypoints)
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
        for index, (fresh, count) in _run(jobs, todo, workers or os.cpu_count() or 1):
            rows[index], computed = fresh, computed + count
            bar.update()
    record = {
        "schema": SCHEMA,
        "data": {
            "folder": data.name,
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
    name = _digest([record[key] for key in ("data", "protocols", "methods", "max_keypoints", "versions")])
    path = out / f"hpatches-{name[:12]}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return RunResult(path, record, computed)


@dataclass(frozen=True)
class _Job:
    """One sequence with one method, under all protocols."""

    sequence: HPatchesSequence
    text: str
    identity: dict[str, Any]
    protocols: tuple[Protocol, ...]
    out: Path
    max_keypoints: int

    def wanted(self) -> list[Protocol]:
        return [p for p in self.protocols if p.large or self.sequence.name not in LARGE]

    def path(self, protocol: Protocol) -> Path:
        parts = [SCHEMA, asdict(protocol), self.identity, self.sequence.fingerprint, versions()]
        return self.out / "rows" / f"{_digest(parts)}.json"

    def kept(self) -> list[Row] | None:
        """The rows of all protocols, if all are on disk."""
        rows: list[Row] = []
        for protocol in self.wanted():
            own = _stored(self.path(protocol))
            if own is None:
                return None
            rows += own
        return rows


def _run(jobs: list[_Job], todo: list[int], workers: int) -> Any:
    if workers == 1 or len(todo) < 2:
        yield from ((index, _evaluate(jobs[index])) for index in todo)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    with ProcessPoolExecutor(min(workers, len(todo)), context, torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(_evaluate, jobs[index]): index for index in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _evaluate(job: _Job) -> tuple[list[Row], int]:
    """The rows of all protocols, and how many protocols had to be computed."""
    method = create_method(job.text, job.max_keypoints)
    rows: list[Row] = []
    computed = 0
    for protocol in job.wanted():
        own = _stored(job.path(protocol))
        if own is None:
            own = _rows(job, method, protocol)
            with replacing(job.path(protocol)) as temporary:
                temporary.write_text(json.dumps(own, allow_nan=False), encoding="utf-8")
            computed += 1
        rows += own
    return rows, computed


def _rows(job: _Job, method: Method, protocol: Protocol) -> list[Row]:
    frames = (protocol.frame, SMALL) if protocol.kind == "superpoint" else (protocol.frame,)
    rules = protocol
    if method.estimator and protocol.solver:
        rules = replace(protocol, solver=f"{method.estimator} {protocol.solver.split()[1]}")
    rows = []
    for number, path, truth in job.sequence.targets:
        try:
            pairs = []
            for frame in frames:
                how = method, frame, protocol.paper_sampling
                features0, matrix0 = _features(job, job.sequence.reference, *how)
                features1, matrix1 = _features(job, path, *how)
                pairs.append(Pair(features0, features1, matrix1 @ truth @ np.linalg.inv(matrix0)))
            row = evaluate(rules, pairs[0], method.metric, pairs[1] if len(pairs) > 1 else None)
        except ImageError as error:
            row = failed(protocol, first_line(error))
        where = {"protocol": protocol.name, "method": job.text, "pair": f"{job.sequence.name} 1-{number}"}
        rows.append({**where, "split": split_of(job.sequence.name), **row})
    return rows


def _features(
    job: _Job, path: Path, method: Method, frame: Frame, paper_sampling: bool
) -> tuple[Features, Any]:
    """From the cache or the method; and the matrix into the frame."""
    image, matrix = framed(load_image(path), frame)
    identity = {key: value for key, value in job.identity.items() if key not in ("metric", "estimator")}
    # only features sampled from a whole map know the difference
    paper_sampling &= method.extractor is not None and method.extractor.config.sampling == "dense"
    name = _digest([SCHEMA, sha256_of(path), frame, paper_sampling, identity, versions()])
    kept = job.out / "features" / f"{name}.npz"
    if kept.is_file():
        try:
            return Features.load(kept), matrix
        except GeomatchError:  # half a file of a full disk, say: made again
            kept.unlink(missing_ok=True)
    features = method.extract(image, frame != SMALL, paper_sampling)
    features.save(kept)
    return features, matrix


def _stored(path: Path) -> list[Row] | None:
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def table(summaries: list[Row]) -> str:
    """In Markdown, one table per protocol, so that no number loses its protocol."""
    blocks = []
    for name in dict.fromkeys(row["protocol"] for row in summaries):
        own = [row for row in summaries if row["protocol"] == name]
        shown = (key for row in own for key in row if key not in _FIRST and not key.endswith("spread"))
        columns = [key for key in dict.fromkeys(shown) if not key.startswith("MMA") or key in _MMA]
        lines = [f"### {name}", "", "| method | split | pairs | failures | " + " | ".join(columns) + " |"]
        lines.append("| --- " * (4 + len(columns)) + "|")
        for row in own:
            cells = [str(row[key]) for key in _FIRST[1:]] + [_cell(row, column) for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(row: Row, column: str) -> str:
    value, spread = row.get(column), row.get(f"{column} spread")
    if value is None:
        return "-"
    digits = 1 if "@" in column else 3
    return f"{value:.{digits}f}" + (f" ± {spread / 2:.1f}" if spread is not None else "")

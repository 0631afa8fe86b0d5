"""Methods over the sequences of a folder in HPatches layout, under the protocols of this package."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.run import RunResult, run_suite
from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.methods.matchers import LoFTRMatcher
from geomatch.benchmarks.tasks.homography.evaluation import create_solver, evaluate, failed
from geomatch.benchmarks.tasks.homography.frames import Frame
from geomatch.benchmarks.tasks.homography.protocols import Protocol
from geomatch.benchmarks.tasks.homography.sequences import LARGE, HPatchesSequence, read_data, split_of
from geomatch.benchmarks.tasks.homography.suite import SUITE
from geomatch.benchmarks.tasks.homography.views import SMALL, Views
from geomatch.engine import Engine, LocalEngine
from geomatch.errors import FeaturesError, ImageError, MissingDependencyError, first_line
from geomatch.store import Store


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
        protocols: see `find_protocols`; one whose solver is not installed is skipped with the reason.
        methods: see `create_method`; one whose weights or packages are missing is skipped with the reason.
        out: folder of records.
        max_keypoints: per image, at most; protocols take the best of them.
        engine: who does the work, within its ``with`` statement; None takes the cores of this machine.
        device: of the networks. On an accelerator features come first, a sequence's images at a time, and
            then the rows.
        store: of features and rows: a folder, or a URL of fsspec; None takes ``out``.
        progress: show a bar.

    Returns:
        The record, written as ``out/hpatches-....json``.

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
    skipped: dict[str, str] = {}
    allowed = []
    for protocol in protocols:
        try:
            if protocol.solver:
                create_solver(protocol)
            allowed.append(protocol)
        except MissingDependencyError as error:
            skipped[protocol.name] = first_line(error)
    return run_suite(
        SUITE,
        DataSet(data, found.sequences, found.broken, found.complete),
        allowed,
        methods,
        HPatchesEvaluator(max_keypoints, device),
        out,
        engine,
        store,
        device != "cpu",
        progress,
        skipped,
    )


@dataclass(frozen=True, slots=True)
class HPatchesEvaluator:
    """See `Evaluator`."""

    max_keypoints: int
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """See `Evaluator.settings`."""
        return {"max_keypoints": self.max_keypoints, "device": self.device}

    def method(self, text: str) -> Method:
        """Made once in every process."""
        return create_method(text, self.max_keypoints, self.device)

    def identity(self, text: str) -> dict[str, Any]:
        """See `Evaluator.identity`."""
        return self.method(text).identity

    def covers(self, text: str, rules: Protocol, unit: HPatchesSequence) -> bool:
        """See `Evaluator.covers`."""
        return rules.large or unit.name not in LARGE

    def undefined(self, text: str, rules: Protocol) -> str | None:
        """See `Evaluator.undefined`."""
        if isinstance(self.method(text).source, LoFTRMatcher) and rules.kind == "superpoint":
            return "it has no keypoints that could repeat"
        return None

    def begin(
        self, text: str, identity: dict[str, Any], unit: HPatchesSequence, store: Store
    ) -> "SequenceEvaluation":
        """See `Evaluator.begin`."""
        features = {key: identity[key] for key in ("source", "descriptor")}
        return SequenceEvaluation(unit, Views(self.method(text), features, store))


@dataclass(frozen=True, slots=True)
class SequenceEvaluation:
    """See `Evaluation`."""

    sequence: HPatchesSequence
    views: Views

    def extract(self, rules: Protocol) -> None:
        """See `Evaluation.extract`."""
        paths = [self.sequence.reference, *(path for _, path, _ in self.sequence.targets)]
        for frame in _frames(rules):
            self.views.extract(paths, frame, rules.paper_sampling)

    def rows(self, rules: Protocol) -> list[Row]:
        """See `Evaluation.rows`."""
        method, sequence = self.views.method, self.sequence
        protocol = rules
        if method.estimator and protocol.solver:
            rules = replace(protocol, solver=f"{method.estimator} {protocol.solver.split()[1]}")
        match = None if isinstance(method.source, LoFTRMatcher) else method.match
        rows = []
        for number, path, truth in sequence.targets:
            try:
                pairs = [
                    self.views.pair(sequence.reference, path, truth, frame, protocol.paper_sampling)
                    for frame in _frames(protocol)
                ]
                small = pairs[1] if len(pairs) > 1 else None
                weighted = match is None or method.matcher is not None
                row = evaluate(rules, pairs[0], match, small, weighted)
            except (ImageError, FeaturesError, cv2.error) as error:
                row = failed(protocol, first_line(error))
            rows.append({"pair": f"{sequence.name} 1-{number}", "split": split_of(sequence.name), **row})
        return rows


def _frames(protocol: Protocol) -> tuple[Frame, ...]:
    return (protocol.frame, SMALL) if protocol.kind == "superpoint" else (protocol.frame,)

"""Methods over the videos of DAVIS-2017 or JHMDB."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.run import RunResult, run_suite
from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.methods.dense import DenseMethod, create_dense_method
from geomatch.benchmarks.tasks.temporal.davis import MaskedVideo, read_davis
from geomatch.benchmarks.tasks.temporal.evaluation import evaluate_masks, evaluate_poses
from geomatch.benchmarks.tasks.temporal.jhmdb import PoseVideo, read_jhmdb
from geomatch.benchmarks.tasks.temporal.protocols import TemporalProtocol
from geomatch.benchmarks.tasks.temporal.suite import SUITES
from geomatch.engine import Engine, LocalEngine
from geomatch.store import Store


def run_temporal(
    dataset: str,
    data: Path,
    protocols: Sequence[TemporalProtocol],
    methods: Sequence[str],
    out: Path,
    engine: Engine | None = None,
    device: str = "auto",
    store: Store | str | os.PathLike[str] | None = None,
    progress: bool = True,
    split: str | None = None,
) -> RunResult:
    """Evaluate methods under protocols; videos that are done already are not computed again.

    Args:
        dataset: ``davis`` or ``jhmdb``.
        data: folder of the release.
        protocols: see `find_protocols`.
        methods: see `create_dense_method`; one whose weights or packages are missing is skipped with the
            reason.
        out: folder of records.
        engine: who does the work, within its ``with`` statement; None takes the cores of this machine.
        device: of the networks and of the propagation.
        store: of rows: a folder, or a URL of fsspec; None takes ``out``. Features of frames are not kept.
        progress: show a bar.
        split: of data sets that have several; None takes the one that is reported.

    Returns:
        The record, written as ``out/<dataset>-....json``.

    Raises:
        GeomatchError: naming file and line of a broken annotation; when there is no method to evaluate, or
            something could not be done after several tries; what was done is kept.
        ValueError: for methods that are none.
    """
    if engine is None:
        with LocalEngine() as own:
            return run_temporal(dataset, data, protocols, methods, out, own, device, store, progress, split)
    device = engine.device(device)
    return run_suite(
        SUITES[dataset],
        read_temporal(dataset, data, split),
        protocols,
        methods,
        TemporalEvaluator(device),
        out,
        engine,
        store,
        False,
        progress,
        need="processor" if device == "cpu" else "large network",
    )


def read_temporal(dataset: str, data: Path, split: str | None = None) -> DataSet[MaskedVideo | PoseVideo]:
    """The data set of that name in a folder.

    Raises:
        GeomatchError: naming file and line of a broken annotation.
        ValueError: for a split that the data set has not.
    """
    folder = data.absolute()  # workers may run elsewhere
    return read_davis(folder, split or "val") if dataset == "davis" else read_jhmdb(folder, split or "1")


@dataclass(frozen=True, slots=True)
class TemporalEvaluator:
    """See `Evaluator`."""

    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """See `Evaluator.settings`."""
        return {"device": self.device}

    def identity(self, text: str) -> dict[str, Any]:
        """See `Evaluator.identity`; the size of frames is the protocol's."""
        return create_dense_method(text, self.device).identity

    def covers(self, text: str, rules: TemporalProtocol, unit: Any) -> bool:
        """See `Evaluator.covers`: all of them."""
        return True

    def undefined(self, text: str, rules: TemporalProtocol) -> str | None:
        """See `Evaluator.undefined`: none is."""
        return None

    def begin(
        self, text: str, identity: dict[str, Any], unit: MaskedVideo | PoseVideo, store: Store
    ) -> "VideoEvaluation":
        """See `Evaluator.begin`."""
        return VideoEvaluation(unit, text, self.device)


@dataclass(frozen=True, slots=True)
class VideoEvaluation:
    """See `Evaluation`."""

    video: MaskedVideo | PoseVideo
    method: str
    device: str

    def extract(self, rules: TemporalProtocol) -> None:
        """See `Evaluation.extract`: features of frames are not kept."""

    def rows(self, rules: TemporalProtocol) -> list[Row]:
        """See `Evaluation.rows`."""
        method: DenseMethod = create_dense_method(self.method, self.device, rules.size)

        def maps(images: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"": feature_map} for feature_map in method.dense(images)]

        if isinstance(self.video, MaskedVideo):
            rows = evaluate_masks(self.video, rules, maps)
        else:
            rows = evaluate_poses(self.video, rules, maps)
        return [{key: value for key, value in row.items() if key != "cell"} for row in rows]

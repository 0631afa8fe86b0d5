"""Methods over the categories of a data set of semantic correspondence."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.run import RunResult, run_suite
from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.methods.dense import DenseMethod, create_dense_method
from geomatch.benchmarks.tasks.semantic.cub import read_cub
from geomatch.benchmarks.tasks.semantic.data import Category
from geomatch.benchmarks.tasks.semantic.evaluation import evaluate_category
from geomatch.benchmarks.tasks.semantic.maps import KeptMaps
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol
from geomatch.benchmarks.tasks.semantic.spair import read_spair
from geomatch.benchmarks.tasks.semantic.suite import SUITES
from geomatch.benchmarks.tasks.semantic.willow import read_willow
from geomatch.engine import Engine, LocalEngine
from geomatch.store import Store

SEMANTIC = ("spair", "willow", "cub")
"""Names of the data sets."""


def run_semantic(
    dataset: str,
    data: Path,
    protocols: Sequence[SemanticProtocol],
    methods: Sequence[str],
    out: Path,
    engine: Engine | None = None,
    device: str = "auto",
    store: Store | str | os.PathLike[str] | None = None,
    progress: bool = True,
    split: str | None = None,
) -> RunResult:
    """Evaluate methods under protocols; what is on disk already is not computed again.

    Args:
        dataset: ``spair``, ``willow`` or ``cub``.
        data: folder of the release.
        protocols: see `find_protocols`.
        methods: see `create_dense_method`; one whose weights or packages are missing is skipped with the
            reason.
        out: folder of records.
        engine: who does the work, within its ``with`` statement; None takes the cores of this machine.
        device: of the networks. On an accelerator all maps come first, then the rows.
        store: of maps and rows: a folder, or a URL of fsspec; None takes ``out``. A map of Stable Diffusion
            in the paper's setting has 12 MB.
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
            return run_semantic(dataset, data, protocols, methods, out, own, device, store, progress, split)
    device = engine.device(device)
    return run_suite(
        SUITES[dataset],
        read_semantic(dataset, data, split),
        protocols,
        methods,
        SemanticEvaluator(device),
        out,
        engine,
        store,
        device != "cpu",
        progress,
    )


def read_semantic(dataset: str, data: Path, split: str | None = None) -> DataSet[Category]:
    """The data set of that name in a folder.

    Raises:
        GeomatchError: naming file and line of a broken annotation.
        ValueError: for a split that the data set has not.
    """
    folder = data.absolute()  # workers may run elsewhere
    if dataset == "spair":
        return read_spair(folder, split or "test")
    if split is not None:
        raise ValueError(f"{dataset} has no splits, got {split!r}")
    return read_willow(folder) if dataset == "willow" else read_cub(folder)


@dataclass(frozen=True, slots=True)
class SemanticEvaluator:
    """See `Evaluator`."""

    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """See `Evaluator.settings`."""
        return {"device": self.device}

    def method(self, text: str) -> DenseMethod:
        """Made once in every process."""
        return create_dense_method(text, self.device)

    def identity(self, text: str) -> dict[str, Any]:
        """See `Evaluator.identity`."""
        return self.method(text).identity

    def covers(self, text: str, rules: SemanticProtocol, unit: Category) -> bool:
        """See `Evaluator.covers`: all of them."""
        return True

    def undefined(self, text: str, rules: SemanticProtocol) -> str | None:
        """See `Evaluator.undefined`: none is."""
        return None

    def begin(
        self, text: str, identity: dict[str, Any], unit: Category, store: Store
    ) -> "CategoryEvaluation":
        """See `Evaluator.begin`."""
        return CategoryEvaluation(unit, KeptMaps(unit.folder, self.method(text), identity, store))


@dataclass(frozen=True, slots=True)
class CategoryEvaluation:
    """See `Evaluation`."""

    category: Category
    maps: KeptMaps

    def extract(self, rules: SemanticProtocol) -> None:
        """See `Evaluation.extract`."""
        self.maps.extract(self.category.images, prompt_for(rules, self.category))

    def rows(self, rules: SemanticProtocol) -> list[Row]:
        """See `Evaluation.rows`."""
        prompt = prompt_for(rules, self.category)
        metric = self.maps.method.metric
        rows = evaluate_category(self.category, rules, metric, lambda path: self.maps.of(path, prompt))
        return [{key: value for key, value in row.items() if key != "cell"} for row in rows]


def prompt_for(rules: SemanticProtocol, category: Category) -> str:
    """The text of a category."""
    return rules.prompt.replace("{category}", category.words)

"""Semantic correspondence as a task for a sweep."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.harness.sweep import Maps
from geomatch.benchmarks.tasks.semantic.data import Category
from geomatch.benchmarks.tasks.semantic.evaluation import evaluate_category
from geomatch.benchmarks.tasks.semantic.harness import prompt_for, read_semantic
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol
from geomatch.benchmarks.tasks.semantic.suite import SUITES
from geomatch.images import load_image
from geomatch.types import Metric


@dataclass(frozen=True)
class SemanticTask:
    """PCK of every category of a data set.

    The maps of a category's images in all cells of a timestep are in memory at once: of SPair-71k with Stable
    Diffusion about 0.3 GB for each layer and ensemble size.
    """

    dataset: str
    """``spair``, ``willow`` or ``cub``."""
    data: Path
    """Folder of the release."""
    protocol: SemanticProtocol
    metric: Metric = "cosine"
    split: str | None = None
    """Of SPair-71k; None takes the one that is reported."""

    @cached_property
    def _read(self) -> DataSet[Category]:
        return read_semantic(self.dataset, self.data, self.split)

    @cached_property
    def categories(self) -> dict[str, Category]:
        """By name."""
        return {category.name: category for category in self._read.units}

    @property
    def units(self) -> Sequence[str]:
        """Names of the categories."""
        return list(self.categories)

    def fingerprint(self, unit: str) -> str:
        """Of the category's images and annotations."""
        return self.categories[unit].fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results besides the descriptor."""
        names = {"task": self.dataset, "split": self._read.split}
        return {**names, "protocol": asdict(self.protocol), "metric": self.metric}

    @property
    def headline(self) -> tuple[str, str]:
        """See `Task.headline`."""
        return self.protocol.headline, f"{self.protocol.headline}, %"

    def evaluate(self, unit: str, maps: Maps, cells: Sequence[str]) -> list[Row]:
        """One row per pair and cell."""
        category = self.categories[unit]
        prompt = prompt_for(self.protocol, category)
        return evaluate_category(
            category,
            self.protocol,
            self.metric,
            lambda path: maps(load_image(category.folder / path), prompt),
            cells,
        )

    def measures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """See `Task.measures`."""
        return SUITES[self.dataset].overall(self.protocol, rows)

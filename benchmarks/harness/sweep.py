"""The search of the paper: a task over timesteps, layers and ensemble sizes.

One forward pass serves all layers of a timestep, and the members of the
largest ensemble serve the smaller ones. Every unit of the task (a sequence of
images, say) at every timestep leaves one file, so that a search goes on where
it was stopped and grows when the grid does.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from geomatch.benchmarks.harness.suite import Row
from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap
from geomatch.dift.ensemble import member_activations
from geomatch.dift.files import model_fingerprint
from geomatch.dift.inputs import image_input
from geomatch.errors import ImageError
from geomatch.files import replacing
from geomatch.images import Image
from geomatch.provenance import record

Layer = str | int


class Maps(Protocol):
    """What a sweep gives to its task."""

    def __call__(self, image: Image, prompt: str | None = None) -> Iterator[tuple[str, FeatureMap]]:
        """The image's map in every cell of one timestep, by `cell_name`; made one after the other.

        Args:
            image: the image.
            prompt: for models conditioned on text, instead of the descriptor's.
        """
        ...


class Task(Protocol):
    """A data set with its measure, in units that can be evaluated alone."""

    @property
    def units(self) -> Sequence[str]:
        """Names, which serve as file names."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results besides the descriptor and the data, as JSON can hold it."""
        ...

    def fingerprint(self, unit: str) -> str:
        """Of the data of a unit."""
        ...

    @property
    def headline(self) -> tuple[str, str]:
        """The measure that is drawn, and words for it."""
        ...

    def evaluate(self, unit: str, maps: Maps, cells: Sequence[str]) -> list[Row]:
        """Rows with ``cell``, ``split`` and what was found."""
        ...

    def measures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Of rows of one point of the grid: their number, the measures, and the number of failures."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """What is searched: all combinations."""

    timesteps: tuple[int, ...]
    layers: tuple[Layer, ...]
    """See `DIFTConfig.layers`; each is a descriptor of its own."""
    ensemble_sizes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in ("timesteps", "layers", "ensemble_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different values, at least one, got {values}")
        if min(self.ensemble_sizes) < 1:
            raise ValueError(f"ensemble_sizes must be at least 1, got {self.ensemble_sizes}")

    @property
    def cells(self) -> list[tuple[Layer, int]]:
        """The combinations of one timestep."""
        return [(layer, size) for layer in self.layers for size in self.ensemble_sizes]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """All rows of a search."""

    folder: Path
    """Where the files of this search lie."""
    rows: list[Row]
    """Each with ``timestep``, ``layer``, ``ensemble_size`` and what the task measured."""
    skipped: dict[str, str]
    """Units whose images cannot be read, with the reason."""
    computed: int
    """Files that this run had to compute."""


def cell_name(layer: Layer, ensemble_size: int) -> str:
    """Of a layer and an ensemble size."""
    return f"{layer} x{ensemble_size}"


def run_sweep(task: Task, config: DIFTConfig, grid: Grid, out: Path, progress: bool = True) -> SweepResult:
    """Evaluate a task at every point of the grid; what is on disk already is not computed again.

    Args:
        task: what is measured.
        config: the descriptor, whose timestep, layers and ensemble size are replaced.
        grid: the combinations.
        out: folder under which every search (same task, settings and weights) has a folder of its own.
        progress: show a bar.

    Raises:
        ValueError: for settings that cannot be searched.
        WeightsError: when the model cannot be loaded.
    """
    if config.sampling != "dense" or config.head:
        raise ValueError("a sweep needs dense features without projection head; choose another descriptor")
    largest = max(grid.ensemble_sizes)
    configs = [
        replace(config, timestep=t, layers=grid.layers, ensemble_size=largest) for t in grid.timesteps
    ]  # all are checked before the work begins
    steps = [(timestep, unit) for timestep in grid.timesteps for unit in task.units]
    settings = record(replace(config, timestep=0, layers=(0,), ensemble_size=1, batch_size=None))
    identity = {
        **task.settings,
        "descriptor": settings,
        "model": model_fingerprint(config),
        "version": version("geomatch-dift"),
    }
    text = json.dumps(identity, indent=2, sort_keys=True)
    folder = out / f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "settings.json", text + "\n")

    extractor: DIFTExtractor | None = None
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    computed = 0
    kept = {step: _stored(_path(folder, *step), task.fingerprint(step[1])) for step in steps}
    names = [cell_name(*cell) for cell in grid.cells]
    if any(set(names) - cells.keys() for cells in kept.values()):
        extractor = DIFTExtractor(configs[0])
        extractor.model.check_timestep(max(grid.timesteps))
    for timestep, unit in tqdm(steps, desc="sweep", unit="unit", disable=not progress):
        stored = kept[timestep, unit]
        missing = [cell for cell in grid.cells if cell_name(*cell) not in stored]
        if missing and extractor is not None and unit not in skipped:
            maps = _maps(extractor.at_timestep(timestep), missing, grid.layers)
            try:
                fresh = task.evaluate(unit, maps, [cell_name(*cell) for cell in missing])
            except ImageError as error:
                skipped[unit] = str(error)
                continue
            for row in fresh:
                stored.setdefault(row.pop("cell"), []).append(row)
            content = {"fingerprint": task.fingerprint(unit), "cells": stored}
            _write(_path(folder, timestep, unit), json.dumps(content) + "\n")
            computed += 1
        for layer, size in grid.cells:
            where = {"timestep": timestep, "layer": layer, "ensemble_size": size}
            rows += [{**where, **row} for row in stored.get(cell_name(layer, size), [])]
    return SweepResult(folder, rows, skipped, computed)


def _maps(extractor: DIFTExtractor, cells: Sequence[tuple[Layer, int]], layers: Sequence[Layer]) -> Maps:
    """All wanted cells from one run over the ensemble."""
    wanted = sorted({layers.index(layer) for layer, _ in cells})
    largest = max(size for _, size in cells)
    prompted = {extractor.config.prompt: extractor}

    def maps(image: Image, prompt: str | None = None) -> Iterator[tuple[str, FeatureMap]]:
        text = extractor.config.prompt if prompt is None else prompt
        if text not in prompted:
            prompted[text] = extractor.at_prompt(text)
        own = prompted[text]
        sums: dict[int, torch.Tensor] = {}
        passes = member_activations(own.model, own.config, image_input(image, own.config, own.model.stride))
        for member, found in enumerate(passes, start=1):
            for index in wanted:
                sums[index] = sums[index] + found[index][0] if index in sums else found[index][0]
            for layer, size in cells:
                if size == member:
                    mean = sums[layers.index(layer)] / size
                    yield cell_name(layer, size), FeatureMap((mean,), image.size)
            if member == largest:
                break

    return maps


def _path(folder: Path, timestep: int, unit: str) -> Path:
    return folder / f"{unit}--t{timestep}.json"


def _stored(path: Path, fingerprint: str) -> dict[str, list[Row]]:
    """Rows by cell; nothing if the file is missing, broken or of other data."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells: dict[str, list[Row]] = content["cells"] if content["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return cells


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

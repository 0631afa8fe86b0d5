"""The paper's search: one method at many timesteps, layers and ensemble sizes, as methods of one run.

Methods of one timestep share their passes (`geomatch.benchmarks.methods.together`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.record import markdown_table, summaries_of
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Row, Settings, Task, find_task
from geomatch.benchmarks.methods.strings import named, with_settings
from geomatch.engine import RunContext
from geomatch.errors import require
from geomatch.files import replacing, write_whole

Layer = str | int


@dataclass(frozen=True, slots=True)
class Grid:
    """What is searched: all combinations."""

    timesteps: tuple[int, ...]
    layers: tuple[Layer, ...]  # see `DIFTConfig.layers`; each is a descriptor of its own
    ensemble_sizes: tuple[int, ...] = ()  # None takes the method's own

    def __post_init__(self) -> None:
        for name in ("timesteps", "layers", "ensemble_sizes"):
            values = getattr(self, name)
            if (not values and name != "ensemble_sizes") or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different values, at least one, got {values}")
        if min(self.ensemble_sizes, default=1) < 1:
            raise ValueError(f"ensemble_sizes must be at least 1, got {self.ensemble_sizes}")


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a search found."""

    run: RunResult  # the run of all combinations
    scores: list[Row]
    """One per combination and split: ``timestep``, ``layer``, ``ensemble``, ``split``, number of items,
    measures and ``failures``; split ``all`` first."""
    written: list[Path]  # ``results.json``, ``table.md`` and ``heatmap.png``, in a folder named as the record


def run_sweep(
    name: str,
    data: Path,
    protocol: Any,
    method: str,
    grid: Grid,
    out: Path,
    context: RunContext | None = None,
    settings: Settings | None = None,
) -> SweepResult:
    """Evaluate a method at every point of a grid; other arguments and errors as `run_benchmark`.

    ``method`` is the string of a method with a dense DIFT descriptor, whose timestep, layers and ensemble
    size the grid replaces, and which has no projection head then; ValueError for another. Needs matplotlib.
    """
    require("matplotlib", "report", "drawing the heat map")  # better now than after the work
    task, settings = find_task(name), settings or Settings(cache_features=False)
    parts = task.method(method, settings, "cpu")
    if parts.dift is None or parts.dift.sampling != "dense":
        raise ValueError(f"{method}: a sweep needs dense features of DIFT")
    method = with_settings(method, {"head": "false"}) if parts.dift.head else method
    grid = replace(grid, ensemble_sizes=grid.ensemble_sizes or (parts.dift.ensemble_size,))
    texts = {
        point: with_settings(method, dict(zip(("t", "layer", "ensemble"), point, strict=True)))
        for point in product(grid.timesteps, grid.layers, grid.ensemble_sizes)
    }
    labels = {text: label for label, text in named(texts.values()).items()}
    run = run_benchmark(name, data, [protocol], list(texts.values()), out, context, settings)
    scores = []
    for (timestep, layer, size), text in texts.items():
        where = {"timestep": timestep, "layer": layer, "ensemble": size}
        found = summaries_of(task, protocol, {labels[text]: None}, run.record["rows"])
        for row in sorted(found, key=lambda row: row["split"] != "all"):
            left_out = ("protocol", "method", "keypoints", "failures")
            measures = {key: row[key] for key in row if key not in left_out}
            scores.append({**where, **measures, "failures": row["failures"]})
    folder = run.path.with_suffix("")
    folder.mkdir(exist_ok=True)
    title = f"{method} on {data.name}, {protocol.name}"
    written = [folder / name for name in ("results.json", "table.md", "heatmap.png")]
    content = json.dumps({"scores": scores, "skipped": run.record["skipped"]}, indent=2)
    for path, text in zip(written, (content, scores_table(task, scores)), strict=False):
        write_whole(path, text + "\n")
    _draw(scores, grid, title, written[2], protocol.headline)
    return SweepResult(run, scores, written)


def scores_table(task: Task, scores: Sequence[Row]) -> str:
    """Scores in Markdown."""
    head = [key for key in next(iter(scores), {}) if task.shown(key) and not key.endswith("spread")]
    rows = [
        [f"{value:.1f}" if isinstance(value := score[key], float) else str(value) for key in head]
        for score in scores
    ]
    return markdown_table(head, rows)


def _draw(scores: Sequence[Row], grid: Grid, title: str, path: Path, headline: str) -> None:
    """The headline over layers and timesteps, each with every ensemble size."""
    figures = require("matplotlib.figure", "report", "drawing the heat map")
    values = {(s["timestep"], s["layer"], s["ensemble"]): s[headline] for s in scores if s["split"] == "all"}
    lines = list(product(grid.timesteps, grid.ensemble_sizes))
    table = np.array([[values.get((t, layer, n), np.nan) for layer in grid.layers] for t, n in lines])
    several = len(grid.ensemble_sizes) > 1
    ticks, labels = list(map(str, grid.layers)), [f"{t}, {n}" if several else str(t) for t, n in lines]
    rows, count = table.shape
    figure = figures.Figure(figsize=(2.5 + 0.9 * count, 1.8 + 0.5 * rows), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2 if np.isfinite(table).any() else 0
    for (row, column), value in np.ndenumerate(table):
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    turn = 0 if max(map(len, ticks)) <= 12 else 30
    axes.set_xticks(range(count), ticks, rotation=turn, ha="right" if turn else "center")
    axes.set_yticks(range(rows), labels)
    axes.set(xlabel="layer", ylabel="timestep, ensemble size" if several else "timestep")
    # across the whole figure, in lines: above narrow axes a title would be cut
    figure.suptitle("\n".join(wrap(title, int(12 * figure.get_figwidth()))), fontsize="medium")
    figure.colorbar(image, label=f"{headline}, %")
    with replacing(path) as temporary:
        figure.savefig(temporary)

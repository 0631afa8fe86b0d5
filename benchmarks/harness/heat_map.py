"""Tables and pictures of a search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.harness.sweep import Grid
from geomatch.errors import require
from geomatch.files import replacing

Measures = Callable[[Sequence[Row]], dict[str, Any]]
"""See `Task.measures`."""


def summarise(rows: Sequence[Row], grid: Grid, measures: Measures) -> list[dict[str, Any]]:
    """One entry per point of the grid and split."""
    scores = []
    for timestep in grid.timesteps:
        for layer, size in grid.cells:
            own = [
                r for r in rows if (r["timestep"], r["layer"], r["ensemble_size"]) == (timestep, layer, size)
            ]
            splits = {"all": own}
            for split in sorted({row["split"] for row in rows} - {"all"}):
                splits[split] = [row for row in own if row["split"] == split]
            for split, part in splits.items():
                if part:
                    where = {"timestep": timestep, "layer": layer, "ensemble_size": size, "split": split}
                    scores.append({**where, **measures(part)})
    return scores


def markdown(scores: Sequence[dict[str, Any]]) -> str:
    """The scores as a table."""
    names = {"timestep": "t", "ensemble_size": "ensemble"}
    head = [names.get(key, key.replace("_", " ")) for key in scores[0]]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for score in scores:
        cells = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in score.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_heat_map(
    scores: Sequence[dict[str, Any]], grid: Grid, title: str, path: Path, headline: tuple[str, str]
) -> None:
    """A measure over timestep and layer; with several ensemble sizes, over these and the rest.

    Args:
        scores: see `summarise`.
        grid: of the search.
        title: of the picture.
        path: of the PNG.
        headline: the measure and words for it.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figures = require("matplotlib.figure", "plots", "drawing the heat map")
    values = {
        (score["timestep"], score["layer"], score["ensemble_size"]): score[headline[0]]
        for score in scores
        if score["split"] == "all"
    }
    sizes = grid.ensemble_sizes
    if len(sizes) > 1:
        columns = [(t, layer) for t in grid.timesteps for layer in grid.layers]
        table = np.array([[values.get((*column, size), np.nan) for column in columns] for size in sizes])
        ticks = [f"t={t}\n{layer}" for t, layer in columns]
        labels, left, below = [str(size) for size in sizes], "ensemble size", "timestep and layer"
    else:
        layers = grid.layers
        table = np.array(
            [[values.get((t, layer, sizes[0]), np.nan) for layer in layers] for t in grid.timesteps]
        )
        ticks, labels = [str(layer) for layer in layers], [str(t) for t in grid.timesteps]
        left, below = "timestep", "layer"
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
    axes.set(xlabel=below, ylabel=left, title=title)
    figure.colorbar(image, label=headline[1])
    with replacing(path) as temporary:
        figure.savefig(temporary)

"""The picture of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomatch.errors import require
from geomatch.files import replacing

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.sweep import Grid


def draw_heat_map(
    scores: Sequence[dict[str, Any]], grid: "Grid", title: str, path: Path, headline: str
) -> None:
    """A measure over timestep and layer; with several ensemble sizes, over these and the rest.

    Args:
        scores: see `SweepResult.scores`.
        grid: what was searched.
        title: above the picture.
        path: of the PNG.
        headline: the measure, in percent.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figures = require("matplotlib.figure", "plots", "drawing the heat map")
    values = {
        (score["timestep"], score["layer"], score["ensemble"]): score[headline]
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
    figure.colorbar(image, label=f"{headline}, %")
    with replacing(path) as temporary:
        figure.savefig(temporary)

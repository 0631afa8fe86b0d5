"""Tables and pictures of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.sweep import Grid, Row
from geomatch.files import replacing
from geomatch.optional import require

THRESHOLDS = (1.0, 3.0, 5.0)
"""Pixels of mean corner error at which a homography counts as right."""
SHOWN = 3.0
"""The one in the picture."""


def accuracy(rows: Sequence[Row], threshold: float) -> float:
    """Percentage of pairs whose corner error is at most ``threshold``; failures count as wrong."""
    errors = np.array([np.inf if row["corner_error_px"] is None else row["corner_error_px"] for row in rows])
    return 100 * float(np.mean(errors <= threshold))


def summarise(rows: Sequence[Row], grid: Grid) -> list[dict[str, Any]]:
    """One entry per point of the grid and split, with numbers of pairs and of failures."""
    scores = []
    for timestep in grid.timesteps:
        for layer, size in grid.cells:
            own = [
                r for r in rows if (r["timestep"], r["layer"], r["ensemble_size"]) == (timestep, layer, size)
            ]
            splits = {"all": own} | {
                split: [r for r in own if r["split"] == split] for split in _splits(rows)
            }
            for split, part in splits.items():
                if not part:
                    continue
                score: dict[str, Any] = {"timestep": timestep, "layer": layer, "ensemble_size": size}
                score |= {"split": split, "pairs": len(part)}
                score |= {f"accuracy_{t:g}px": accuracy(part, t) for t in THRESHOLDS}
                score["correct_matches"] = 100 * float(np.mean([row["correct_share"] for row in part]))
                score["failures"] = sum(row["corner_error_px"] is None for row in part)
                scores.append(score)
    return scores


def markdown(scores: Sequence[dict[str, Any]]) -> str:
    """The scores as a table."""
    head = [
        "t",
        "layer",
        "ensemble",
        "split",
        "pairs",
        "@1 px",
        "@3 px",
        "@5 px",
        "correct matches",
        "failures",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for score in scores:
        values = [f"{score[f'accuracy_{t:g}px']:.1f}" for t in THRESHOLDS]
        names = [score["timestep"], score["layer"], score["ensemble_size"], score["split"], score["pairs"]]
        cells = [*map(str, names), *values, f"{score['correct_matches']:.1f} %", str(score["failures"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_heat_map(scores: Sequence[dict[str, Any]], grid: Grid, title: str, path: Path) -> None:
    """Accuracy over timestep and layer; with several ensemble sizes, over these and the rest.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figures = require("matplotlib.figure", "plots", "drawing the heat map")
    values = {
        (score["timestep"], score["layer"], score["ensemble_size"]): score[f"accuracy_{SHOWN:g}px"]
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
    figure.colorbar(image, label=f"homographies within {SHOWN:g} px, %")
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _splits(rows: Sequence[Row]) -> list[str]:
    return sorted({row["split"] for row in rows})

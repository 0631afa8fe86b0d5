"""Curves for the report: SVG whose colours and letters are the page's."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.hpatches.protocols import MMA_THRESHOLDS, Protocol, Row, errors_of
from geomatch.optional import require

COLOURS = 8
"""Of the page; further methods have dashes."""
_INK, _FAINT = "#010101", "#020202"
_LINES = [f"#0300{index:02x}" for index in range(COLOURS)]
_LIMIT = 10.0


def curve(protocol: Protocol, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds in pixels, and the percentage within: of pairs by corner error, or of matches (MMA)."""
    if protocol.kind == "mma":
        shares = np.array([np.array(row["within"]) / max(1, row["matches"]) for row in rows])
        return np.array(MMA_THRESHOLDS, np.float64), 100 * shares.mean(axis=0)
    errors = np.sort(np.array([errors_of(row, "errors_px") for row in rows]).ravel())
    x = np.concatenate([[0.0], errors[errors <= _LIMIT], [_LIMIT]])
    return x, 100 * np.searchsorted(errors, x, side="right") / len(errors)


def draw_curves(protocol: Protocol, by_method: Mapping[str, Sequence[Row]], title: str) -> str:
    """One chart as SVG for a page that defines ``--ink``, ``--faint`` and ``--c0`` to ``--c7``.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    matplotlib = require("matplotlib", "plots", "drawing the report's curves")
    figures = require("matplotlib.figure", "plots", "drawing the report's curves")
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"{protocol.name} {title}", "font.size": 11}
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    with matplotlib.rc_context(settings | colours | {"axes.edgecolor": _FAINT}):
        figure = figures.Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        steps = "default" if protocol.kind == "mma" else "steps-post"
        for index, rows in enumerate(by_method.values()):
            style = ("-", "--", ":")[index // COLOURS % 3]
            x, y = curve(protocol, rows)
            axes.plot(x, y, style, drawstyle=steps, color=_LINES[index % COLOURS], linewidth=2)
        axes.set_ylim(0, 100)
        axes.set_xlim(1 if protocol.kind == "mma" else 0, x[-1])
        unit = "matches" if protocol.kind == "mma" else "pairs"
        axes.set(xlabel="threshold, px", ylabel=f"{unit} within it, %", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=_FAINT, linewidth=0.5, alpha=0.5)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font(-family)?: [^;\"]*", "font: 11px system-ui, sans-serif", svg)
    names = {_INK: "ink", _FAINT: "faint"} | {line: f"c{index}" for index, line in enumerate(_LINES)}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg

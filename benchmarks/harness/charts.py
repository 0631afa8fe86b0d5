"""Curves for the report, as SVG whose colours and letters are the page's."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from geomatch.benchmarks.harness.task import Row, Task
from geomatch.errors import require

COLOURS = 8  # colours of the page; further methods have dashes
_INK, _FAINT = "#010101", "#020202"
_LINES = [f"#0300{index:02x}" for index in range(COLOURS)]


def draw_curves(task: Task, protocol: Any, by_method: Mapping[str, Sequence[Row]], title: str) -> str:
    """One chart as SVG for a page that defines ``--ink``, ``--faint`` and ``--c0`` to ``--c7``."""
    matplotlib = require("matplotlib", "report", "drawing the report's curves")
    figures = require("matplotlib.figure", "report", "drawing the report's curves")
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"{protocol.name} {title}", "font.size": 11}
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    with matplotlib.rc_context(settings | colours | {"axes.edgecolor": _FAINT}):
        figure = figures.Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        words = task.axes(protocol)
        x_end = words.start
        for index, rows in enumerate(by_method.values()):
            if not rows:
                continue  # a method keeps its colour
            style = ("-", "--", ":")[index // COLOURS % 3]
            x, y = task.curve(protocol, rows)
            x_end = float(x[-1])
            steps = "steps-post" if words.steps else "default"
            axes.plot(x, y, style, drawstyle=steps, color=_LINES[index % COLOURS], linewidth=2)
        axes.set_ylim(0, 100)
        axes.set_xlim(words.start, x_end)
        axes.set(xlabel=words.x, ylabel=words.y, title=title)
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

"""Data sets of semantic correspondence as records and reports know them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.suite import Axes, Picture, Row, Statistic, Suite, threshold_of
from geomatch.benchmarks.tasks.semantic.pictures import draw
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol, summarise
from geomatch.dift.maps.transfer import SOFT_RADIUS, SOFT_TEMPERATURE

_LIMIT = 0.3
"""Alpha at the end of curves."""


def rules_of(fields: dict[str, Any]) -> SemanticProtocol:
    """A protocol from the fields of a record."""
    return SemanticProtocol(**{**fields, "alphas": tuple(fields["alphas"])})


def in_words(protocol: SemanticProtocol) -> list[tuple[str, str]]:
    """A protocol's definition."""
    lengths = {"box": "longer side of the target's box", "image": "longer side of the target image"}
    rules = {
        "argmax": "most similar pixel",
        "soft-argmax": f"softmax of similarities / {SOFT_TEMPERATURE:g} over the cells within {SOFT_RADIUS} "
        "of the best",
    }
    return [
        ("source", protocol.source),
        ("right within", f"alpha x {lengths[protocol.reference]}"),
        ("place", rules[protocol.rule]),
        ("prompt", protocol.prompt or "none"),
    ]


def values(protocol: SemanticProtocol, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(pairs, 2) right points at the headline's alpha, and all points."""
    alpha = threshold_of(protocol.headline)
    right = [sum(e is not None and e <= alpha for e in row["errors"]) for row in rows]
    return np.array([(hits, len(row["errors"])) for hits, row in zip(right, rows, strict=True)], np.float64)


def statistic(protocol: SemanticProtocol) -> Statistic:
    """From `values` to PCK per point, or per image if that is the headline."""
    if protocol.headline.endswith("per image"):
        return lambda values: 100 * float((values[:, 0] / values[:, 1]).mean())
    return lambda values: 100 * float(values[:, 0].sum() / values[:, 1].sum())


def badness(protocol: SemanticProtocol, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(pairs,) the share of wrong points."""
    return np.asarray(1 - values[:, 0] / values[:, 1], np.float64)


def worst(protocol: SemanticProtocol, row: Row) -> list[tuple[str, str]]:
    """Headings and cells of a pair among the worst."""
    right, count = values(protocol, [row])[0]
    known = [error for error in row["errors"] if error is not None]
    middle = f"{np.median(known):.2f}" if known else "-"
    return [(protocol.headline, f"{100 * right / count:.0f} %"), ("points", f"{count:.0f}"),
            ("median error / length", middle)]  # fmt: skip


def axes(protocol: SemanticProtocol) -> Axes:
    """Words of the chart."""
    return Axes("Points within a share of the reference length", "alpha", "points within it, %")


def curve(protocol: SemanticProtocol, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alphas, and the percentage of points within."""
    errors = np.sort([np.inf if error is None else error for row in rows for error in row["errors"]])
    # thousands of points: the curve of every hundredth looks the same
    x = np.linspace(0, _LIMIT, 121)
    return x, 100 * np.searchsorted(errors, x, side="right") / len(errors)


def _suite(name: str, title: str, unit: tuple[str, str], whole: str) -> Suite:
    def picture(rules: SemanticProtocol, row: Row, wanted: Picture) -> str:
        return draw(name, rules, row, wanted)

    return Suite(
        name=name,
        title=title,
        unit=unit,
        item="pairs",
        whole=whole,
        package="geomatch.benchmarks.tasks.semantic",
        splits=("all",),
        rules_of=rules_of,
        in_words=in_words,
        summarise=summarise,
        values=values,
        statistic=statistic,
        badness=badness,
        worst=worst,
        axes=axes,
        curve=curve,
        draw=picture,
        caption="its points and where they were found: green within the headline's alpha, red not",
    )


SUITES = {
    "spair": _suite("spair", "SPair-71k", ("category", "categories"), "18"),
    "willow": _suite("willow", "PF-WILLOW", ("class", "classes"), "10"),
    "cub": _suite("cub", "CUB-200-2011", ("split", "splits"), "14"),
}
"""By name."""

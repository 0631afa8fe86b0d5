"""HPatches as records and reports know it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.suite import Axes, Picture, Row, Statistic, Suite
from geomatch.benchmarks.tasks.homography.measures import accuracy, trapezoid_auc
from geomatch.benchmarks.tasks.homography.pictures import picture
from geomatch.benchmarks.tasks.homography.protocols import (
    MMA_THRESHOLDS,
    SPLITS,
    Protocol,
    errors_of,
    summarise,
)
from geomatch.benchmarks.tasks.homography.sequences import read_data
from geomatch.errors import GeomatchError

_MMA = ("MMA@1", "MMA@2", "MMA@3", "MMA@5", "MMA@10")
_LIMIT = 10.0
"""Pixels; the end of curves."""


def rules_of(fields: dict[str, Any]) -> Protocol:
    """A protocol from the fields of a record."""
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Protocol(**{**fields, **lists})


def in_words(protocol: Protocol) -> list[tuple[str, str]]:
    """A protocol's definition."""
    frame = {
        "original": "original pixels",
        "short480": "short side 480 pixels",
        "crop640x480": "grey, centre crop of 640 x 480 pixels (repeatability: 320 x 240)",
    }
    found = [
        ("source", protocol.source),
        ("sequences", "116" if protocol.large else "108, without the eight largest"),
        ("frame", frame[protocol.frame]),
        ("keypoints", f"best {protocol.max_keypoints}" + (", distinct places" if protocol.unique else "")),
        ("matches", f"best {protocol.max_matches}" if protocol.max_matches else "all mutual neighbours"),
    ]
    if protocol.solver:
        seeds = f", {protocol.seeds} orders of the matches" if protocol.seeds > 1 else ""
        name, threshold = protocol.solver.split()
        limit = "" if name == "lmeds" else f", {threshold} px"
        found.append(("estimator", f"{name}{limit}{seeds}"))
    if protocol.relative_to:
        found.append(("unit", f"(short side of image 2) / {protocol.relative_to:g} pixels"))
    return found


def values(protocol: Protocol, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(pairs, seeds) errors in pixels, or the share of right matches."""
    if protocol.kind == "mma":
        threshold = int(protocol.headline.split("@")[1])
        return np.array([[row["within"][threshold - 1] / max(1, row["matches"])] for row in rows])
    return np.array([errors_of(row, "errors_px") for row in rows])


def statistic(protocol: Protocol) -> Statistic:
    """From `values` to the headline measure in percent."""
    name, _, number = protocol.headline.partition("@")
    threshold = float(number)
    if name == "MMA":
        return lambda values: 100 * float(values.mean())
    measure = {"accuracy": accuracy, "AUC": trapezoid_auc}[name]
    return lambda values: 100 * float(np.mean([measure(column, threshold) for column in values.T]))


def badness(protocol: Protocol, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(pairs,) larger for worse."""
    means = values.mean(axis=1)
    return np.asarray(-means if protocol.kind == "mma" else means, np.float64)


def worst(protocol: Protocol, row: Row) -> list[tuple[str, str]]:
    """Headings and cells of a pair among the worst."""
    value = float(values(protocol, [row]).mean())
    if protocol.kind == "mma":
        cells = [(protocol.headline, f"{100 * value:.1f} %")]
    else:
        cells = [("corner error", f"{value:.1f} px" if math.isfinite(value) else _failures(row))]
    cells += [("keypoints", " / ".join(map(str, row["keypoints"]))), ("matches", str(row["matches"]))]
    return cells if protocol.kind == "mma" else [*cells, ("inliers", str(row["inliers"][0]))]


def _failures(row: Row) -> str:
    errors = row["errors_px"]
    failed = sum(error is None for error in errors)
    return "no homography" + (f" in {failed} of {len(errors)} orders" if failed < len(errors) else "")


def axes(protocol: Protocol) -> Axes:
    """Words of the chart."""
    if protocol.kind == "mma":
        return Axes(
            "Matches within a distance of the truth", "threshold, px", "matches within it, %", False, 1.0
        )
    return Axes("Pairs within a corner error", "threshold, px", "pairs within it, %")


def curve(protocol: Protocol, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds in pixels, and the percentage within: of pairs by corner error, or of matches (MMA)."""
    if protocol.kind == "mma":
        shares = np.array([np.array(row["within"]) / max(1, row["matches"]) for row in rows])
        return np.array(MMA_THRESHOLDS, np.float64), 100 * shares.mean(axis=0)
    errors = np.sort(np.array([errors_of(row, "errors_px") for row in rows]).ravel())
    x = np.concatenate([[0.0], errors[errors <= _LIMIT], [_LIMIT]])
    return x, 100 * np.searchsorted(errors, x, side="right") / len(errors)


def draw(protocol: Protocol, row: Row, wanted: Picture) -> str:
    """A JPEG as a data URL: the best matches of a pair."""
    name, _, number = row["pair"].partition(" 1-")
    sequences = {s.name: s for s in read_data(wanted.data).sequences}
    if name not in sequences or sequences[name].fingerprint != wanted.fingerprints[name]:
        raise GeomatchError("the sequence is not in the folder given, or is another one there")
    count = wanted.settings["max_keypoints"]
    return picture(sequences[name], number, wanted.method, protocol, wanted.store, count)


SUITE = Suite(
    name="hpatches",
    title="HPatches",
    unit=("sequence", "sequences"),
    item="pairs",
    whole="116 sequences",
    package="geomatch.benchmarks.tasks.homography",
    splits=tuple(reversed(SPLITS)),
    rules_of=rules_of,
    in_words=in_words,
    summarise=summarise,
    shown=lambda measure: not measure.startswith("MMA") or measure in _MMA,
    values=values,
    statistic=statistic,
    badness=badness,
    worst=worst,
    axes=axes,
    curve=curve,
    draw=draw,
    caption="its surest matches, green within 3 px of the truth, red not",
)
SUITES = {"hpatches": SUITE}
"""By name."""

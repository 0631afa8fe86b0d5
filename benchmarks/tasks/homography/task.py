"""HPatches as a task: methods on a sequence, sums over pairs, and what reports show."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np

from geomatch.benchmarks.harness.measures import (
    accuracy,
    area_under_curve,
    mean_accuracy,
    recall_curve,
    with_failures,
)
from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.homography import evaluation
from geomatch.benchmarks.tasks.homography.protocols import (
    MMA_THRESHOLDS,
    PAIR_PROTOCOLS,
    PROTOCOLS,
    HomographyProtocol,
)
from geomatch.benchmarks.tasks.homography.sequences import LARGE, LAYOUTS, read_hpatches, read_planes
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairEvaluation
from geomatch.benchmarks.tasks.pairs.views import SMALL, FramedPair

_MMA = ("MMA@1", "MMA@2", "MMA@3", "MMA@5", "MMA@10")
_MEASURES = {"accuracy": accuracy, "AUC": area_under_curve, "mAA": mean_accuracy}
_LIMIT = 10.0  # pixels; the end of curves


def _measured(
    protocol: HomographyProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair
) -> Row:
    chosen = protocol
    if method.estimator and protocol.solver:
        chosen = replace(protocol, solver=f"{method.estimator} {protocol.solver.split()[1]}")
    match = None if method.pair_matcher else method.match
    weighted = match is None or method.matcher is not None
    small = framed[1] if len(framed) > 1 else None
    return evaluation.evaluate(chosen, framed[0], pair.truth, match, small, weighted)


def _measures(protocol: HomographyProtocol, rows: Sequence[Row]) -> dict[str, float | None]:
    """In percent, None without any pair that has them."""
    if protocol.kind == "mma":
        return {
            f"MMA@{t}": 100 * sum(row["within"][t - 1] / max(1, row["matches"]) for row in rows) / len(rows)
            for t in MMA_THRESHOLDS
        }
    measures: dict[str, float | None] = {}
    if protocol.kind == "superpoint":
        for name in ("repeatability", "localisation_px", "average_precision", "matching_score"):
            measures[name] = _mean([row[name] for row in rows if row[name] is not None])
    for column in dict.fromkeys(key for row in rows for key in row if key.startswith("errors_")):
        per_seed = list(zip(*(with_failures(row[column]) for row in rows if column in row), strict=True))
        label = "" if column == "errors_px" else column.removeprefix("errors_") + " "
        wanted = [("accuracy", t) for t in protocol.accuracies] + [("AUC", t) for t in protocol.areas]
        wanted += [("mAA", t) for t in protocol.means]
        for name, threshold in wanted:
            found = [100 * _MEASURES[name](errors, threshold) for errors in per_seed]
            measures[f"{label}{name}@{threshold:g}"] = _mean(found)
            if len(found) > 1:
                measures[f"{label}{name}@{threshold:g} spread"] = max(found) - min(found)
    if protocol.everywhere:
        measures["without corner error"] = sum("errors_px" not in row for row in rows)
    for name in (f"precision@{threshold:g}" for threshold in protocol.precisions):
        measures[name] = 100 * sum(row[name] for row in rows) / len(rows)
    return measures


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _notes(protocol: HomographyProtocol) -> Words:
    found = [
        ("visible", "mean error over the part of image 0 that image 1 shows"),
        ("back, points", "errors of the corners of image 1 in image 0, and of the set's own points"),
        ("mAA", "mean of the accuracy at ten thresholds from 1 px, each larger by the same factor"),
    ]
    return found if protocol.everywhere else []


def _values(protocol: HomographyProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, seeds) errors in pixels, or the share of right matches."""
    if protocol.kind == "mma":
        threshold = int(protocol.headline.split("@")[1])
        return np.array([[row["within"][threshold - 1] / max(1, row["matches"])] for row in rows])
    return np.array([with_failures(row[_column(protocol)]) for row in rows])


def _column(protocol: HomographyProtocol) -> str:
    """The errors that the headline is of."""
    return f"errors_{protocol.headline.rpartition(' ')[0] or 'px'}"


def _statistic(protocol: HomographyProtocol, found: Values) -> float:
    name, _, number = protocol.headline.rpartition(" ")[2].partition("@")
    if name == "MMA":
        return 100 * float(found.mean())
    return 100 * float(np.mean([_MEASURES[name](column, float(number)) for column in found.T]))


def _worst(protocol: HomographyProtocol, row: Row) -> Words:
    counts = [("keypoints", " / ".join(map(str, row["keypoints"]))), ("matches", str(row["matches"]))]
    value = float(_values(protocol, [row]).mean())
    if protocol.kind == "mma":
        return [(protocol.headline, f"{100 * value:.1f} %"), *counts]
    errors = row[_column(protocol)]
    failures = sum(error is None for error in errors)
    text = "no homography" + (f" in {failures} of {len(errors)} orders" if failures < len(errors) else "")
    error = f"{value:.1f} px" if math.isfinite(value) else text
    found = [("error" if protocol.everywhere else "corner error", error), *counts]
    found.append(("inliers", str(row["inliers"][0])))
    return [*found, ("note", row.get("warning") or "-")] if protocol.everywhere else found


def _axes(protocol: HomographyProtocol) -> Axes:
    if protocol.kind == "mma":
        return Axes(
            "Matches within a distance of the truth", "threshold, px", "matches within it, %", False, 1
        )
    what = "mean error where visible" if protocol.everywhere else "corner error"
    return Axes(f"Pairs within a {what}", "threshold, px", "pairs within it, %")


def curve(protocol: HomographyProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in pixels, and the percentage within: of pairs by their error, or of matches (MMA)."""
    if protocol.kind == "mma":
        shares = np.array([np.array(row["within"]) / max(1, row["matches"]) for row in rows])
        return np.array(MMA_THRESHOLDS, np.float64), 100 * shares.mean(axis=0)
    return recall_curve(_values(protocol, rows), max(protocol.means, default=_LIMIT))


def _undefined(protocol: HomographyProtocol, method: Method) -> str | None:
    if method.pair_matcher is not None and protocol.kind == "superpoint":
        return "it has no keypoints that could repeat"
    return None


HPATCHES = Task(
    "hpatches", "HPatches", ("sequence", "sequences"), "pairs", 116, read_hpatches, PROTOCOLS,
    partial(PairEvaluation, measured=_measured, paper=attrgetter("paper_sampling"),
            frames=lambda protocol: [protocol.frame] + [SMALL] * (protocol.kind == "superpoint")),
    _measures, _values, _statistic,
    lambda protocol, found: found.mean(axis=1) * (-1 if protocol.kind == "mma" else 1), _worst, _axes, curve,
    splits=("all", "viewpoint", "illumination"), dense=False, notes=_notes,
    covers=lambda protocol, sequence: protocol.large or sequence.name not in LARGE,
    undefined=_undefined, shown=lambda measure: not measure.startswith("MMA") or measure in _MMA,
)  # fmt: skip
TASKS = {"hpatches": HPATCHES} | {
    name: replace(
        HPATCHES, name=name, title=layout.title, unit=("scene", "scenes"), whole=layout.whole,
        read=partial(read_planes, name), protocols=PAIR_PROTOCOLS, splits=("all",),
    )
    for name, layout in LAYOUTS.items()
    if name != "hpatches"
}  # fmt: skip

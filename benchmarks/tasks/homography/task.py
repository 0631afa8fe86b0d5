"""HPatches as a task: methods on a sequence, sums over pairs, and what reports show."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.charts import draw_points
from geomatch.benchmarks.harness.measures import accuracy, area_under_curve
from geomatch.benchmarks.harness.task import (
    Axes,
    Curve,
    Entry,
    Picture,
    Row,
    Settings,
    Task,
    Values,
    Words,
    by_split,
)
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.homography import evaluation
from geomatch.benchmarks.tasks.homography.measures import match_distances
from geomatch.benchmarks.tasks.homography.protocols import (
    MMA_THRESHOLDS,
    PROTOCOLS,
    HomographyProtocol,
)
from geomatch.benchmarks.tasks.homography.sequences import LARGE, read_hpatches
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, Measuring, PairEvaluation
from geomatch.benchmarks.tasks.pairs.matches import matched_points
from geomatch.benchmarks.tasks.pairs.views import SMALL, Frame, FramedPair, Views
from geomatch.errors import GeomatchError

SPLITS = ("illumination", "viewpoint", "all")
_MMA = ("MMA@1", "MMA@2", "MMA@3", "MMA@5", "MMA@10")
_MEASURES = {"accuracy": accuracy, "AUC": area_under_curve}
_LIMIT = 10.0  # pixels; the end of curves
_DRAWN = 60  # best matches in a picture


def _measured(
    protocol: HomographyProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair
) -> Row:
    chosen = protocol
    if method.estimator and protocol.solver:
        chosen = replace(protocol, solver=f"{method.estimator} {protocol.solver.split()[1]}")
    views = [_with_truth(own, pair) for own in framed]
    match = None if method.pair_matcher else method.match
    weighted = match is None or method.matcher is not None
    return evaluation.evaluate(chosen, views[0], match, views[1] if len(views) > 1 else None, weighted)


def _with_truth(framed: FramedPair, pair: ImagePair) -> evaluation.Pair:
    truth = framed.matrix1 @ pair.truth @ np.linalg.inv(framed.matrix0)
    return evaluation.Pair(framed.features0, framed.features1, truth)


def _frames(protocol: HomographyProtocol) -> tuple[Frame, ...]:
    return (protocol.frame, SMALL) if protocol.kind == "superpoint" else (protocol.frame,)


def summarise(protocol: HomographyProtocol, rows: Sequence[Row]) -> list[Row]:
    """One row per split of one method's: pairs, failures, and measures in percent, None without any pair."""
    return by_split("pairs", rows, SPLITS, partial(_measures, protocol))


def _measures(protocol: HomographyProtocol, rows: Sequence[Row]) -> dict[str, float | None]:
    if protocol.kind == "mma":
        return {
            f"MMA@{t}": 100 * sum(row["within"][t - 1] / max(1, row["matches"]) for row in rows) / len(rows)
            for t in MMA_THRESHOLDS
        }
    measures: dict[str, float | None] = {}
    if protocol.kind == "superpoint":
        for name in ("repeatability", "localisation_px", "average_precision", "matching_score"):
            measures[name] = _mean([row[name] for row in rows if row[name] is not None])
    for column in (key for key in rows[0] if key.startswith("errors_")):
        per_seed = list(zip(*(errors_of(row, column) for row in rows), strict=True))
        label = "" if column == "errors_px" else column.removeprefix("errors_") + " "
        wanted = [("accuracy", t) for t in protocol.accuracies] + [("AUC", t) for t in protocol.areas]
        for name, threshold in wanted:
            found = [100 * _MEASURES[name](errors, threshold) for errors in per_seed]
            measures[f"{label}{name}@{threshold:g}"] = _mean(found)
            if len(found) > 1:
                measures[f"{label}{name}@{threshold:g} spread"] = max(found) - min(found)
    for name in (f"precision@{threshold:g}" for threshold in protocol.precisions):
        measures[name] = 100 * sum(row[name] for row in rows) / len(rows)
    return measures


def errors_of(row: Row, column: str) -> list[float]:
    """One error per seed in pixels, infinity for a failure."""
    return [float("inf") if error is None else error for error in row[column]]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _in_words(protocol: HomographyProtocol) -> Words:
    frame = {
        "original": "original pixels",
        "short480": "short side 480 pixels",
        "crop640x480": "grey, centre crop of 640 x 480 pixels (repeatability: 320 x 240)",
    }
    found = [
        ("source", protocol.source),
        ("sequences", "all" if protocol.large else "all but the eight largest"),
        ("frame", frame[protocol.frame]),
        ("keypoints", f"at most {protocol.max_keypoints}" + (", distinct places" if protocol.unique else "")),
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


def _values(protocol: HomographyProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, seeds) errors in pixels, or the share of right matches."""
    if protocol.kind == "mma":
        threshold = int(protocol.headline.split("@")[1])
        return np.array([[row["within"][threshold - 1] / max(1, row["matches"])] for row in rows])
    return np.array([errors_of(row, "errors_px") for row in rows])


def _statistic(protocol: HomographyProtocol, found: Values) -> float:
    name, _, number = protocol.headline.partition("@")
    if name == "MMA":
        return 100 * float(found.mean())
    return 100 * float(np.mean([_MEASURES[name](column, float(number)) for column in found.T]))


def _severity(protocol: HomographyProtocol, found: Values) -> NDArray[np.float64]:
    means = found.mean(axis=1)
    return np.asarray(-means if protocol.kind == "mma" else means, np.float64)


def _worst(protocol: HomographyProtocol, row: Row) -> Words:
    counts = [("keypoints", " / ".join(map(str, row["keypoints"]))), ("matches", str(row["matches"]))]
    value = float(_values(protocol, [row]).mean())
    if protocol.kind == "mma":
        return [(protocol.headline, f"{100 * value:.1f} %"), *counts]
    errors = row["errors_px"]
    failures = sum(error is None for error in errors)
    text = "no homography" + (f" in {failures} of {len(errors)} orders" if failures < len(errors) else "")
    error = f"{value:.1f} px" if math.isfinite(value) else text
    return [("corner error", error), *counts, ("inliers", str(row["inliers"][0]))]


def _axes(protocol: HomographyProtocol) -> Axes:
    if protocol.kind == "mma":
        return Axes(
            "Matches within a distance of the truth", "threshold, px", "matches within it, %", False, 1
        )
    return Axes("Pairs within a corner error", "threshold, px", "pairs within it, %")


def curve(protocol: HomographyProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in pixels, and the percentage within: of pairs by corner error, or of matches (MMA)."""
    if protocol.kind == "mma":
        shares = np.array([np.array(row["within"]) / max(1, row["matches"]) for row in rows])
        return np.array(MMA_THRESHOLDS, np.float64), 100 * shares.mean(axis=0)
    errors = np.sort(np.array([errors_of(row, "errors_px") for row in rows]).ravel())
    x = np.concatenate([[0.0], errors[errors <= _LIMIT], [_LIMIT]])
    return x, 100 * np.searchsorted(errors, x, side="right") / len(errors)


def _draw(protocol: HomographyProtocol, row: Row, wanted: Picture) -> str:
    """The best matches of a pair, in the original frame whatever the protocol's, as a JPEG's data URL."""
    name = row["pair"].partition(" ")[0]
    units = {unit.name: unit for unit in read_hpatches(wanted.data).units}
    if name not in units or units[name].fingerprint != wanted.record["units"][name]:
        raise GeomatchError("the sequence is not in the folder given, or is another one there")
    method = create_method(wanted.method, wanted.settings["max_keypoints"])
    pair = next(pair for pair in units[name].pairs if pair.name == row["pair"])
    views = Views([Entry(method, method.key())], wanted.store)
    match = None if method.pair_matcher else method.match
    whole = _with_truth(views.pairs(pair.paths, "original", False, [0])[0], pair)
    own = evaluation.limited_pair(protocol, whole, match)
    points0, points1, _ = matched_points(protocol, own.features0, own.features1, match)
    points0, points1 = points0[:_DRAWN], points1[:_DRAWN]
    right = match_distances(points0, points1, pair.truth) <= evaluation.CORRECT_PX
    return draw_points(pair.paths, points0, points1, right)


def _method(text: str, settings: Settings, device: str) -> Method:
    return create_method(text, settings.max_keypoints, device)


def _undefined(protocol: HomographyProtocol, method: Method) -> str | None:
    if method.pair_matcher is not None and protocol.kind == "superpoint":
        return "it has no keypoints that could repeat"
    return None


_MEASURING = Measuring(_frames, _measured, evaluation.failed, lambda protocol: protocol.paper_sampling)
HPATCHES = Task(
    "hpatches", "HPatches", ("sequence", "sequences"), "pairs", 116, read_hpatches, PROTOCOLS,
    partial(PairEvaluation, measuring=_MEASURING), _in_words,
    summarise, _values, _statistic, _severity, _worst, _axes, curve,
    splits=tuple(reversed(SPLITS)), method=_method, dense=False,
    covers=lambda protocol, sequence: protocol.large or sequence.name not in LARGE,
    undefined=_undefined, shown=lambda measure: not measure.startswith("MMA") or measure in _MMA,
    draw=_draw, caption="its best matches, green within 3 px of the truth, red not",
)  # fmt: skip
TASKS = {"hpatches": HPATCHES}

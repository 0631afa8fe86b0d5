"""Relative pose as tasks: methods on a scene, sums over pairs, and what reports show."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from geomatch.benchmarks.harness.measures import area_under_curve, recall_curve, with_failures
from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words, threshold_of
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairEvaluation
from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.benchmarks.tasks.pose.data import read_cameras
from geomatch.benchmarks.tasks.pose.evaluation import evaluate
from geomatch.benchmarks.tasks.pose.protocols import MEGADEPTH, POSE, SCANNET, PoseProtocol
from geomatch.estimators.solvers import OPENCV_METHODS

_LIMIT = 20.0  # degrees; the end of curves


def _measured(protocol: PoseProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair) -> Row:
    chosen = replace(protocol, estimator=method.estimator) if method.estimator else protocol
    return evaluate(chosen, framed[0], None if method.pair_matcher else method.match, pair.truth)


def _undefined(protocol: PoseProtocol, method: Method) -> str | None:
    known = ("poselib", *(name for name in OPENCV_METHODS if name != "rho"))
    if method.estimator and method.estimator not in known:
        return f"{method.estimator} estimates no essential matrix; choose one of: {', '.join(known)}"
    return None


def _values(protocol: PoseProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, seeds) errors in degrees, infinite for failures."""
    return np.array([with_failures(row["errors_deg"]) for row in rows])


def _area(protocol: PoseProtocol, found: Values, limit: float) -> list[float]:
    """In percent, under the errors of each run, or of all."""
    runs = [found.ravel()] if protocol.pooled else list(found.T)
    return [100 * area_under_curve(errors, limit) for errors in runs]


def _statistic(protocol: PoseProtocol, found: Values) -> float:
    return float(np.mean(_area(protocol, found, threshold_of(protocol.headline))))


def _measures(protocol: PoseProtocol, rows: Sequence[Row]) -> Row:
    """Areas in percent, and the mean share of right matches."""
    found: Row = {}
    for limit in protocol.areas:
        areas = _area(protocol, _values(protocol, rows), limit)
        found[f"AUC@{limit:g}"] = sum(areas) / len(areas)
        if len(areas) > 1:
            found[f"AUC@{limit:g} spread"] = max(areas) - min(areas)
    share = sum(row["precision"] for row in rows) / len(rows)
    return found | {f"precision@{protocol.precision:g}": 100 * share}


def _worst(protocol: PoseProtocol, row: Row) -> Words:
    errors = [own for own in row["errors_deg"] if own is not None]
    error = f"{np.mean(errors):.1f} degrees" if errors else "no pose"
    counts = [("keypoints", " / ".join(map(str, row["keypoints"]))), ("matches", str(row["matches"]))]
    return [("pose error", error), *counts, ("right", f"{100 * row['precision']:.0f} %")]


def curve(protocol: PoseProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in degrees, and the percentage of pairs within."""
    return recall_curve(_values(protocol, rows), _LIMIT)


def _task(name: str, title: str, whole: int, protocols: dict[str, PoseProtocol]) -> Task:
    axes = Axes("Pairs within a pose error", "threshold, degrees", "pairs within it, %")
    return Task(
        name, title, ("scene", "scenes"), "pairs", whole, partial(read_cameras, name), protocols,
        partial(PairEvaluation, frames=lambda protocol: [protocol.frame], measured=_measured),
        _measures, _values, _statistic, lambda protocol, found: found.mean(axis=1), _worst,
        lambda protocol: axes, curve, dense=False, undefined=_undefined,
    )  # fmt: skip


TASKS = {
    "megadepth": _task("megadepth", "MegaDepth-1500", 2, MEGADEPTH),
    "scannet": _task("scannet", "ScanNet-1500", 100, SCANNET),
    "pose": _task("pose", "Pairs with known cameras", 0, POSE),
}

"""WxBS as a task: sums over pairs, and what reports show."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words, by_split, threshold_of
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.tasks.epipolar import wxbs
from geomatch.benchmarks.tasks.epipolar.wxbs import PROTOCOLS, THRESHOLDS, WHOLE, WxBSProtocol
from geomatch.benchmarks.tasks.pairs.evaluation import Measuring, PairEvaluation


def _in_words(protocol: WxBSProtocol) -> Words:
    found = [
        ("source", protocol.source),
        ("mAA@T", "mean over t = 0 ... T px of the share of points within t"),
    ]
    if protocol.kind == "points":
        return [*found, ("distances", "of the partners found for the marked points, both ways")]
    failures = "take the matrix of level lines" if protocol.stand_in else "have no point right"
    return [
        *found,
        ("distances", "from the epipolar lines in both images, the root of the sum of squares"),
        ("keypoints", f"best {protocol.max_keypoints}"),
        ("estimator", f"USAC_MAGSAC, 0.25 px, confidence 0.999, 100000 iterations; failures {failures}"),
    ]


def summarise(protocol: WxBSProtocol, rows: Sequence[Row]) -> list[Row]:
    """One row per category and one for all: pairs, failures, and mAA@10 and mAA@19 in percent."""

    def measures(own: Sequence[Row]) -> dict[str, float]:
        return {f"mAA@{t}": _mean_to(t, _values(protocol, own)) for t in (10, 19)}

    return by_split("pairs", rows, [*sorted({row["split"] for row in rows}), "all"], measures)


def _values(protocol: WxBSProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, 20) share of points within `THRESHOLDS`."""
    errors = [np.array([np.inf if e is None else e for e in row["errors"]]) for row in rows]
    return np.array([(own[:, None] <= THRESHOLDS).mean(0) for own in errors])


def _mean_to(threshold: float, found: Values) -> float:
    return 100 * float(found[:, threshold >= THRESHOLDS].mean())


def _statistic(protocol: WxBSProtocol, found: Values) -> float:
    return _mean_to(threshold_of(protocol.headline), found)


def _worst(protocol: WxBSProtocol, row: Row) -> Words:
    value = _statistic(protocol, _values(protocol, [row]))
    return [(protocol.headline, f"{value:.1f}"), ("matches", str(row["matches"]))]


def curve(protocol: WxBSProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in pixels, and the percentage of points within, each pair counting alike."""
    return THRESHOLDS.astype(np.float64), 100 * _values(protocol, rows).mean(0)


_MEASURING = Measuring(
    lambda protocol: ["original"] if protocol.kind == "F" else [], wxbs.measured, wxbs.failed
)
TASKS = {
    "wxbs": Task(
        "wxbs", "WxBS", ("pair", "pairs"), "pairs", WHOLE["test"], wxbs.read_wxbs, PROTOCOLS,
        partial(PairEvaluation, measuring=_MEASURING), _in_words, summarise, _values, _statistic,
        severity=lambda protocol, found: -found.mean(1),
        worst=_worst, curve=curve, dense=False, undefined=wxbs.undefined,
        axes=lambda protocol: Axes("Marked points within a distance", "threshold, px", "points within it, %"),
        method=lambda text, settings, device: create_method(text, settings.max_keypoints, device),
    )
}  # fmt: skip

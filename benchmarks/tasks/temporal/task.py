"""DAVIS-2017 and JHMDB as tasks: sums over objects or videos, and what reports show."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words, threshold_of
from geomatch.benchmarks.tasks.temporal.data import SPLITS, read_videos
from geomatch.benchmarks.tasks.temporal.evaluation import VideoEvaluation, statistics
from geomatch.benchmarks.tasks.temporal.protocols import PROTOCOLS, TemporalProtocol


def _mask_measures(protocol: TemporalProtocol, rows: Sequence[Row]) -> Row:
    """J, F and their mean in percent, each object counting alike."""
    found: Row = {}
    for name in ("J", "F"):
        own = np.array([statistics(row[name]) for row in rows])
        for column, suffix in enumerate(("", " recall", " decay")):
            found[name + suffix] = 100 * float(own[:, column].mean())
    return {"J&F": (found["J"] + found["F"]) / 2, **found}


def _mask_values(protocol: TemporalProtocol, rows: Sequence[Row]) -> Values:
    """(objects, 1) mean of J and F over the frames."""
    return np.array([[(np.mean(row["J"]) + np.mean(row["F"])) / 2] for row in rows])


def _mask_curve(protocol: TemporalProtocol, rows: Sequence[Row]) -> Curve:
    """J&F, and the percentage of objects with at least that."""
    ordered = np.sort(100 * _mask_values(protocol, rows)[:, 0])
    x = np.linspace(0, 100, 101)
    return x, 100 * (1 - np.searchsorted(ordered, x, side="left") / len(ordered))


def _mask_worst(protocol: TemporalProtocol, row: Row) -> Words:
    return [
        ("J&F", f"{100 * float(_mask_values(protocol, [row]).mean()):.1f}"),
        ("J", f"{100 * np.mean(row['J']):.1f}"),
        ("F", f"{100 * np.mean(row['F']):.1f}"),
        ("frames", str(len(row["J"]))),
    ]


def hits(rows: Sequence[Row], alpha: float) -> NDArray[np.float64]:
    """(rows, 2, joints): how often each joint is within alpha, and how often it is to be found."""
    counts = []
    for row in rows:
        right = [(np.array(joint) <= alpha).sum() for joint in row["errors"]]
        counts.append([right, [len(joint) for joint in row["errors"]]])
    return np.array(counts, np.float64)


def mean_of_joints(counts: NDArray[np.float64]) -> float:
    """Percentage per joint over all rows, then the mean over joints that there are."""
    right, every = counts.sum(axis=0)
    there = every > 0
    return 100 * float((right[there] / every[there]).mean()) if there.any() else 0.0


def _pose_curve(protocol: TemporalProtocol, rows: Sequence[Row]) -> Curve:
    """Alphas, and the percentage of places within, the mean over joints."""
    x = np.linspace(0, max(protocol.alphas), 51)
    return x, np.array([mean_of_joints(hits(rows, alpha)) for alpha in x])


def _pose_worst(protocol: TemporalProtocol, row: Row) -> Words:
    share = mean_of_joints(hits([row], threshold_of(protocol.headline)))
    frames = max(len(joint) for joint in row["errors"])
    return [(protocol.headline, f"{share:.1f} %"), ("action", row["split"]), ("frames", str(frames))]


_UNIT = ("video", "videos")
TASKS = {
    "davis": Task(
        "davis", "DAVIS-2017", _UNIT, "objects", SPLITS["davis"], partial(read_videos, "davis"),
        PROTOCOLS["davis"], VideoEvaluation, _mask_measures, _mask_values,
        statistic=lambda protocol, found: 100 * float(found.mean()),
        severity=lambda protocol, found: -found[:, 0],
        worst=_mask_worst, curve=_mask_curve,
        axes=lambda protocol: Axes(
            "Objects that are followed well", "J&F, %", "objects with at least that, %"
        ),
    ),
    "jhmdb": Task(
        "jhmdb", "JHMDB", _UNIT, "videos", SPLITS["jhmdb"], partial(read_videos, "jhmdb"), PROTOCOLS["jhmdb"],
        VideoEvaluation,
        lambda protocol, rows: {f"PCK@{a:g}": mean_of_joints(hits(rows, a)) for a in protocol.alphas},
        lambda protocol, rows: hits(rows, threshold_of(protocol.headline)),
        lambda protocol, found: mean_of_joints(found),
        lambda protocol, found: 1 - found[:, 0].sum(1) / np.maximum(found[:, 1].sum(1), 1),
        _pose_worst,
        axes=lambda protocol: Axes("Joints within a share of the box", "alpha", "joints within it, %"),
        curve=_pose_curve,
    ),
}  # fmt: skip

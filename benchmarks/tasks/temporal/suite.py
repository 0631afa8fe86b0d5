"""DAVIS-2017 and JHMDB as records and reports know them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.suite import Axes, Row, Statistic, Suite, threshold_of
from geomatch.benchmarks.tasks.temporal.protocols import (
    TemporalProtocol,
    hits,
    mean_of_joints,
    summarise_masks,
    summarise_poses,
)


def rules_of(fields: dict[str, Any]) -> TemporalProtocol:
    """A protocol from the fields of a record."""
    size = fields["size"]
    changed = {
        "size": size if isinstance(size, int) else tuple(size),
        "alphas": tuple(fields["alphas"]),
        "exceptions": tuple((name, context) for name, context in fields["exceptions"]),
    }
    return TemporalProtocol(**{**fields, **changed})


def in_words(protocol: TemporalProtocol) -> list[tuple[str, str]]:
    """A protocol's definition."""
    size = protocol.size
    frames = f"short side {size} pixels" if isinstance(size, int) else f"{size[0]} x {size[1]} pixels"
    others = "".join(f"; {name}: {context}" for name, context in protocol.exceptions)
    return [
        ("source", protocol.source),
        ("frames", frames),
        ("context", f"the first frame and the last {protocol.context}{others}"),
        ("labels", f"of the best {protocol.top_k} cells within {protocol.radius} of the own place"),
        ("weights", f"exp(cosine / {protocol.temperature:g})"),
    ]


def mask_values(protocol: TemporalProtocol, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(objects, 1) mean of J and F over the frames."""
    return np.array([[(np.mean(row["J"]) + np.mean(row["F"])) / 2] for row in rows])


def mask_statistic(protocol: TemporalProtocol) -> Statistic:
    """J&F in percent."""
    return lambda values: 100 * float(values.mean())


def mask_curve(
    protocol: TemporalProtocol, rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J&F, and the percentage of objects with at least that."""
    ordered = np.sort(100 * mask_values(protocol, rows)[:, 0])
    x = np.linspace(0, 100, 101)
    return x, 100 * (1 - np.searchsorted(ordered, x, side="left") / len(ordered))


def mask_worst(protocol: TemporalProtocol, row: Row) -> list[tuple[str, str]]:
    """Headings and cells of an object among the worst."""
    return [
        ("J&F", f"{100 * float(mask_values(protocol, [row]).mean()):.1f}"),
        ("J", f"{100 * np.mean(row['J']):.1f}"),
        ("F", f"{100 * np.mean(row['F']):.1f}"),
        ("frames", str(len(row["J"]))),
    ]


def pose_values(protocol: TemporalProtocol, rows: Sequence[Row]) -> NDArray[np.float64]:
    """(videos, 2 x joints) right places and all places of each joint at the headline's alpha."""
    return hits(rows, threshold_of(protocol.headline)).reshape(len(rows), -1)


def pose_statistic(protocol: TemporalProtocol) -> Statistic:
    """PCK in percent, the mean over joints."""
    return lambda values: mean_of_joints(values.reshape(len(values), 2, -1))


def pose_badness(protocol: TemporalProtocol, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(videos,) the share of wrong places."""
    right, every = values.reshape(len(values), 2, -1).sum(axis=2).T
    return np.asarray(1 - right / np.maximum(every, 1), np.float64)


def pose_curve(
    protocol: TemporalProtocol, rows: Sequence[Row]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alphas, and the percentage of places within, the mean over joints."""
    x = np.linspace(0, max(protocol.alphas), 51)
    return x, np.array([mean_of_joints(hits(rows, alpha)) for alpha in x])


def pose_worst(protocol: TemporalProtocol, row: Row) -> list[tuple[str, str]]:
    """Headings and cells of a video among the worst."""
    share = mean_of_joints(hits([row], threshold_of(protocol.headline)))
    frames = max(len(joint) for joint in row["errors"])
    return [(protocol.headline, f"{share:.1f} %"), ("action", row["split"]), ("frames", str(frames))]


SUITES = {
    "davis": Suite(
        name="davis",
        title="DAVIS-2017",
        unit=("video", "videos"),
        item="objects",
        whole="30",
        package="geomatch.benchmarks.tasks.temporal",
        splits=("all",),
        rules_of=rules_of,
        in_words=in_words,
        summarise=summarise_masks,
        values=mask_values,
        statistic=mask_statistic,
        badness=lambda protocol, values: -values[:, 0],
        worst=mask_worst,
        axes=lambda protocol: Axes(
            "Objects that are followed well", "J&F, %", "objects with at least that, %"
        ),
        curve=mask_curve,
    ),
    "jhmdb": Suite(
        name="jhmdb",
        title="JHMDB",
        unit=("video", "videos"),
        item="videos",
        whole="268",
        package="geomatch.benchmarks.tasks.temporal",
        splits=("all",),
        rules_of=rules_of,
        in_words=in_words,
        summarise=summarise_poses,
        values=pose_values,
        statistic=pose_statistic,
        badness=pose_badness,
        worst=pose_worst,
        axes=lambda protocol: Axes("Joints within a share of the box", "alpha", "joints within it, %"),
        curve=pose_curve,
    ),
}
"""By name."""

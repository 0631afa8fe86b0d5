"""The protocols of temporal correspondence by name: everything that decides a number, in one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.suite import Row, chosen
from geomatch.benchmarks.tasks.temporal.measures import statistics
from geomatch.video.propagation import PropagationConfig

STRIDE = 8
"""Pixels of the network's input per cell of the labels."""


@dataclass(frozen=True, slots=True)
class TemporalProtocol:
    """One way to carry the labels of the first frame through a video, see `geomatch.video.propagation`.

    A video of which a frame cannot be read is wrong in all frames.
    """

    name: str
    version: int
    source: str
    """Whose rules."""
    context: int
    top_k: int
    radius: int
    temperature: float
    size: int | tuple[int, int]
    """At which frames enter the network: the short side (the long one cut to a multiple of 32), or
    (width, height)."""
    headline: str
    """The measure by which methods are compared."""
    alphas: tuple[float, ...] = ()
    """Of PCK."""
    exceptions: tuple[tuple[str, int], ...] = ()
    """Videos with another context."""

    def propagation(self, video: str) -> PropagationConfig:
        """The settings for a video."""
        context = dict(self.exceptions).get(video, self.context)
        return PropagationConfig(context, self.top_k, self.radius, self.temperature)


_CODE = "Tang et al., 2023, eval_davis.py"
_DAVIS: dict[str, Any] = {"size": 480, "headline": "J&F"}
_TANG: dict[str, Any] = {"exceptions": (("shooting", 10),)}
"""The paper's code looks at fewer frames of one long video, for its memory."""
_JHMDB: dict[str, Any] = {"size": (320, 320), "headline": "PCK@0.1", "alphas": (0.1, 0.2, 0.3, 0.4, 0.5)}
_POSES = "spots and PCK of Jabri et al., NeurIPS 2020; Tang et al. publish no settings: those of DAVIS for "

PROTOCOLS: dict[str, dict[str, TemporalProtocol]] = {
    "davis": {
        p.name: p
        for p in (
            TemporalProtocol("davis", 1, f"{_CODE} (SD)", 28, 15, 15, 0.2, **_DAVIS, **_TANG),
            TemporalProtocol("davis-adm", 1, f"{_CODE} (ADM)", 28, 10, 15, 0.1, **_DAVIS, **_TANG),
            TemporalProtocol("davis-dino", 1, "Caron et al., 2021, eval_video_segmentation.py", 7, 5, 12, 0.1,
                             **_DAVIS),
        )
    },
    "jhmdb": {
        p.name: p
        for p in (
            TemporalProtocol("jhmdb", 1, _POSES + "SD", 28, 15, 15, 0.2, **_JHMDB),
            TemporalProtocol("jhmdb-adm", 1, _POSES + "ADM", 28, 10, 15, 0.1, **_JHMDB),
        )
    },
}  # fmt: skip
"""By data set and name."""


def find_protocols(dataset: str, names: str) -> list[TemporalProtocol]:
    """Those of a list separated by commas; ``all`` is every one of the data set.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    return chosen(PROTOCOLS[dataset], names)


def summarise_masks(protocol: TemporalProtocol, rows: Sequence[Row]) -> list[Row]:
    """One row: objects, failures, and J, F and their mean in percent, each object counting alike."""
    found: Row = {
        "split": "all",
        "objects": len(rows),
        "failures": sum(r["reason"] is not None for r in rows),
    }
    for name in ("J", "F"):
        own = np.array([statistics(row[name]) for row in rows])
        found |= {
            f"{name}": 100 * float(own[:, 0].mean()),
            f"{name} recall": 100 * float(own[:, 1].mean()),
            f"{name} decay": 100 * float(own[:, 2].mean()),
        }
    first = {key: found.pop(key) for key in ("split", "objects", "failures")}
    return [{**first, "J&F": (found["J"] + found["F"]) / 2, **found}]


def summarise_poses(protocol: TemporalProtocol, rows: Sequence[Row]) -> list[Row]:
    """One row per action and one for all: videos, failures, and PCK in percent, the mean over joints."""
    found = []
    for split in [*sorted({row["split"] for row in rows}), "all"]:
        own = [row for row in rows if split in ("all", row["split"])]
        measures = {f"PCK@{alpha:g}": mean_of_joints(hits(own, alpha)) for alpha in protocol.alphas}
        failures = sum(row["reason"] is not None for row in own)
        found.append({"split": split, "videos": len(own), "failures": failures, **measures})
    return found


def hits(rows: Sequence[Row], alpha: float) -> NDArray[np.float64]:
    """(rows, 2, joints): how often each joint is within alpha, and how often it is to be found."""
    counts = []
    for row in rows:  # nulls are those of a video that could not be read
        right = [sum(error is not None and error <= alpha for error in joint) for joint in row["errors"]]
        counts.append([right, [len(joint) for joint in row["errors"]]])
    return np.array(counts, np.float64)


def mean_of_joints(counts: NDArray[np.float64]) -> float:
    """Percentage per joint over all rows, then the mean over joints that there are."""
    right, every = counts.sum(axis=0)
    there = every > 0
    return 100 * float((right[there] / every[there]).mean()) if there.any() else 0.0

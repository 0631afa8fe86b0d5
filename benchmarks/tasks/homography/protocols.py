"""The HPatches protocols by name: everything that decides a number, in one place.

Sources: the code that each protocol's authors published; see the docstrings
of `Protocol` for the rules that all share and `PROTOCOLS` for each one's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geomatch.benchmarks.harness.suite import Row, chosen
from geomatch.benchmarks.tasks.homography.frames import Frame
from geomatch.benchmarks.tasks.homography.measures import accuracy, trapezoid_auc

Kind = Literal["homography", "mma", "superpoint"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to evaluate; pairs are image 1 with images 2 to 6 of each sequence, and count alike.

    Matches are mutual nearest neighbours without a ratio test. A corner error
    is the mean distance of the four corners of image 1 under estimate and
    truth. A failed estimate is an infinite error, a pair without matches has
    accuracy 0. Keypoints are the best by score.
    """

    name: str
    version: int
    source: str
    """Whose rules."""
    large: bool
    """Whether the eight sequences with images over 1600 x 1200 belong to it (116), or not (108)."""
    kind: Kind
    frame: Frame = "original"
    """In which features are extracted and errors are measured."""
    max_keypoints: int = 2000
    max_matches: int | None = None
    """Best by similarity."""
    solver: str = ""
    """``METHOD THRESHOLD``, with the solver's published defaults; see ``evaluation``."""
    seeds: int = 1
    """Runs of the estimator, each with the matches in another order; the mean and spread are reported."""
    accuracies: tuple[float, ...] = ()
    """Thresholds in pixels of the frame."""
    areas: tuple[float, ...] = ()
    """Thresholds of the area under the curve."""
    unique: bool = False
    """Keypoints at one place are one, as ``np.unique`` orders them."""
    paper_sampling: bool = False
    """Dense DIFT features are sampled as in the paper's code; see `FeatureMap.sample`."""
    corner_origin: bool = False
    """Coordinates and corners count from the corner of the first pixel: half a pixel is added."""
    headline: str = "accuracy@3"
    """The measure by which methods are compared."""
    relative_to: float | None = None
    """Errors and threshold are in units of (shorter side of image 2) / this."""


_DIFT: dict[str, Any] = {"large": False, "kind": "homography", "max_keypoints": 1000}
_DIFT |= {"unique": True, "paper_sampling": True}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="dift", version=1, source="Tang et al., 2023, eval_homography.py (SD: cosine, LMEDS)",
            solver="lmeds 3", accuracies=(1, 3, 5), **_DIFT,
        ),
        Protocol(
            name="dift-adm", version=1, source="Tang et al., 2023, eval_homography.py (ADM: L2, RANSAC)",
            solver="ransac 3", accuracies=(1, 3, 5), **_DIFT,
        ),
        Protocol(
            name="mma", version=1, source="Dusmanu et al., CVPR 2019, D2-Net's notebook, top 2000",
            large=False, kind="mma", headline="MMA@3",
        ),
        Protocol(
            name="auc480", version=1, source="Sun et al., CVPR 2021 (LoFTR)", large=False, kind="homography",
            frame="short480", max_matches=1000, solver="ransac 3", areas=(3, 5, 10),
            headline="AUC@5",
        ),
        Protocol(
            name="auc480-poselib", version=1, source="glue-factory, eval/hpatches.py, at 1 px",
            large=False, kind="homography", frame="short480", max_keypoints=1024, solver="poselib 1",
            areas=(1, 3, 5), corner_origin=True, headline="AUC@3",
        ),
        Protocol(
            name="superpoint", version=1, source="DeTone et al., 2018, as in rpautrat/SuperPoint",
            large=True, kind="superpoint", frame="crop640x480", max_keypoints=1000, solver="ransac 3",
            accuracies=(1, 3, 5),
        ),
        Protocol(
            name="roma", version=1, source="DKM/RoMa, hpatches_sequences_homog_benchmark.py; all 580 pairs",
            large=True, kind="homography", max_matches=5000, solver="ransac-roma 3", areas=(3, 5, 10),
            corner_origin=True, relative_to=480, headline="AUC@5",
        ),
        Protocol(
            name="geomatch", version=1, source="geomatch", large=True, kind="homography",
            solver="usac_magsac 3", seeds=5, accuracies=(1, 3, 5, 10), areas=(1, 3, 5, 10),
        ),
    )
}  # fmt: skip
"""By name."""

SPLITS = ("illumination", "viewpoint", "all")
MMA_THRESHOLDS = tuple(range(1, 16))


def find_protocols(names: str) -> list[Protocol]:
    """Those of a list separated by commas; ``all`` is every one.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    return chosen(PROTOCOLS, names)


def summarise(protocol: Protocol, rows: Sequence[Row]) -> list[Row]:
    """One row per split: the numbers of pairs and failures, and the protocol's measures in percent.

    ``rows`` are those of one method under this protocol. A measure without
    any pair to tell is None.
    """
    found = []
    for split in SPLITS:
        own = [row for row in rows if split in ("all", row["split"])]
        failures = sum(row["reason"] is not None for row in own)
        measures = _measures(protocol, own) if own else {}
        found.append({"split": split, "pairs": len(own), "failures": failures, **measures})
    return found


def _measures(protocol: Protocol, rows: Sequence[Row]) -> dict[str, float | None]:
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
        for name, thresholds, measure in (
            ("accuracy", protocol.accuracies, accuracy),
            ("AUC", protocol.areas, trapezoid_auc),
        ):
            for threshold in thresholds:
                values = [100 * measure(errors, threshold) for errors in per_seed]
                measures[f"{label}{name}@{threshold:g}"] = _mean(values)
                if len(values) > 1:
                    spread = max(values) - min(values)
                    measures[f"{label}{name}@{threshold:g} spread"] = spread
    for threshold in (1, 3):
        name = f"precision@{threshold}"
        if protocol.corner_origin and protocol.frame == "short480":
            measures[name] = 100 * sum(row[name] for row in rows) / len(rows)
    return measures


def errors_of(row: Row, column: str) -> list[float]:
    """One error per seed in pixels, infinity for a failure."""
    return [float("inf") if error is None else error for error in row[column]]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""Structure from motion as a task: scenes are reconstructed, poses and points compared with the truth."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.measures import area_under_curve, recall_curve
from geomatch.benchmarks.harness.task import (
    UNREADABLE,
    Axes,
    Entry,
    Row,
    Task,
    Values,
    Words,
    by_name,
    threshold_of,
)
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.sfm.data import Scene, read_scenes
from geomatch.benchmarks.tasks.sfm.measures import (
    align,
    extent_of,
    nearest,
    pair_errors,
    poses_of,
    rotation_error,
)
from geomatch.benchmarks.tasks.sfm.methods import create_sfm_method, source_of
from geomatch.colmap.cameras import CameraMode, Cameras
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError, first_line
from geomatch.reconstruction import Mapping, reconstruct
from geomatch.reconstruction.mapping import Mapper
from geomatch.reconstruction.models import read_model
from geomatch.store import Store
from geomatch.stream import clocked

_LIMIT = 10.0  # degrees; the end of curves


@dataclass(frozen=True, slots=True)
class SfmProtocol:
    """One way to reconstruct a scene and to compare it with the truth.

    ``AUC@d`` is the area under the curve of all pairs' relative pose errors up to d degrees, as in the Image
    Matching Challenge; a pair with an image that has no pose is a failure. Centres and rotations of images,
    and points, are compared after an alignment of camera centres, distances in percent of their extent.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    cameras: CameraMode = "auto"  # which images share one
    refine: bool = True  # tracks are refined
    mapper: Mapper = "incremental"
    seed: int = 0
    max_keypoints: int = 3000
    areas: tuple[float, ...] = (1, 3, 5)  # degrees
    distances: tuple[float, ...] = (0.1, 0.5, 1.0)  # percent of the extent, of right points
    headline: str = "AUC@1"  # the measure by which methods are compared


_GEOMATCH = "geomatch; areas: Jin et al., IJCV 2021; accuracy and completeness: Schoeps et al., CVPR 2017"
PROTOCOLS = by_name(
    SfmProtocol("sfm", 1, _GEOMATCH),
    SfmProtocol("sfm-per-image", 1, _GEOMATCH, cameras="per-image"),
    SfmProtocol("sfm-unrefined", 1, _GEOMATCH, refine=False),
)


@dataclass
class SceneEvaluation:
    """The `Evaluation` of a scene."""

    scene: Scene
    entry: Entry
    store: Store

    def rows(self, protocol: SfmProtocol) -> list[Row]:
        """A row per image of the truth; the first has what belongs to the whole model."""
        try:
            rows = self._compared(protocol)
        except GeomatchError as error:
            rows = [{"image": "all", "reason": UNREADABLE + first_line(error), "errors_deg": [None]}]
        return [{"pair": f"{self.scene.name} {row.pop('image')}", "split": "all", **row} for row in rows]

    def _compared(self, protocol: SfmProtocol) -> list[Row]:
        seconds = dict[str, float]()
        with tempfile.TemporaryDirectory() as name:
            work, cameras = Path(name), Cameras(protocol.cameras)
            with clocked(seconds, "features of another program"):
                source = source_of(self.entry.method, self.scene, cameras, protocol.seed, work)
            result = reconstruct(
                self.scene.images, work / "out", source, cameras=cameras,
                mapping=Mapping(protocol.mapper, seed=protocol.seed, refine=protocol.refine),
                context=RunContext(engine=LocalEngine(1), progress=False),
            )  # fmt: skip
            model = read_model(work / "out") if result else None
        rows = compare(self.scene, model, protocol)
        rows[0]["model"] |= {"seconds": seconds | result.seconds, "keypoints": result.export.keypoints}
        return rows


def compare(scene: Scene, model: Any, protocol: SfmProtocol) -> list[Row]:
    """A model, None if there is none, against the truth of a scene: rows without names of scene and split."""
    truth = {name: pose for name, pose in poses_of(scene.truth()).items() if name in scene.names}
    found = {} if model is None else {k: v for k, v in poses_of(model).items() if k in truth}
    errors = pair_errors(found, truth)
    extent = extent_of(np.array([centre for _, centre in truth.values()]))
    both = sorted(found)
    whole: Row = {
        "registered": len(found),
        "images": len(truth),
        "points": 0,
        "track": 0.0,
        "reprojection": 0.0,
    }
    rows = []
    moved = None
    if len(both) >= 3:
        moved = align(*(np.array([side[name][1] for name in both]) for side in (found, truth)))
        own = np.array([point.xyz for point in model.points3D.values()], np.float64).reshape(-1, 3)
        own, true = moved.send(own), scene.points()
        away, near = nearest(own, true) / extent, nearest(true, own) / extent
        whole |= {
            "points": len(own), "track": model.compute_mean_track_length(),
            "reprojection": model.compute_mean_reprojection_error(),
            "accuracy": [float((100 * away <= limit).mean()) for limit in protocol.distances],
            "completeness": [float((100 * near <= limit).mean()) for limit in protocol.distances],
        }  # fmt: skip
    for name, own_errors in zip(sorted(truth), errors, strict=True):
        row: Row = {"image": name, "reason": None if name in found else "it has no pose in the largest model"}
        defined = own_errors[~np.isnan(own_errors)]
        row["errors_deg"] = [float(one) if np.isfinite(one) else None for one in defined]
        if moved and name in found:
            rotation, centre = found[name]
            row["rotation_deg"] = rotation_error(rotation @ moved.rotation.T, truth[name][0])
            distance = float(np.linalg.norm(moved.send(centre[None])[0] - truth[name][1]))
            row["centre_percent"] = 100 * distance / extent
        rows.append(row)
    rows[0]["model"] = whole
    return rows


def _values(protocol: SfmProtocol, rows: Sequence[Row]) -> Values:
    """(images, most partners) degrees, infinite for failures, NaN beyond an image's partners."""
    found = np.full((len(rows), max(len(row["errors_deg"]) for row in rows)), np.nan)
    for own, row in zip(found, rows, strict=True):
        own[: len(row["errors_deg"])] = [np.inf if one is None else one for one in row["errors_deg"]]
    return found


def _area(found: Values, limit: float) -> float:
    return 100 * area_under_curve(found[~np.isnan(found)], limit)


def _measures(protocol: SfmProtocol, rows: Sequence[Row]) -> Row:
    values = _values(protocol, rows)
    measures: Row = {f"AUC@{limit:g}": _area(values, limit) for limit in protocol.areas}
    models = [row["model"] for row in rows if "model" in row]
    for name, label in (("centre_percent", "centre, % of extent"), ("rotation_deg", "rotation, degrees")):
        own = [row[name] for row in rows if name in row]
        if own:
            measures[label] = float(np.median(own))
    measures["points"] = sum(one["points"] for one in models)
    with_points = [one for one in models if one["points"]]
    if with_points:
        measures["track length"] = fmean(one["track"] for one in with_points)
        measures["reprojection, px"] = fmean(one["reprojection"] for one in with_points)
        for what in ("accuracy", "completeness"):
            for place, limit in enumerate(protocol.distances):
                shares = [one[what][place] for one in with_points]
                measures[f"{what}@{limit:g}"] = 100 * fmean(shares)
    measures["seconds"] = sum(sum(one["seconds"].values()) for one in models)
    return measures


def _severity(protocol: SfmProtocol, found: Values) -> NDArray[np.float64]:
    """Mean error to the other images, failures as 180 degrees."""
    return np.asarray(np.nanmean(np.minimum(found, 180.0), axis=1), np.float64)


def _worst(protocol: SfmProtocol, row: Row) -> Words:
    centre = f"{row['centre_percent']:.3f} % of the extent" if "centre_percent" in row else "-"
    rotation = f"{row['rotation_deg']:.3f} degrees" if "rotation_deg" in row else "no pose"
    return [("rotation", rotation), ("centre", centre)]


def _undefined(protocol: SfmProtocol, method: Method) -> str | None:
    return "estimators have no part in it" if method.estimator else None


TASKS = {
    "sfm": Task(
        "sfm", "Scenes with surveyed poses", ("scene", "scenes"), "images", 0, read_scenes, PROTOCOLS,
        SceneEvaluation, _measures, _values,
        lambda protocol, found: _area(found, threshold_of(protocol.headline)),
        _severity, _worst, lambda protocol: Axes("Pairs within a pose error", "threshold, degrees",
                                                 "pairs within it, %"),
        lambda protocol, rows: recall_curve((v := _values(protocol, rows))[~np.isnan(v)], _LIMIT),
        dense=False, undefined=_undefined, create=create_sfm_method,
    ),
}  # fmt: skip

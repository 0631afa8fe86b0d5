"""Structure from motion as a task: scenes are reconstructed, poses and points compared with the truth."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.benchmarks.harness.measures import accuracy, area_under_curve, recall_curve, with_failures
from geomatch.benchmarks.harness.task import UNREADABLE, Axes, Entry, Row, Task, Values, Words, threshold_of
from geomatch.benchmarks.tasks.sfm.data import Scene, read_scenes
from geomatch.benchmarks.tasks.sfm.measures import align, extent_of, nearest, pair_errors, points_of, poses_of
from geomatch.benchmarks.tasks.sfm.methods import create_sfm_method, source_of, undefined
from geomatch.colmap.cameras import CameraMode, Cameras
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError, first_line
from geomatch.reconstruction import Mapping, reconstruct
from geomatch.reconstruction.models import read_model
from geomatch.store import Store
from geomatch.stream import clocked

_LIMIT = 10.0  # degrees; the end of curves


@dataclass(frozen=True, slots=True)
class SfmProtocol:
    """One way to reconstruct a scene and to compare it with the truth, whose images all count alike.

    ``AUC@d``: of all pairs' relative pose errors up to d degrees. Centres and points are compared after an
    alignment of centres. ``accuracy``: points near a true one, of those in the box around the true ones,
    wider by the largest distance; ``completeness``: true points near one; 0 in a scene without a model.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    cameras: CameraMode = "auto"  # which images share one
    refine: bool = True  # tracks are refined
    seed: int = 0
    max_keypoints: int = 10**6  # the run's limit decides
    areas: tuple[float, ...] = (1, 3, 5)  # degrees
    distances: tuple[float, ...] = (0.1, 0.5, 1)  # percent of the extent
    headline: str = "AUC@1"  # the measure by which methods are compared


_SOURCE = (
    "geomatch; pairs: Jin et al., IJCV 2021; accuracy and completeness: Schoeps et al., CVPR 2017 (ETH3D)"
)
_ALL = (
    SfmProtocol("sfm", 1, _SOURCE),
    SfmProtocol("sfm-single", 1, _SOURCE, cameras="single"),
    SfmProtocol("sfm-per-image", 1, _SOURCE, cameras="per-image"),
    SfmProtocol("sfm-unrefined", 1, _SOURCE, refine=False),
)


@dataclass(frozen=True)
class SceneEvaluation:
    """The `Evaluation` of a method on a scene; features are made anew under each protocol, and timed."""

    scene: Scene
    entry: Entry
    store: Store

    def rows(self, protocol: SfmProtocol) -> list[Row]:
        """A row per image with a true pose; the first has what belongs to the whole model."""
        try:
            rows = self._compared(protocol)
        except GeomatchError as error:
            rows = [{"image": "all images", "reason": UNREADABLE + first_line(error)}]
        return [{"pair": f"{self.scene.name} {row.pop('image')}", "split": "all", **row} for row in rows]

    def _compared(self, protocol: SfmProtocol) -> list[Row]:
        seconds, cameras = dict[str, float](), Cameras(protocol.cameras)
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            with clocked(seconds, "source"):
                source = source_of(self.entry.method, self.scene, cameras, protocol.seed, work)
            result = reconstruct(
                self.scene.images, work / "out", source, cameras=cameras,
                mapping=Mapping(seed=protocol.seed, refine=protocol.refine),
                context=RunContext(engine=LocalEngine(1), progress=False),
            )  # fmt: skip
            rows = compare(self.scene, read_model(work / "out") if result else None, protocol)
        keypoints = result.export.keypoints / max(result.export.images, 1)
        rows[0]["model"] |= {"keypoints per image": keypoints, "seconds": seconds | result.seconds}
        return rows


def compare(scene: Scene, model: Any, protocol: SfmProtocol) -> list[Row]:
    """A ``pycolmap.Reconstruction``, None if there is none, beside the truth: a row per image of that."""
    true_model, names = read_model(scene.model), set(scene.names)
    truth = {name: pose for name, pose in poses_of(true_model).items() if name in names}
    found = {name: pose for name, pose in poses_of(model).items() if name in truth} if model else {}
    extent = extent_of(np.array([centre for _, centre in truth.values()]))
    own, true = (np.array([side[name][1] for name in found]).reshape(-1, 3) for side in (found, truth))
    moved = align(own, true, extent) if len(found) >= 3 else None
    points = scene.points(true_model)
    nothing = [0.0] * len(protocol.distances)
    whole: Row = {"points": 0} | ({"accuracy": nothing, "completeness": nothing} if len(points) else {})
    if model:
        whole |= {"points": model.num_points3D(), "track length": model.compute_mean_track_length(),
                  "reprojection, px": model.compute_mean_reprojection_error()}  # fmt: skip
    if moved and len(points):
        reached, reach = moved * points_of(model), protocol.distances[-1] / 100 * extent
        seen = ((reached >= points.min(0) - reach) & (reached <= points.max(0) + reach)).all(axis=1)
        for what, one, other in (("accuracy", reached[seen], points), ("completeness", points, reached)):
            away = 100 * nearest(one, other) / extent
            whole[what] = [accuracy(away, limit) for limit in protocol.distances]
    rows = []
    for name, errors in zip(truth, pair_errors(found, truth), strict=True):
        degrees = [float(one) if np.isfinite(one) else None for one in errors[~np.isnan(errors)]]
        row: Row = {"image": name, "reason": None, "errors_deg": degrees}
        if name not in found:
            row["reason"] = "it has no pose in the largest model"
        elif moved:
            turn = found[name][0] @ moved.rotation.matrix().T
            cosine = np.clip(((turn * truth[name][0]).sum() - 1) / 2, -1, 1)
            distance = float(np.linalg.norm(moved * found[name][1] - truth[name][1]))
            row |= {"rotation_deg": float(np.degrees(np.arccos(cosine))), "centre": distance,
                    "centre_percent": 100 * distance / extent}  # fmt: skip
        rows.append(row)
    rows[0]["model"] = whole
    return rows


def _values(protocol: SfmProtocol, rows: Sequence[Row]) -> Values:
    """(images, most partners) degrees, infinite for failures, NaN beyond an image's partners."""
    found = np.full((len(rows), max(len(row["errors_deg"]) for row in rows)), np.nan)
    for own, row in zip(found, rows, strict=True):
        own[: len(row["errors_deg"])] = with_failures(row["errors_deg"])
    return found


def _area(found: Values, limit: float) -> float:
    return 100 * area_under_curve(found[~np.isnan(found)], limit)


def _measures(protocol: SfmProtocol, rows: Sequence[Row]) -> Row:
    values = _values(protocol, rows)
    found: Row = {f"AUC@{limit:g}": _area(values, limit) for limit in protocol.areas}
    for name, label, limit in (
        ("rotation_deg", "rotation{}, degrees", protocol.areas[0]),
        ("centre_percent", "centre{}, % of extent", protocol.distances[-1]),
    ):
        own = with_failures(row.get(name) for row in rows)
        found[label.format(f" AUC@{limit:g}")] = _area(own, limit)
        if np.isfinite(median := float(np.median(own))):
            found[label.format("")] = median
    models = [row["model"] for row in rows if "model" in row]
    for name in ("keypoints per image", "points", "track length", "reprojection, px"):
        if any(name in model for model in models):
            found[name] = float(np.mean([model[name] for model in models if name in model]))
    for what in ("accuracy", "completeness"):
        shares = [model[what] for model in models if what in model]
        for limit, share in zip(protocol.distances, np.mean(shares, axis=0) if shares else (), strict=False):
            found[f"{what}@{limit:g}"] = 100 * float(share)
    return found | {"seconds": sum(sum(model["seconds"].values()) for model in models)}


def _worst(protocol: SfmProtocol, row: Row) -> Words:
    turn, away = (f"{row[name]:.3f}" if name in row else "-" for name in ("rotation_deg", "centre_percent"))
    return [("rotation, degrees", turn), ("centre, % of extent", away)]


TASKS = {
    "sfm": Task(
        "sfm", "Scenes with surveyed poses", ("scene", "scenes"), "images", 0, read_scenes,
        {protocol.name: protocol for protocol in _ALL},
        SceneEvaluation, _measures, _values,
        lambda protocol, found: _area(found, threshold_of(protocol.headline)),
        lambda protocol, found: np.nanmean(np.minimum(found, 180.0), axis=1), _worst,
        lambda protocol: Axes("Pairs within a pose error", "threshold, degrees", "pairs within it, %"),
        lambda protocol, rows: recall_curve((v := _values(protocol, rows))[~np.isnan(v)], _LIMIT),
        dense=False, undefined=lambda protocol, method: undefined(method),
        create=create_sfm_method,
    ),
}  # fmt: skip

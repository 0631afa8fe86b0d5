"""From a folder of photographs to a model on disk."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geomatch.collection.folder import find_images
from geomatch.collection.match import CollectionResult, match_collection
from geomatch.colmap.database import CameraMode, ExportReport, Verification, export_database
from geomatch.colmap.library import database as database_of
from geomatch.colmap.library import interruptible, pycolmap
from geomatch.colmap.view import sparse_model, write_view
from geomatch.dift import DIFTConfig
from geomatch.errors import GeomatchError, first_line
from geomatch.files import new_folder, replacing
from geomatch.keypoints import Detector
from geomatch.pipeline import Describer, versions

Mapper = Literal["incremental", "global"]
MIN_MODEL_SIZE = 3
"""Images of a further model beside the largest; COLMAP's 10 would hide parts of small collections."""
STARTS: tuple[dict[str, float], ...] = (
    {},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 4.0, "init_min_num_inliers": 50},
    {"init_max_forward_motion": 1.0, "init_min_tri_angle": 2.0, "init_min_num_inliers": 50},
)
"""What the incremental mapper asks of its first pair: COLMAP's defaults, then less (walks forward along
a street have no better), as long as no model holds half of the images."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One connected model."""

    registered: int
    """Images with a pose."""
    points: int
    observations: int
    mean_track_length: float
    """Images per point."""
    mean_reprojection_error: float
    """Pixels."""


@dataclass(frozen=True, eq=False, slots=True)
class Reconstructed:
    """What `reconstruct` found; false when no image could be registered."""

    folder: Path
    num_images: int
    models: tuple[ModelSummary, ...]
    """Largest first, in ``folder/sparse/0``, ``1``, ..."""
    matching: CollectionResult
    export: ExportReport
    reason: str
    """Why there is no model, in words; empty if there is."""
    seconds: dict[str, float]

    def __bool__(self) -> bool:
        return bool(self.models)


def reconstruct(
    images: Path,
    out: Path,
    *,
    mapper: Mapper = "incremental",
    rules: Sequence[str] = (),
    max_pairs: int | None = None,
    detector: str | Detector = "sift-large",
    descriptor: str | DIFTConfig | Describer | None = None,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
    max_keypoints: int = 3000,
    guided: bool = True,
    refine: bool = False,
    camera_mode: CameraMode = "auto",
    camera_model: str = "SIMPLE_RADIAL",
    camera_params: str = "",
    verification: Verification = "colmap",
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Reconstructed:
    """Match a folder of photographs and map it with COLMAP.

    Writes ``database.db``, ``sparse/0`` (the largest model) and further ones, ``summary.json`` and
    ``model.html`` to ``out``. What is in ``out/cache`` is not made again; what an earlier run wrote beside
    it is replaced.

    Args:
        images: folder of photographs.
        out: folder, made when missing.
        mapper: of COLMAP; ``global`` does not use planar pairs.
        rules: see `geomatch.collection.select_pairs`.
        max_pairs: likewise.
        detector: see `geomatch.collection.match_collection`, as for the next six.
        descriptor: likewise.
        min_similarity: likewise.
        max_ratio: likewise.
        max_keypoints: likewise.
        guided: likewise.
        refine: likewise.
        camera_mode: see `geomatch.colmap.export_database`, as for the next three.
        camera_model: likewise.
        camera_params: likewise.
        verification: likewise.
        seed: of COLMAP's RANSAC and mapper.
        workers: pairs matched at a time.
        progress: show bars.

    Raises:
        GeomatchError: as `match_collection` and `export_database` do, and when ``out`` holds a database or
            model of another program.
        ValueError: for options that make no sense.
    """
    if verification == "none":
        raise ValueError("mappers use verified pairs only: verification must be 'colmap' or 'geomatch'")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    found = match_collection(
        find_images(images, exclude=out),
        out / "cache",
        rules=rules,
        max_pairs=max_pairs,
        detector=detector,
        descriptor=descriptor,
        min_similarity=min_similarity,
        max_ratio=max_ratio,
        max_keypoints=max_keypoints,
        guided=guided,
        refine=refine,
        workers=workers,
        progress=progress,
    )
    seconds["matching"] = time.perf_counter() - start
    database = out / "database.db"
    for name in ("model.html", "database.db"):  # of an earlier run: they would belong to another model
        (out / name).unlink(missing_ok=True)
    start = time.perf_counter()
    report = export_database(
        images,
        found.correspondences,
        database,
        camera_mode=camera_mode,
        camera_model=camera_model,
        camera_params=camera_params,
        verification=verification,
        seed=seed,
        progress=progress,
    )
    seconds["database"] = time.perf_counter() - start
    start = time.perf_counter()
    models = map_database(database, images, out / "sparse", mapper, seed)
    seconds["mapping"] = time.perf_counter() - start
    summaries = tuple(summarise_model(model) for model in models)
    reason = "" if models else _reason(report, mapper)
    result = Reconstructed(
        out, len(found.correspondences.features), summaries, found, report, reason, seconds
    )
    if models:
        write_view(sparse_model(models[0]), out / "model.html", images.resolve().name)
    content = {
        "images": result.num_images,
        "models": [asdict(summary) for summary in summaries],
        "reason": reason or None,
        "pairs": found.pairs.given,
        "verified": report.verified,
        "skipped": {**report.skipped, **found.skipped, **report.images_skipped},
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "settings": {**found.settings, "mapper": mapper, "verification": verification, "seed": seed},
        "versions": versions() | {"pycolmap": pycolmap().__version__},
    }
    _write_summary(out, content)
    return result


def _claim(out: Path) -> None:
    """Mark the folder as ours before anything in it is replaced.

    Raises:
        GeomatchError: when it holds a database or model, and no summary of an earlier run.
    """
    others = [name for name in ("database.db", "sparse", "model.html") if (out / name).exists()]
    if others and not (out / "summary.json").is_file():
        raise GeomatchError(
            f"{out / others[0]} was not written by geomatch (there is no summary.json): give another folder"
        )
    _write_summary(out, {"models": [], "reason": "the run is not finished"})


def _write_summary(out: Path, content: Mapping[str, Any]) -> None:
    with replacing(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def map_database(database: Path, images: Path, out: Path, mapper: Mapper, seed: int) -> list[Any]:
    """Run COLMAP's mapper and write ``out/0`` and on, the model with most images first.

    Args:
        database: with verified pairs; only read.
        images: the folder, for the colours of points.
        out: a folder that is replaced.
        mapper: ``incremental``, begun again by the rule of `STARTS`, or ``global``.
        seed: of its random choices.

    Returns:
        ``pycolmap.Reconstruction`` objects; empty when nothing could be registered.

    Raises:
        GeomatchError: when COLMAP gives up with an error.
    """
    if out.exists():
        shutil.rmtree(out)
    best: list[Any] = []
    with new_folder(out) as temporary, database_of(str(database)) as opened:
        wanted = opened.num_images() / 2
        for start in STARTS if mapper == "incremental" else STARTS[:1]:
            with tempfile.TemporaryDirectory(dir=temporary.parent) as work:
                found = _run_mapper(mapper, str(database), str(images), work, start, seed)
            models = [model for model in found if model.num_reg_images() > 0 and model.num_points3D() > 0]
            models.sort(key=_merit, reverse=True)
            if models and (not best or _merit(models[0]) > _merit(best[0])):
                best = models
            if best and best[0].num_reg_images() >= wanted:
                break
        for number, model in enumerate(best):
            folder = temporary / str(number)
            folder.mkdir()
            model.write(str(folder))
    return best


def _merit(model: Any) -> tuple[int, int]:
    return model.num_reg_images(), model.num_points3D()


def _run_mapper(
    mapper: Mapper, database: str, images: str, work: str, start: Mapping[str, float], seed: int
) -> list[Any]:
    library = pycolmap()
    library.set_random_seed(seed)
    try:
        if mapper == "global":
            settings = library.GlobalPipelineOptions()
            settings.random_seed = seed
            return list(library.global_mapping(database, images, work, settings).values())
        options = library.IncrementalPipelineOptions()
        options.min_model_size, options.random_seed = MIN_MODEL_SIZE, seed
        options.mapper.random_seed = options.triangulation.random_seed = seed
        for name, value in start.items():
            setattr(options.mapper, name, value)
        found = interruptible(
            lambda token: library.incremental_mapping(
                database, images, work, options, cancellation_token=token
            )
        )
        return list(found.values())
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"COLMAP's {mapper} mapper failed: {first_line(error)}") from error


def summarise_model(model: Any) -> ModelSummary:
    """Its figures."""
    values = [model.compute_mean_track_length(), model.compute_mean_reprojection_error()]
    length, error = (float(np.nan_to_num(value)) for value in values)
    return ModelSummary(
        model.num_reg_images(), model.num_points3D(), model.compute_num_observations(), length, error
    )


def _reason(report: ExportReport, mapper: Mapper) -> str:
    ignored = ("undefined", "degenerate")
    good = {kind: count for kind, count in report.verified.items() if kind not in ignored}
    planar = ("planar", "panoramic", "planar or panoramic")
    if not report.pairs:
        return "no pair of images has matches"
    if not good:
        return (
            f"none of {report.pairs} pairs has enough matches that agree with one geometry: the images may "
            "not overlap, or more keypoints (--max-keypoints) or pairs (--pairs) are needed"
        )
    if mapper == "global" and set(good) <= {*planar, "watermark", "multiple"}:
        return "all verified pairs are planar or of a turning camera, which global mapping does not use"
    return (
        f"{sum(good.values())} pairs are verified, but no two images could start a model: they may be taken "
        "from one place (no parallax), show one plane, or overlap too little"
    )

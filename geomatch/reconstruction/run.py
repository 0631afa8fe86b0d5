"""From a folder of photographs to a model on disk."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from geomatch.cameras import pycolmap
from geomatch.collection.correspondences import Correspondences
from geomatch.collection.folder import ImageFolder, find_images
from geomatch.collection.match import CollectionResult, match_collection
from geomatch.collection.options import CollectionOptions
from geomatch.colmap.cameras import CAMERAS, Cameras, check_cameras, image_sizes
from geomatch.colmap.database import ExportReport, copy_database, export_database
from geomatch.colmap.library import database as opened_database
from geomatch.engine import RunContext
from geomatch.engine.context import CONTEXT
from geomatch.errors import GeomatchError
from geomatch.provenance import versions
from geomatch.reconstruction.folder import PROGRAM, unfinished
from geomatch.reconstruction.known_poses import begin_database, read_poses
from geomatch.reconstruction.mapping import MAPPING, Mapper, Mapping, map_database
from geomatch.reconstruction.models import ModelSummary, summarise_model
from geomatch.reconstruction.outputs import write_outputs
from geomatch.reconstruction.rigs import apply_rigs, read_rigs
from geomatch.reconstruction.view import title_of, write_view
from geomatch.stream import clocked

COLLECTION = CollectionOptions()
Source = CollectionOptions | Correspondences | Path
"""How photographs are matched; or matches that are there; or a COLMAP database, all of which is kept."""


@dataclass(frozen=True, eq=False, slots=True)
class Reconstructed:
    """Result of `reconstruct`; false when no image could be registered."""

    folder: Path
    num_images: int
    models: tuple[ModelSummary, ...]
    """Largest first, in ``folder/sparse/0``, ``1``, ..."""
    matching: CollectionResult | None
    """None when the matches were given."""
    export: ExportReport
    reason: str
    """Why there is no model; empty if there is one."""
    seconds: dict[str, float]
    """Wall time of matching, database and mapping."""
    left_out: dict[str, str]
    """Images of the folder or of the model to begin with that take no part, and why."""
    written: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.models)


def reconstruct(
    images: Path,
    out: Path,
    source: Source = COLLECTION,
    *,
    cameras: Cameras = CAMERAS,
    mapping: Mapping = MAPPING,
    outputs: Sequence[str] = (),
    context: RunContext = CONTEXT,
) -> Reconstructed:
    """Map photographs with COLMAP: from nothing, onto a model, or into its poses (``mapping``).

    Writes ``database.db``, ``sparse/0`` (the largest model) and further ones, ``summary.json``,
    ``model.html`` and ``outputs`` (`write_outputs`) to ``out``, in place of an earlier run's. What is in the
    store, ``out/store`` unless ``context`` has another, is not made again.

    Raises what `match_collection`, `export_database` and `read_poses` do, and GeomatchError when ``out`` is
    the folder of images, or holds a database or model of another program.
    """
    check_cameras(cameras)
    if out.resolve() == images.resolve():
        raise GeomatchError(f"{out} is the folder of images; give another one for the results")
    known = read_poses(mapping.start, images) if mapping.start else None
    rigs = read_rigs(mapping.rigs) if mapping.rigs else []
    if rigs and cameras.mode == "auto":
        cameras = replace(cameras, mode="per-folder")  # as the images of one camera of a rig lie
    folder, left_out = None, dict[str, str]()
    if isinstance(source, CollectionOptions):
        folder = find_images(images, out, source.extraction.masks)
        if mapping.mapper == "triangulation":
            folder, left_out = _posed(folder, known)
        image_sizes(images, folder.names, cameras)  # better now than after the matching
    seconds: dict[str, float] = {}
    found = None
    with unfinished(out) as work, context.started() as started:
        run = replace(started, store=context.store_at(out / "store"))
        database = work / "database.db"
        with clocked(seconds, "matching"):
            if isinstance(source, CollectionOptions) and folder:
                found = match_collection(
                    folder, extraction=source.extraction, pairs=source.pairs, matching=source.matching,
                    context=run,
                )  # fmt: skip
                source = found.correspondences
        with clocked(seconds, "database"):
            writing = dict[str, Any](verification=mapping.verification, seed=mapping.seed, context=run)
            if isinstance(source, Path):
                report = copy_database(source, database, images, **writing)
                if mapping.refine and report.images in report.skipped.values():
                    text = f"none of the {report.images} images of {source} is there"
                    raise GeomatchError(f"{images}: {text}; give their folder, or --no-refine-tracks")
            elif isinstance(source, Correspondences):
                if known:
                    begin_database(database, known)
                writing |= {"cameras": cameras, "extend": known is not None}
                report = export_database(images, source, database, **writing)
        with opened_database(str(database)) as opened:
            count = opened.num_images()
        with clocked(seconds, "mapping"):
            parts: list[Any] = []
            sensors = [one for rig in rigs for one in rig.cameras]
            if not all(one.ref_sensor or one.cam_from_rig is not None for one in sensors):
                # their places in the rig are taken from a model without rigs
                rough = replace(mapping, refine=False)
                parts = map_database(database, images, work / "parts", rough, known, run.progress)
            if rigs:
                apply_rigs(database, rigs, parts[0] if parts else None)
            models = map_database(database, images, work / "sparse", mapping, known, run.progress)
        if models:
            further = f", the largest of {len(models)} models" if len(models) > 1 else ""
            write_view(models[0], work / "model.html", title_of(images) + further)
        reason = "" if models else _reason(count, report, mapping.mapper)
        report, summaries = replace(report, path=out / "database.db"), tuple(map(summarise_model, models))
        settings, told, skipped = asdict(mapping), dict[str, Any](), dict[str, Any](report.skipped)
        if found:
            settings = {**found.settings, **settings}
            told = {"pairs": found.pairs.given, "remade": found.remade}
            skipped |= found.skipped | found.failed_pairs
        summary = {
            "program": PROGRAM, "images": count, "images_folder": str(images.resolve()),
            "models": [asdict(model) for model in summaries],
            "reason": reason or None, **told, "verified": report.verified,
            "skipped": skipped | left_out | report.images_skipped,
            "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
            "settings": settings,
            "versions": versions() | {"pycolmap": pycolmap().__version__},
        }  # fmt: skip
        text = json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n"
        (work / "summary.json").write_text(text, encoding="utf-8")
    named = ["database.db", "summary.json", *(["sparse", "model.html"] if models else [])]
    written = [out / name for name in named]
    if models and outputs:  # which name the photographs from where they lie
        written += write_outputs(models[0], images, out, outputs, context.progress)
    return Reconstructed(out, count, summaries, found, report, reason, seconds, left_out, tuple(written))


def _posed(folder: ImageFolder, known: Any) -> tuple[ImageFolder, dict[str, str]]:
    """The images of the folder that have a pose, and why the others are left out."""
    posed = {image.name for image in known.images.values() if image.has_pose}
    names = tuple(name for name in folder.names if name in posed)
    if not names:
        text = f"{folder.root}: none of its {len(folder.names)} images has a pose in the model"
        raise GeomatchError(f"{text}, which names images such as {min(posed)!r}")
    skipped = dict.fromkeys(set(folder.names) - posed, "no pose in the model")
    skipped |= dict.fromkeys(posed - set(names), "in the model, but no image of the folder")
    return replace(folder, names=names), dict(sorted(skipped.items()))


def _reason(images: int, report: ExportReport, mapper: Mapper) -> str:
    good = {kind: n for kind, n in report.verified.items() if kind not in ("undefined", "degenerate")}
    if images < 2:
        return "at least two images are needed"
    if not report.pairs:
        return "no pair of images has matches"
    if not good:
        text = f"none of {report.pairs} pairs has enough matches that agree with one geometry: the images"
        return text + " may not overlap, or more keypoints (--max-keypoints) or pairs (--pairs) are needed"
    if mapper == "global" and set(good).isdisjoint(("calibrated", "uncalibrated", "calibrated rig")):
        return "all verified pairs are planar or of a turning camera, which global mapping does not use"
    if mapper == "triangulation":
        text = f"{sum(good.values())} pairs are verified, but their matches give no point from these poses"
        return text + ": the poses may be of other images or in another convention"
    text = f"{sum(good.values())} pairs are verified, but no two images could start a model: they may be"
    return text + " taken from one place (no parallax), show one plane, or overlap too little"

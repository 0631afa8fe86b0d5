"""From a folder of photographs to a model on disk."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from geomatch.cameras import pycolmap
from geomatch.collection.folder import find_images
from geomatch.collection.match import CollectionResult, match_collection
from geomatch.collection.options import EXTRACTION, MATCHING, PAIRS, Extraction, Matching, PairSelection
from geomatch.colmap.cameras import CAMERAS, Cameras, check_cameras, image_sizes
from geomatch.colmap.database import ExportReport, export_database
from geomatch.colmap.target import check_closed
from geomatch.engine import RunContext
from geomatch.engine.context import CONTEXT
from geomatch.errors import GeomatchError
from geomatch.files import read_json
from geomatch.provenance import versions
from geomatch.reconstruction.mapping import MAPPING, Mapper, Mapping, map_database
from geomatch.reconstruction.models import ModelSummary, summarise_model
from geomatch.reconstruction.view import sparse_model, write_view
from geomatch.stream import clocked

_WRITTEN = ("summary.json", "database.db", "sparse", "model.html")
"""What a run leaves in its folder, in the order it is put there; the first marks the folder as ours."""
_PROGRAM = "geomatch reconstruct"


@dataclass(frozen=True, eq=False, slots=True)
class Reconstructed:
    """Result of `reconstruct`; false when no image could be registered."""

    folder: Path
    num_images: int
    models: tuple[ModelSummary, ...]
    """Largest first, in ``folder/sparse/0``, ``1``, ..."""
    matching: CollectionResult
    export: ExportReport
    reason: str
    """Why there is no model; empty if there is one."""
    seconds: dict[str, float]
    """Wall time of matching, database and mapping."""

    def __bool__(self) -> bool:
        return bool(self.models)


def reconstruct(
    images: Path,
    out: Path,
    *,
    extraction: Extraction = EXTRACTION,
    pairs: PairSelection = PAIRS,
    matching: Matching = MATCHING,
    cameras: Cameras = CAMERAS,
    mapping: Mapping = MAPPING,
    context: RunContext = CONTEXT,
) -> Reconstructed:
    """Match a folder of photographs and map it with COLMAP.

    Writes ``database.db``, ``sparse/0`` (the largest model) and further ones, ``summary.json`` and
    ``model.html`` to ``out``, in place of an earlier run's. What is in the store, ``out/store`` unless
    ``context`` has another, is not made again.

    Raises what `match_collection` and `export_database` do, and GeomatchError when ``out`` is the folder of
    images, or holds a database or model of another program.
    """
    check_cameras(cameras)
    if out.resolve() == images.resolve():
        raise GeomatchError(f"{out} is the folder of images; give another one for the results")
    folder = find_images(images, out, extraction.masks)
    image_sizes(images, folder.names, cameras.mode)  # better now than after the matching
    seconds: dict[str, float] = {}
    with _unfinished(out) as work, context.started() as started:
        run = replace(started, store=context.store_at(out / "store"))
        database = work / "database.db"
        with clocked(seconds, "matching"):
            found = match_collection(
                folder, extraction=extraction, pairs=pairs, matching=matching, context=run
            )
        with clocked(seconds, "database"):
            report = export_database(
                images, found.correspondences, database,
                cameras=cameras, verification=mapping.verification, seed=mapping.seed, context=run,
            )  # fmt: skip
        with clocked(seconds, "mapping"):
            sparse = work / "sparse"
            models = map_database(database, images, sparse, mapping.mapper, mapping.seed, run.progress)
        if models:
            further = f", the largest of {len(models)} models" if len(models) > 1 else ""
            write_view(sparse_model(models[0]), work / "model.html", images.resolve().name + further)
        count = len(found.correspondences.features)
        reason = "" if models else _reason(count, report, mapping.mapper)
        report, summaries = replace(report, path=out / "database.db"), tuple(map(summarise_model, models))
        summary = {
            "program": _PROGRAM, "images": count, "models": [asdict(model) for model in summaries],
            "reason": reason or None, "pairs": found.pairs.given, "verified": report.verified,
            "skipped": {**report.skipped, **found.skipped, **found.failed_pairs, **report.images_skipped},
            "remade": found.remade,
            "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
            "settings": {**found.settings, **asdict(mapping)},
            "versions": versions() | {"pycolmap": pycolmap().__version__},
        }  # fmt: skip
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        (work / "summary.json").write_text(text, encoding="utf-8")
    return Reconstructed(out, count, summaries, found, report, reason, seconds)


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder in ``out`` whose content replaces an earlier run's when the block succeeds."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GeomatchError(f"{out}: no folder can be made there ({error.strerror})") from error
    try:
        lock = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        text = f"{out}: another run is writing there; wait for it, or give another folder"
        raise GeomatchError(text) from error
    work = out / ".unfinished"
    with lock:
        others = [name for name in _WRITTEN if (out / name).exists()]
        if others and not _is_ours(out / _WRITTEN[0]):
            raise GeomatchError(f"{out / others[-1]} was not written by `{_PROGRAM}`: give another folder")
        check_closed(out / "database.db")
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
        try:
            (work / "old").mkdir(parents=True)
            yield work
            check_closed(out / "database.db")  # a log of the old one would be taken for the new one's
            for name in _WRITTEN:
                if (out / name).is_dir() or not (work / name).exists():
                    with suppress(FileNotFoundError):
                        os.replace(out / name, work / "old" / name)
                if (work / name).exists():
                    os.replace(work / name, out / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _is_ours(summary: Path) -> bool:
    with suppress(GeomatchError):
        return bool(read_json(summary, "summary").get("program") == _PROGRAM)
    return False


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
    text = f"{sum(good.values())} pairs are verified, but no two images could start a model: they may be"
    return text + " taken from one place (no parallax), show one plane, or overlap too little"

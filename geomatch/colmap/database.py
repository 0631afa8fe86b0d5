"""Writing a COLMAP database that maps: everything checked, the whole or nothing."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.cameras import pycolmap
from geomatch.collection.correspondences import Correspondences, LazyPairs, MatchedPair, checked
from geomatch.colmap.cameras import CAMERAS, Cameras, check_cameras, image_sizes, import_images
from geomatch.colmap.conventions import to_colmap
from geomatch.colmap.doctor.check import check_database
from geomatch.colmap.library import database
from geomatch.colmap.sqlite import open_read_only
from geomatch.colmap.target import DiskSpace, check_target, replaced
from geomatch.colmap.verification import Verification, verify_database
from geomatch.engine import RunContext
from geomatch.engine.context import CONTEXT
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line
from geomatch.progress import progress_bar
from geomatch.types import Features

_IMAGE_BYTES, _PAIR_BYTES = 1024, 512
"""Bytes of the tables' rows besides keypoints and matches, generously."""


@dataclass(frozen=True, eq=False, slots=True)
class ExportReport:
    """What is in the database now, and what was left out."""

    path: Path
    images: int
    keypoints: int
    pairs: int
    matches: int
    """Number of images, keypoints, pairs with matches, and matches that this export wrote."""
    verified: dict[str, int]
    """Two-view geometries in the database, by configuration; those that mappers ignore too."""
    skipped: dict[str, int]
    """What was left out, counted: pairs without matches, and what is there already."""
    images_skipped: dict[str, str]
    """Images that could not be used, and why."""
    cameras: str
    """Number of cameras in the database, and how images share them."""

    def text(self) -> str:
        """For the screen."""
        lines = [
            f"images      {self.images}, keypoints {self.keypoints}",
            f"cameras     {self.cameras}",
            f"pairs       {self.pairs}, matches {self.matches}",
            "verified    " + (", ".join(f"{n} {kind}" for kind, n in self.verified.items()) or "no pair"),
        ]
        lines += [f"skipped     {count} {what}" for what, count in self.skipped.items()]
        lines += [f"skipped     {name}: {reason}" for name, reason in self.images_skipped.items()]
        return "\n".join(lines)


def export_database(
    images: Path,
    correspondences: Correspondences,
    path: Path,
    *,
    cameras: Cameras = CAMERAS,
    verification: Verification = "colmap",
    extend: bool = False,
    seed: int = 0,
    context: RunContext = CONTEXT,
) -> ExportReport:
    """Write cameras, images, keypoints, matches and two-view geometries.

    The database is made beside ``path`` and renamed at the end: what an interruption leaves is the old file
    or the new one. Images that are missing or unreadable, and pairs without matches, are left out and
    counted. Descriptors are not written: COLMAP's matchers abort on any but SIFT's.

    Args:
        images: the folder that names are relative to.
        correspondences: keypoints and matches.
        path: file of the database.
        cameras: of new images.
        verification: ``colmap`` runs COLMAP's own, here; ``geomatch`` estimates geometries on the engine
            (`estimate_two_view`); ``none`` writes matches only, which mappers do not use.
        extend: add to a database that exists; images in it must have the same keypoints, and its pairs stay.
        seed: random seed of COLMAP's RANSAC.
        context: engine and progress.

    Raises FeaturesError for keypoints or matches that cannot be right, nothing is written then; GeomatchError
    when the database exists, is locked or read-only, or of another schema; OSError for the folder.
    """
    check_cameras(cameras)
    sizes, images_skipped = image_sizes(images, correspondences.features, cameras)
    check_target(path, extend)
    if path.exists():
        # COLMAP verifies old matches with the new ones, and reads beyond the keypoints when these are wrong
        require_sound(path)
    space, skipped = DiskSpace(path.resolve().parent), Counter[str]()
    bar = partial(progress_bar, shown=context.progress)
    try:
        with replaced(path, extend, space) as temporary:
            space.reserve(_IMAGE_BYTES * len(sizes))
            import_images(temporary, images, sizes, cameras)
            with database(str(temporary)) as opened, pycolmap().DatabaseTransaction(opened):
                ids = _imported(opened, sizes, images_skipped)
                said = f"{opened.num_cameras()}"
                if cameras.mode == "auto" and not cameras.file:
                    said += ": shared by size and EXIF (--camera-mode per-image for one each)"
                given = LazyPairs(lambda: iter(bar(correspondences.pairs, "matches", "pair")))
                found = checked(Correspondences(correspondences.features, given), sizes, skipped)
                features = bar(found.features.items(), "keypoints", "image")
                keypoints = _write_keypoints(opened, ids, features, space, skipped)
                matches = _write_matches(opened, ids, found.pairs, space, skipped)
                # a geometry holds its inliers again
                space.reserve(8 * opened.num_matches() + _PAIR_BYTES * opened.num_matched_image_pairs())
            verified = verify_database(temporary, verification, seed, context)
    except (RuntimeError, sqlite3.Error) as error:
        raise GeomatchError(f"{path}: COLMAP could not write the database ({first_line(error)})") from error
    return ExportReport(path, *keypoints, *matches, verified, dict(skipped), images_skipped, said)


def copy_database(
    source: Path,
    path: Path,
    images: Path,
    *,
    verification: Verification = "colmap",
    seed: int = 0,
    context: RunContext = CONTEXT,
) -> ExportReport:
    """Copy all of a database to ``path``, in the schema of the COLMAP here; the rest as `export_database`.

    Pairs with matches but no geometry are verified. Images that are not in the folder stay, and are counted.
    Raises GeomatchError when ``source`` has errors (`check_database`), or as `export_database` does.
    """
    check_target(path, extend=False)
    require_sound(source, images)
    space = DiskSpace(path.resolve().parent)
    try:
        with replaced(path, False, space) as temporary:
            space.reserve(2 * source.stat().st_size)
            with closing(open_read_only(source)) as old, closing(sqlite3.connect(temporary)) as copy:
                old.backup(copy)
            with database(str(temporary)) as opened:  # which brings the schema up to date
                names = [image.name for image in opened.read_all_images()]
                numbers = opened.num_keypoints(), opened.num_matched_image_pairs(), opened.num_matches()
                cameras = f"{opened.num_cameras()}, as in {source}"
            verified = verify_database(temporary, verification, seed, context)
    except (RuntimeError, sqlite3.Error) as error:
        raise GeomatchError(f"{source}: COLMAP could not copy it to {path} ({first_line(error)})") from error
    missing = sum(not (images / name).is_file() for name in names)
    skipped = {"images are not in the folder; the database keeps them": missing} if missing else {}
    return ExportReport(path, len(names), *numbers, verified, skipped, {}, cameras)


def require_sound(path: Path, images: Path | None = None) -> None:
    """Raise `GeomatchError` when `check_database` finds an error."""
    for one in check_database(path, images).findings:
        if one.severity == "error":
            text = f"{path} has errors that must be mended first (`colmap check`)"
            raise GeomatchError(f"{text}: {one.message}")


def _imported(
    opened: Any, sizes: dict[str, tuple[int, int]], images_skipped: dict[str, str]
) -> dict[str, int]:
    """Numbers of the images by name; those that are not in the database are removed from ``sizes``."""
    cameras = {camera.camera_id: (camera.width, camera.height) for camera in opened.read_all_cameras()}
    present = {image.name: image for image in opened.read_all_images() if image.name in sizes}
    for name in list(sizes):
        if name not in present:  # what COLMAP cannot use it only logs
            images_skipped[name] = "COLMAP cannot use it: damaged, an unknown format or not its camera's size"
            del sizes[name]
        elif (camera := cameras[present[name].camera_id]) != (size := sizes[name]):
            text = f"{name}: its camera in the database is of {camera[0]}x{camera[1]} pixels, the file has "
            raise FeaturesError(text + f"{size[0]}x{size[1]}")
    if not sizes:
        raise ImageError(f"COLMAP can read none of {len(images_skipped)} images")
    return {name: present[name].image_id for name in sizes}


def _write_keypoints(
    opened: Any,
    ids: Mapping[str, int],
    images: Iterable[tuple[str, Features]],
    space: DiskSpace,
    skipped: Counter[str],
) -> tuple[int, int]:
    """Write the keypoints that are not there; return the numbers of images and keypoints."""
    written = keypoints = 0
    for name, features in images:
        rows = to_colmap(features.keypoints)
        if len(rows) == 0:
            skipped["images without keypoints (written, but they cannot be registered)"] += 1
        if opened.exists_keypoints(ids[name]):
            old = opened.read_keypoints(ids[name])
            # subtracting and adding half a pixel may change the last bit
            if len(old) != len(rows) or not np.allclose(old[:, :2], rows, rtol=0, atol=1e-3):
                text = f"{name}: the database has other keypoints for it ({len(old)}, new {len(rows)})"
                raise FeaturesError(text + "; export to a new database")
            skipped["images that the database already had"] += 1
            continue
        space.reserve(rows.nbytes)
        opened.write_keypoints(ids[name], rows)
        written += 1
        keypoints += len(rows)
    return written, keypoints


def _write_matches(
    opened: Any, ids: Mapping[str, int], found: Iterable[MatchedPair], space: DiskSpace, skipped: Counter[str]
) -> tuple[int, int]:
    """Write the matches that are not there; return the numbers of pairs and matches."""
    written = matches = 0
    extended = opened.num_matched_image_pairs() > 0
    for pair in found:
        if extended and opened.exists_matches(ids[pair.name0], ids[pair.name1]):
            skipped["pairs that the database already had"] += 1
            continue
        rows = pair.matches.indices.astype(np.uint32)
        space.reserve(rows.nbytes + _PAIR_BYTES)
        opened.write_matches(ids[pair.name0], ids[pair.name1], rows)
        written += 1
        matches += len(rows)
    return written, matches

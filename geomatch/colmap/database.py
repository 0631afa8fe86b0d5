"""Writing a COLMAP database that maps: everything checked, the whole or nothing."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from geomatch.collection.correspondences import Correspondences, PairChecker, check_keypoints
from geomatch.colmap.cameras import CameraMode, check_camera, image_sizes, import_images
from geomatch.colmap.conventions import CONFIGURATIONS, to_colmap
from geomatch.colmap.doctor.check import check_database
from geomatch.colmap.library import database, pycolmap
from geomatch.colmap.target import Room, check_target, replaced
from geomatch.colmap.verification import verify_with_colmap, verify_with_ours
from geomatch.engine import Engine, LocalEngine, Work
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line
from geomatch.store import Store

Verification = Literal["colmap", "geomatch", "none"]
_IMAGE_BYTES, _PAIR_BYTES = 1024, 512
"""Of the tables' rows besides keypoints and matches, generously."""


@dataclass(frozen=True, eq=False, slots=True)
class ExportReport:
    """What is in the database now, and what was left out."""

    path: Path
    images: int
    """Written by this export."""
    keypoints: int
    pairs: int
    """With matches."""
    matches: int
    verified: dict[str, int]
    """Two-view geometries in the database, by configuration; those that mappers ignore too."""
    skipped: dict[str, int]
    """What was left out, counted."""
    images_skipped: dict[str, str]
    """Images that were left out, and why."""

    def text(self) -> str:
        """For the screen."""
        lines = [
            f"images      {self.images}, keypoints {self.keypoints}",
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
    camera_mode: CameraMode = "auto",
    camera_model: str = "SIMPLE_RADIAL",
    camera_params: str = "",
    verification: Verification = "colmap",
    extend: bool = False,
    seed: int = 0,
    engine: Engine | None = None,
    store: Store | None = None,
    progress: bool = True,
) -> ExportReport:
    """Write cameras, images, keypoints, matches and two-view geometries.

    The database is made beside ``path`` and renamed at the end: what an
    interruption leaves is the old file or the new one. Images that are missing
    or unreadable, and pairs without matches, are left out and counted.
    Descriptors are not written: COLMAP's matchers abort on any but SIFT's.

    Args:
        images: the folder that names are relative to.
        correspondences: keypoints and matches, see `geomatch.collection`.
        path: of the database.
        camera_mode: which images share a camera.
        camera_model: of COLMAP; the focal length comes from EXIF where it is there.
        camera_params: numbers separated by commas instead, in COLMAP's order.
        verification: ``colmap`` runs COLMAP's own; ``geomatch`` writes ours (`estimate_two_view`);
            ``none`` writes matches only, which mappers do not use.
        extend: add to a database that exists; images in it must have the same keypoints, and its
            pairs stay as they are.
        seed: of RANSAC.
        engine: who verifies when we do, within its ``with`` statement; None takes the cores of this machine.
            COLMAP's own verification runs here.
        store: where geometries that we estimate are kept and looked for; None keeps none.
        progress: show bars.

    Raises:
        FeaturesError: for keypoints or matches that cannot be right; nothing is written.
        GeomatchError: when the database exists, is locked or read-only, or of another schema.
        OSError: when the folder cannot be written.
    """
    check_camera(camera_model, camera_params)
    sizes, images_skipped = image_sizes(images, correspondences.features, camera_mode)
    skipped: Counter[str] = Counter()
    check_target(path, extend)
    if path.exists():
        _check_sound(path)
    room = Room(path.resolve().parent)
    try:
        with replaced(path, extend, room) as temporary:
            room.take(_IMAGE_BYTES * len(sizes))
            import_images(temporary, images, list(sizes), camera_mode, camera_model, camera_params)
            with database(str(temporary)) as opened, pycolmap().DatabaseTransaction(opened):
                ids = _imported(opened, sizes, images_skipped)
                keypoints = _write_keypoints(opened, ids, sizes, correspondences, skipped, room, progress)
                lengths = {name: opened.num_keypoints_for_image(ids[name]) for name in ids}
                pairs, matches = _write_matches(
                    opened, ids, lengths, correspondences, skipped, room, progress
                )
                # a geometry holds its inliers again
                room.take(8 * opened.num_matches() + _PAIR_BYTES * opened.num_matched_image_pairs())
            if verification == "colmap":
                verify_with_colmap(temporary, seed, progress)
            elif verification == "geomatch":
                with nullcontext(engine) if engine else LocalEngine() as verifier:
                    verify_with_ours(temporary, Work(verifier, progress), store)
            verified = _configurations(temporary)
    except (RuntimeError, sqlite3.Error) as error:
        raise GeomatchError(f"{path}: COLMAP could not write the database ({first_line(error)})") from error
    return ExportReport(
        path, len(keypoints), sum(keypoints.values()), pairs, matches, verified, dict(skipped), images_skipped
    )


def _check_sound(path: Path) -> None:
    """COLMAP verifies old matches with the new ones, and reads beyond the keypoints when these are wrong."""
    errors = [finding.message for finding in check_database(path).findings if finding.severity == "error"]
    if errors:
        raise GeomatchError(
            f"{path} has errors that must be mended first, `geomatch colmap check` tells all: {errors[0]}"
        )


def _imported(
    opened: Any, sizes: dict[str, tuple[int, int]], images_skipped: dict[str, str]
) -> dict[str, int]:
    """Numbers of the images; those that are not in the database leave ``sizes``."""
    cameras = {camera.camera_id: (camera.width, camera.height) for camera in opened.read_all_cameras()}
    present = {image.name: image for image in opened.read_all_images() if image.name in sizes}
    for name in list(sizes):
        if name not in present:  # what COLMAP cannot use it only logs
            images_skipped[name] = "COLMAP cannot read it: a format that it does not know, or damaged"
            del sizes[name]
        elif cameras[present[name].camera_id] != sizes[name]:
            camera, size = cameras[present[name].camera_id], sizes[name]
            raise FeaturesError(
                f"{name}: its camera in the database is of {camera[0]}x{camera[1]} pixels, the file has "
                f"{size[0]}x{size[1]}"
            )
    if not sizes:
        raise ImageError(f"COLMAP can read none of {len(images_skipped)} images")
    return {name: present[name].image_id for name in sizes}


def _write_keypoints(
    opened: Any,
    ids: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]],
    correspondences: Correspondences,
    skipped: Counter[str],
    room: Room,
    progress: bool,
) -> dict[str, int]:
    """How many were written, by image."""
    written: dict[str, int] = {}
    for name, size in tqdm(sizes.items(), desc="keypoints", unit="image", disable=None if progress else True):
        features = correspondences.features[name]
        check_keypoints(name, features, size)
        rows = to_colmap(features.keypoints)
        if len(rows) == 0:
            skipped["images without keypoints (written, but they cannot be registered)"] += 1
        if opened.exists_keypoints(ids[name]):
            old = opened.read_keypoints(ids[name])
            # half a pixel taken away and added again may change the last bit
            if len(old) != len(rows) or not np.allclose(old[:, :2], rows, rtol=0, atol=1e-3):
                raise FeaturesError(
                    f"{name}: the database has other keypoints for it ({len(old)}, new {len(rows)}), and "
                    "its matches would point to the wrong ones; export to a new database"
                )
            skipped["images that the database already had"] += 1
            continue
        room.take(rows.nbytes)
        opened.write_keypoints(ids[name], rows)
        written[name] = len(rows)
    return written


def _write_matches(
    opened: Any,
    ids: Mapping[str, int],
    lengths: Mapping[str, int],
    correspondences: Correspondences,
    skipped: Counter[str],
    room: Room,
    progress: bool,
) -> tuple[int, int]:
    checker = PairChecker(lengths)
    pairs = matches = 0
    extended = opened.num_matched_image_pairs() > 0
    for pair in tqdm(correspondences.pairs, desc="matches", unit="pair", disable=None if progress else True):
        reason = checker.check(pair)
        if reason is None and extended and opened.exists_matches(ids[pair.name0], ids[pair.name1]):
            reason = "pairs that the database already had"
        if reason is not None:
            skipped[reason] += 1
            continue
        rows = pair.matches.indices.astype(np.uint32)
        room.take(rows.nbytes + _PAIR_BYTES)
        opened.write_matches(ids[pair.name0], ids[pair.name1], rows)
        pairs += 1
        matches += len(pair.matches)
    return pairs, matches


def _configurations(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT config, count(*) FROM two_view_geometries GROUP BY config ORDER BY config"
        ).fetchall()
    return {CONFIGURATIONS[config]: count for config, count in rows if config < len(CONFIGURATIONS)}

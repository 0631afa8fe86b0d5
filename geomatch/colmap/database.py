"""Writing a COLMAP database that maps: everything checked, the whole or nothing."""

import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from geomatch.collection.correspondences import Correspondences, PairChecker, check_keypoints
from geomatch.collection.folder import raw_size
from geomatch.colmap.conventions import to_colmap
from geomatch.colmap.library import database, interruptible, pycolmap
from geomatch.colmap.sqlite import open_read_only
from geomatch.colmap.verification import write_own_geometries
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
Verification = Literal["colmap", "geomatch", "none"]
CONFIGURATIONS = (
    "undefined", "degenerate", "calibrated", "uncalibrated", "planar", "panoramic", "planar or panoramic",
    "watermark", "multiple", "calibrated rig",
)  # fmt: skip
"""Of a two-view geometry, by COLMAP's number."""


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
        progress: show bars.

    Raises:
        FeaturesError: for keypoints or matches that cannot be right; nothing is written.
        GeomatchError: when the database exists, is locked or read-only, or of another schema.
        OSError: when the folder cannot be written.
    """
    sizes, images_skipped = _image_sizes(images, correspondences, camera_mode)
    skipped: Counter[str] = Counter()
    with _replaced(path, extend) as temporary:
        _import_images(temporary, images, list(sizes), camera_mode, camera_model, camera_params)
        with database(str(temporary)) as opened, pycolmap().DatabaseTransaction(opened):
            ids = {image.name: image.image_id for image in opened.read_all_images()}
            lengths, written = _write_keypoints(opened, ids, sizes, correspondences, skipped, progress)
            chosen = {name: ids[name] for name in sizes}
            pairs, matches = _write_matches(opened, chosen, lengths, correspondences, skipped, progress)
            if verification == "geomatch":
                write_own_geometries(opened, chosen, correspondences, progress)
        if verification == "colmap" and pairs:
            _verify(temporary, seed)
        verified = _configurations(temporary)
    return ExportReport(
        path, written, sum(lengths.values()), pairs, matches, verified, dict(skipped), images_skipped
    )


def _image_sizes(
    images: Path, correspondences: Correspondences, camera_mode: CameraMode
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Of the files that are there, in COLMAP's order, and why others are not."""
    sizes: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    shared: dict[str, tuple[str, tuple[int, int]]] = {}
    for name in sorted(correspondences.features):
        if name != Path(name).as_posix() or Path(name).is_absolute() or ".." in Path(name).parts:
            raise FeaturesError(f"{name!r}: image names must be paths below the image folder, with '/'")
        try:
            sizes[name] = raw_size(images / name)
        except ImageError as error:
            skipped[name] = first_line(error)
            continue
        if camera_mode in ("single", "per-folder"):
            camera = "" if camera_mode == "single" else str(Path(name).parent)
            first, size = shared.setdefault(camera, (name, sizes[name]))
            if size != sizes[name]:
                raise FeaturesError(
                    f"camera mode {camera_mode}: {first} has {size[0]}x{size[1]} pixels, {name} has "
                    f"{sizes[name][0]}x{sizes[name][1]}; images of one camera must be of one size: use "
                    "'auto' or 'per-image'"
                )
    if not sizes:
        raise ImageError(f"{images}: none of {len(skipped)} images can be read; is it the right folder?")
    return sizes, skipped


def _import_images(
    path: Path, images: Path, names: Sequence[str], mode: CameraMode, model: str, params: str
) -> None:
    library = pycolmap()
    options = library.ImageReaderOptions()
    options.camera_model, options.camera_params = model, params
    with database(str(path)) as opened:
        present = {image.name for image in opened.read_all_images()}
    missing = [name for name in names if name not in present]
    if not missing:
        return
    try:
        camera_mode = getattr(library.CameraMode, mode.replace("-", "_").upper())
        library.import_images(
            str(path), str(images), camera_mode=camera_mode, image_names=missing, options=options
        )
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(
            f"COLMAP cannot make cameras of model {model!r} with parameters {params!r} ({first_line(error)})"
        ) from error
    with database(str(path)) as opened:  # what import_images cannot use it only logs
        present = {image.name for image in opened.read_all_images()}
    lost = [name for name in missing if name not in present]
    if lost:
        raise ImageError(
            f"COLMAP cannot import {len(lost)} of {len(missing)} images, the first {lost[0]}: its reader "
            "does not know the format, or camera model and parameters do not fit"
        )


def _write_keypoints(
    opened: Any,
    ids: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]],
    correspondences: Correspondences,
    skipped: Counter[str],
    progress: bool,
) -> tuple[dict[str, int], int]:
    lengths: dict[str, int] = {}
    written = 0
    for name, size in tqdm(sizes.items(), desc="keypoints", unit="image", disable=not progress):
        features = correspondences.features[name]
        check_keypoints(name, features, size)
        rows = to_colmap(features.keypoints)
        lengths[name] = len(rows)
        if len(rows) == 0:
            skipped["images without keypoints (written, but they cannot be registered)"] += 1
        if opened.exists_keypoints(ids[name]):
            old = opened.read_keypoints(ids[name])
            if old.shape[0] != len(rows) or not np.array_equal(old[:, :2], rows):
                raise FeaturesError(
                    f"{name}: the database has other keypoints for it ({len(old)}, new {len(rows)}), and "
                    "its matches would point to the wrong ones; export to a new database"
                )
            skipped["images that the database already had"] += 1
            continue
        opened.write_keypoints(ids[name], rows)
        written += 1
    return lengths, written


def _write_matches(
    opened: Any,
    ids: Mapping[str, int],
    lengths: Mapping[str, int],
    correspondences: Correspondences,
    skipped: Counter[str],
    progress: bool,
) -> tuple[int, int]:
    checker = PairChecker(lengths)
    pairs = matches = 0
    extended = opened.num_matched_image_pairs() > 0
    for pair in tqdm(correspondences.pairs, desc="matches", unit="pair", disable=not progress):
        reason = checker.check(pair)
        if reason is None and extended and opened.exists_matches(ids[pair.name0], ids[pair.name1]):
            reason = "pairs that the database already had"
        if reason is not None:
            skipped[reason] += 1
            continue
        opened.write_matches(ids[pair.name0], ids[pair.name1], pair.matches.indices.astype(np.uint32))
        pairs += 1
        matches += len(pair.matches)
    return pairs, matches


def _verify(path: Path, seed: int) -> None:
    library = pycolmap()
    options = library.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    interruptible(
        lambda token: library.geometric_verification(
            str(path), two_view_geometry_options=options, cancellation_token=token
        )
    )


def _configurations(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT config, count(*) FROM two_view_geometries GROUP BY config ORDER BY config"
        ).fetchall()
    return {CONFIGURATIONS[config]: count for config, count in rows}


@contextmanager
def _replaced(path: Path, extend: bool) -> Iterator[Path]:
    """A database beside ``path``, new or a copy of it, that takes its place when the block succeeds."""
    if path.exists() and not extend:
        raise GeomatchError(f"{path} exists already; give another name, or extend it (--extend)")
    if not path.parent.is_dir():
        raise OSError(f"{path.parent}: no such folder for the database")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".geomatch-") as name:
        temporary = Path(name) / "new.db"
        with database(str(temporary)):
            pass
        if not path.exists():
            yield temporary
            os.replace(temporary, path)
            return
        with _held(path, _schema(temporary)):
            # by another connection: the backup of one that holds a lock would wait for itself
            with closing(open_read_only(path)) as source, closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            yield temporary
        log = path.with_name(path.name + "-wal")
        if log.exists():  # somebody reads it still; a log of the old file would be taken for the new one's
            raise GeomatchError(f"{path} is open in another program; close it there and export again")
        os.replace(temporary, path)


@contextmanager
def _held(path: Path, schema: int) -> Iterator[None]:
    """Keep other writers out."""
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise GeomatchError(f"{path} is read-only; export to a new database")
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            found = _schema_of(connection)
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        except sqlite3.OperationalError as error:
            raise GeomatchError(f"{path} is in use by another program ({error})") from error
        except sqlite3.DatabaseError as error:
            raise GeomatchError(f"{path} is no database of COLMAP ({error})") from error
        if not {"cameras", "images", "keypoints", "matches"} <= tables:
            raise GeomatchError(f"{path} is no database of COLMAP: it lacks its tables")
        if found != schema:
            raise GeomatchError(
                f"{path} has the schema of another COLMAP (version {found}, pycolmap here writes {schema}); "
                "extending would change it so that its own program cannot read it: export to a new database"
            )
        yield
        connection.execute("ROLLBACK")


def _schema(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return _schema_of(connection)


def _schema_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])

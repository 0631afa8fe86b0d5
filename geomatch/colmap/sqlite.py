"""Reading a COLMAP database of any version, without changing it: pycolmap would bring it up to date."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.colmap.conventions import PAIR_BASE, from_colmap, shapes_from_colmap
from geomatch.errors import FeaturesError, GeomatchError, first_line, reading
from geomatch.types import Features, Matches

HEADER = b"SQLite format 3\0"
TABLES = {"cameras", "images", "keypoints", "matches"}
"""Every release of COLMAP has them."""
MAX_BLOB = 2**28
"""Most bytes of a row: the keypoints of an image, the matches of a pair."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; it leaves no files beside a database that nobody writes to."""
    if not path.is_file():
        raise GeomatchError(f"{path} is not a file" if path.exists() else f"{path}: no such file")
    with path.open("rb") as file:
        header = file.read(20)
    if not header.startswith(HEADER):
        raise GeomatchError(f"{path} is no SQLite database, which COLMAP's are")
    real = path.resolve()
    if real.with_name(real.name + "-journal").exists():
        text = f"{path}: another program writes to it, or was ended while it did"
        raise GeomatchError(text + "; then open it once with that program, which undoes what is half written")
    # COLMAP's files have a write-ahead log. While nobody has one open it is not there, and a
    # reader would create it and leave it behind: say that nothing will change, then it does not.
    idle = header[18] == 2 and not real.with_name(real.name + "-wal").exists()
    mode = "mode=ro&immutable=1" if idle else "mode=ro"
    connection = sqlite3.connect(f"{real.as_uri()}?{mode}", uri=True, timeout=2, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOB)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    return connection


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database to read; what goes wrong in the block is a `GeomatchError` that names it.

    One with views, triggers or virtual tables is refused: COLMAP makes none, and they run what they say.
    """
    with reading(path, "COLMAP database"):
        try:
            with closing(open_read_only(path)) as connection:
                tables = set()
                for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master"):
                    if kind not in ("table", "index") or "VIRTUAL" in str(text).upper().split()[:2]:
                        text = f"{path} is no COLMAP database: it has a {kind} {name!r} that runs code"
                        raise GeomatchError(text)
                    tables.add(name)
                if not tables >= TABLES:
                    lacking = ", ".join(sorted(TABLES - tables))
                    raise GeomatchError(f"{path} is no COLMAP database: it has no table {lacking}")
                yield connection
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                text = "is locked: another program writes to it; try when it is done"
            elif code == sqlite3.SQLITE_CORRUPT:
                text = f"is damaged ({first_line(error)}); `sqlite3 {path} .recover` may save a part of it"
            else:
                raise
            raise GeomatchError(f"{path} {text}") from error


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Names of a table's columns; none when there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def beyond_correspondences(path: Path) -> str:
    """What a database has besides keypoints and matches, table by table, with numbers of rows."""
    tables = ("cameras", "rigs", "frames", "pose_priors", "descriptors", "two_view_geometries")
    with opened(path) as connection:
        there = [one for one in tables if columns(connection, one)]
        rows = [connection.execute(f"SELECT count(*) FROM {one}").fetchone()[0] for one in there]
    return ", ".join(f"{n} {one.replace('_', ' ')}" for one, n in zip(there, rows, strict=True) if n)


def read(path: Path) -> Correspondences:
    """Keypoints, with scale and orientation where it has them, and raw matches of a database."""
    with opened(path) as connection:
        rows = connection.execute(
            "SELECT images.image_id, images.name, cameras.width, cameras.height FROM images "
            "JOIN cameras ON cameras.camera_id = images.camera_id"
        ).fetchall()
        (count,) = connection.execute("SELECT count(*) FROM matches").fetchone()
    images = {str(name): (image_id, (width, height)) for image_id, name, width, height in rows}
    names = {image_id: name for name, (image_id, _) in images.items()}

    def load(name: str) -> Features:
        image_id, size = images[name]
        with opened(path) as connection:
            row = connection.execute(
                "SELECT rows, cols, data FROM keypoints WHERE image_id = ?", (image_id,)
            ).fetchone()
            number, columns, data = row or (0, 2, b"")
            points = np.frombuffer(data or b"", np.float32)
            if points.size != number * columns or columns < 2:
                raise FeaturesError(f"{path}: the keypoints of {name} have another size than announced")
            table, scores = points.reshape(number, columns), np.ones(number, np.float32)
            return Features(from_colmap(table[:, :2]), scores, size, *shapes_from_colmap(table))

    def pairs() -> Iterator[MatchedPair]:
        with opened(path) as connection:
            for pair_id, number, data in connection.execute("SELECT pair_id, rows, data FROM matches"):
                image0, image1 = divmod(pair_id, PAIR_BASE)
                indices = np.frombuffer(data or b"", np.uint32).reshape(-1, 2).astype(np.int64)
                if len(indices) != number or image0 not in names or image1 not in names:
                    raise FeaturesError(f"{path}: the matches of pair {pair_id} make no sense")
                yield MatchedPair(names[image0], names[image1], Matches(indices, np.ones(number, np.float32)))

    return Correspondences(LazyFeatures(list(images), load), LazyPairs(pairs, count))

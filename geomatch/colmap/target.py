"""The file of a database: written beside its name and put there whole, never in place of something else."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from geomatch.colmap.library import database
from geomatch.colmap.sqlite import TABLES, open_read_only
from geomatch.errors import GeomatchError, first_line
from geomatch.files import folder_beside, make_folder

SPARE = 32 * 2**20
"""Bytes of the disk that stay free."""


@dataclass(slots=True)
class DiskSpace:
    """Free disk space is checked before it is used: COLMAP ends the process when the disk is full."""

    folder: Path
    reserved: int = 0

    def reserve(self, size: int) -> None:
        """Announce bytes that will be written; raise `GeomatchError` when the disk lacks them."""
        self.reserved += size
        # what was written so far lies in SQLite's log, and is copied into the database from there
        wanted, free = (self.reserved + SPARE) / 2**20, shutil.disk_usage(self.folder).free / 2**20
        if free < wanted:
            needed = f"{free:.0f} MiB are free on this disk, {wanted:.0f} are needed"
            raise GeomatchError(f"{self.folder}: {needed}")


def check_target(path: Path, extend: bool) -> None:
    """Raise `GeomatchError` or `OSError` unless a database can be written to ``path``."""
    if path.is_dir():
        raise GeomatchError(f"{path} is a folder, not a database")
    if path.exists() and not extend:
        raise GeomatchError(f"{path} exists already; give another name, or extend it (--extend)")
    if not path.parent.is_dir():
        raise OSError(f"{path.parent}: no such folder for the database")
    make_folder(path.resolve().parent)  # raises
    if path.exists():
        with _held(path):
            pass
        check_closed(path)


@cache
def _own_schema() -> int:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "new.db"
        with database(str(path)):
            pass
        with closing(sqlite3.connect(path)) as connection:
            return _schema_of(connection)


@contextmanager
def replaced(path: Path, extend: bool, space: DiskSpace) -> Iterator[Path]:
    """A database beside ``path``, new or a copy of it, that replaces it when the block succeeds."""
    check_target(path, extend)
    path = path.resolve()  # a link stays a link
    with folder_beside(path) as folder:
        temporary = folder / "new.db"
        with database(str(temporary)):
            pass
        if not path.exists():
            yield temporary
            _settle(temporary)
            _put(temporary, path)
            return
        space.reserve(path.stat().st_size)
        with _held(path):
            # by another connection: the backup of one that holds a lock would wait for itself
            with closing(open_read_only(path)) as source, closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            before = path.stat()
            yield temporary
            _settle(temporary)
            shutil.copymode(path, temporary)
        check_closed(path)  # a log of the old file would be taken for the new one's
        after = path.stat()
        if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
            raise GeomatchError(f"{path} was changed by another program meanwhile; export again")
        os.replace(temporary, path)


def _put(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a renaming, fails where there is something
    except OSError as error:
        if path.exists():
            text = f"{path} was made by another program meanwhile"
            raise GeomatchError(f"{text}; it stays as it is, give another name") from error
        os.replace(temporary, path)  # a file system without links


def _settle(path: Path) -> None:
    """Bring everything from SQLite's log into the file, and onto the disk."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        text = f"{path.parent.parent}: the database cannot be written there ({first_line(error)})"
        raise GeomatchError(text) from error
    if busy or mode != "delete" or answer != "ok":
        raise GeomatchError(f"{path.parent.parent}: the database could not be written whole ({answer})")
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other writers out in the block."""
    if not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK):
        raise GeomatchError(f"{path} is read-only; export to a new database")
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what a killed writer left in the log
            connection.execute("BEGIN IMMEDIATE")
            found = _schema_of(connection)
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        except sqlite3.OperationalError as error:
            raise GeomatchError(f"{path} is in use by another program ({first_line(error)})") from error
        except sqlite3.DatabaseError as error:
            raise GeomatchError(f"{path} is no database of COLMAP ({first_line(error)})") from error
        if not tables >= TABLES:
            raise GeomatchError(f"{path} is no database of COLMAP: it lacks its tables")
        if found != _own_schema():
            text = f"{path} has the schema of another COLMAP (version {found}, here {_own_schema()})"
            raise GeomatchError(text + ", which could not read it any more; export to a new database")
        yield
        connection.execute("ROLLBACK")


def check_closed(path: Path) -> None:
    """Raise `GeomatchError` while another program has the database open: its log lies beside it then."""
    path = path.resolve()
    log = path.with_name(path.name + "-wal")  # it goes when the last one closes the database
    if log.exists():
        text = f"{path} is open in another program; close it there and run again"
        raise GeomatchError(f"{text} (if none is running, open and close it once: {log.name} is left over)")


def _schema_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])

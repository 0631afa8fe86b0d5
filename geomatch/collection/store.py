"""Matches of pairs in one file, so that a run goes on where it was killed."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np

from geomatch.errors import GeomatchError
from geomatch.types import Matches

WAIT_SECONDS = 60.0
"""For other writers."""
Row: TypeAlias = tuple[str, Matches]
"""The key of a pair (a SHA-256 of all that decides its matches), and the matches."""


class MatchStore:
    """A table from keys to matches; writers of several processes wait for each other."""

    def __init__(self, path: Path) -> None:
        """Open the file, made when missing.

        Raises:
            GeomatchError: when it is no such file.
        """
        self._path = path
        with self._open() as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS pairs (key TEXT PRIMARY KEY, indices BLOB, similarity BLOB)"
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as database:
                yield database
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise GeomatchError(f"{self._path} is in use by another run; wait for it") from error
            raise GeomatchError(
                f"{self._path}: cannot be used for matches ({error}); if the disk is sound and not full, "
                "remove the file to match again"
            ) from error

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Places of the keys that have no matches yet."""
        with self._open() as database:
            known = {key for (key,) in database.execute("SELECT key FROM pairs")}
        return [place for place, key in enumerate(keys) if key not in known]

    def add(self, rows: Iterable[Row]) -> None:
        """Write in one transaction."""
        packed = [
            (key, matches.indices.astype("<u4").tobytes(), matches.similarity.astype("<f4").tobytes())
            for key, matches in rows
        ]
        with self._open() as database, database:
            database.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", packed)

    def read(self, keys: Iterable[str]) -> Iterator[Matches]:
        """The matches of keys, one after the other.

        Raises:
            GeomatchError: for a key that is not there, or whose matches make no sense.
        """
        with self._open() as database:
            for key in keys:
                row = database.execute(
                    "SELECT indices, similarity FROM pairs WHERE key = ?", (key,)
                ).fetchone()
                if row is None:
                    raise GeomatchError(f"{self._path}: matches of a pair are gone; run again")
                try:
                    indices = np.frombuffer(row[0], "<u4").reshape(-1, 2)
                    matches = Matches(indices.astype(np.int64), np.frombuffer(row[1], "<f4"))
                except (TypeError, ValueError) as error:
                    raise GeomatchError(
                        f"{self._path}: matches of a pair make no sense; remove the file to match again"
                    ) from error
                yield matches

"""Objects with names in a folder or, through fsspec, in object storage; written whole or not at all."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from geomatch.errors import DamagedError, FeaturesError, GeomatchError, StoreError, first_line, require
from geomatch.files import name_in, named, write_whole
from geomatch.places import user_path

REMOTE = ("s3", "s3a", "gs", "gcs", "az", "abfs")
"""Protocols whose objects appear whole once all bytes are there."""
Value = TypeVar("Value")
SUFFIX = ".npz"


@dataclass(frozen=True, slots=True)
class Store:
    """Objects by kind and key (``features``, a SHA-256), each a file ``<kind>/<first two digits>/<key>.npz``.

    An object never changes: its key says what decides it, and whoever makes it again writes the same.
    Several processes and machines may write at a time. Methods raise `StoreError` when the store cannot
    be read or written.
    """

    url: str
    """Path of a folder, or a URL of fsspec (``s3://bucket/folder``). Credentials and the endpoint of object
    storage come from the environment of every process."""

    @classmethod
    def at(cls, place: str | os.PathLike[str]) -> "Store":
        """Name a store by its path or URL; nothing is made yet. ValueError for a URL of another protocol."""
        url = os.fspath(place)
        if url.startswith("file:"):
            url = urlsplit(url).path
        if "://" in url:
            protocol, _, rest = url.rstrip("/").partition("://")
            if not rest or protocol not in REMOTE:
                known = ", ".join(REMOTE)
                raise ValueError(f"{url}: no store; give a folder, or s3://bucket/folder (or {known})")
            _remote(url)
            return cls(url.rstrip("/"))
        return cls(str(user_path(url).absolute()))

    def check(self) -> None:
        """Raise `StoreError` unless the folder is there; object storage has none, and passes."""
        if self._local and not Path(self.url).is_dir():
            raise StoreError(f"{self.url}: no store there, nor any folder")

    def read(self, kind: str, key: str) -> bytes:
        """The bytes of an object; raises `KeyError` when it is missing, `DamagedError` when it is another."""
        path = f"{self.url}/{self.name(kind, key)}"
        try:
            with self._errors("read"):
                data: bytes = Path(path).read_bytes() if self._local else _remote(self.url).cat_file(path)
        except FileNotFoundError as error:
            raise KeyError(f"{kind}/{key}") from error
        if name_in(data) != f"{kind}/{key}".encode():
            raise DamagedError(f"{self.label(kind, key)}: damaged, or a copy of another object")
        return data

    def write(self, kind: str, key: str, data: bytes) -> None:
        """Write an object that `geomatch.files.pack_arrays` packed, bound to its key, whole or not at all."""
        target, data = f"{self.url}/{self.name(kind, key)}", named(data, f"{kind}/{key}".encode())
        with self._errors("written"):
            if self._local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, data)
            else:
                _remote(self.url).pipe_file(target, data)

    def found(self, kind: str, key: str, unpack: Callable[[bytes, str], Value]) -> Value | None:
        """The object as ``unpack(bytes, label)`` reads it; None if missing, or damaged and then removed."""
        try:
            return unpack(self.read(kind, key), self.label(kind, key))
        except KeyError:
            return None
        except DamagedError:
            self.remove(kind, key)
            return None

    def needed(self, kind: str, key: str, unpack: Callable[[bytes, str], Value]) -> Value:
        """The object, as `found` reads it; raises `FeaturesError` if there is none that can be read."""
        value = self.found(kind, key, unpack)
        if value is None:
            label = self.label(kind, key)
            raise FeaturesError(f"{label} is missing or damaged; give the same command again")
        return value

    def cached(
        self,
        kind: str,
        keys: Sequence[str],
        make: Callable[[list[int]], Sequence[Value]],
        pack: Callable[[Value], bytes],
        unpack: Callable[[bytes, str], Value],
    ) -> list[Value]:
        """The objects of the keys, read, or made by one call of ``make`` with the missing ones' places."""
        found = {key: self.found(kind, key, unpack) for key in dict.fromkeys(keys)}
        objects = {key: value for key, value in found.items() if value is not None}
        missing = [key for key in found if key not in objects]
        if missing:
            made = make([keys.index(key) for key in missing])
            for key, value in zip(missing, made, strict=True):
                self.write(kind, key, pack(value))
                objects[key] = value
        return [objects[key] for key in keys]

    def sizes(self, kind: str) -> dict[str, int]:
        """Size in bytes of each object of a kind, by key."""
        found: dict[str, int] = {}
        with self._errors("listed"):
            for name, size in self._list(kind):
                key = name.rpartition("/")[2].removesuffix(SUFFIX)
                if name.endswith(SUFFIX) and self.name(kind, key) == name:
                    found[key] = size
        return found

    def remove(self, kind: str, key: str) -> None:
        """Remove an object, if it is there."""
        path = f"{self.url}/{self.name(kind, key)}"
        with self._errors("changed"), suppress(FileNotFoundError):
            if self._local:
                Path(path).unlink()
            else:
                _remote(self.url).rm_file(path)

    @staticmethod
    def name(kind: str, key: str) -> str:
        """Name of an object's file below the store."""
        return f"{kind}/{key[:2]}/{key}{SUFFIX}"

    def label(self, kind: str, key: str) -> str:
        """An object's name for messages."""
        return f"{self.url}: {self.name(kind, key)}"

    @property
    def _local(self) -> bool:
        return "://" not in self.url

    def _list(self, kind: str) -> Iterator[tuple[str, int]]:
        if self._local:
            root = Path(self.url)
            for folder, _, files in os.walk(root / kind, onerror=_unless_missing):
                for file in files:
                    path = Path(folder) / file
                    try:
                        size = path.stat().st_size
                    except FileNotFoundError:  # renamed meanwhile
                        continue
                    yield path.relative_to(root).as_posix(), size
            return
        files = _remote(self.url)
        files.invalidate_cache()  # of listings: other processes write, too
        prefix = files._strip_protocol(self.url)
        for path, info in files.find(f"{self.url}/{kind}", detail=True).items():
            yield path.removeprefix(prefix).lstrip("/"), int(info["size"] or 0)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # object storage has exceptions of its own
            missing = what == "read" and isinstance(error, FileNotFoundError)
            ours = isinstance(error, GeomatchError) or (self._local and not isinstance(error, OSError))
            if missing or ours:
                raise
            reason = getattr(error, "strerror", None) or first_line(error)
            raise StoreError(f"{self.url}: the store cannot be {what} ({reason})") from error


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@lru_cache(maxsize=4)
def _remote(url: str) -> Any:
    """The file system of a URL, without a cache of listings."""
    protocol = url.partition("://")[0]
    fsspec = require("fsspec", "cluster", f"a store at {protocol}://")
    if protocol in ("s3", "s3a"):
        require("s3fs", "cluster", f"a store at {protocol}://")
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        raise ValueError(f"{url}: the protocol needs another package ({first_line(error)})") from error

"""Writing files and folders whole or not at all, their checksums, and arrays to and from one file."""

import hashlib
import io
import json
import os
import re
import struct
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import DamagedError, GeomatchError, first_line

_MARK = b"sha256:"
_TRAILER = len(_MARK) + 64
"""Bytes of the comment that ends our ``.npz`` files: the checksum of all that is before it."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path of the same suffix beside ``path``, renamed to it when the block succeeds."""
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only the owner can read
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it when the block succeeds.

    Raises:
        FileExistsError: when ``path`` exists and is not an empty folder.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; give another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as name:
        temporary = Path(name) / "new"
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)


def make_folder(folder: Path) -> None:
    """Create the folder for results.

    Raises:
        OSError: when there is a file of that name, or no permission.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OSError(f"{folder} is a file; give a folder for the results") from error


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(paths: Iterable[Path]) -> str:
    """SHA-256 of several files, their order, and their names with that of the folder."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def pack_arrays(kind: str, arrays: Mapping[str, Any]) -> bytes:
    """Pack named arrays, but those that are None, in an ``.npz`` file that says what it holds.

    Same arrays, same bytes. The archive's comment is the SHA-256 of the bytes before it, by which
    `unpack_arrays` and `is_sound` notice any damage.
    """
    present = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    buffer = io.BytesIO()
    np.savez(buffer, kind=np.asarray(kind), **present)  # type: ignore[arg-type]
    body = buffer.getvalue()[:-2]  # the last two bytes are the length of the comment
    comment = _MARK + hashlib.sha256(body).hexdigest().encode()
    return body + struct.pack("<H", len(comment)) + comment


def is_sound(data: bytes) -> bool:
    """True if bytes that `pack_arrays` made still have their checksum."""
    body, comment = data[: -_TRAILER - 2], data[-_TRAILER:]
    return comment == _MARK + hashlib.sha256(body).hexdigest().encode()


def unpack_arrays(
    data: bytes, label: str, kind: str, needed: Collection[str], optional: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Unpack what `pack_arrays` packed.

    Raises:
        DamagedError: naming ``label``, for bytes that are damaged, of another kind, or hold other arrays.
    """
    end = data.rfind(b"PK\5\6")  # of the archive's last record, which tells the length of the comment
    if data[end + 20 : end + 22] == struct.pack("<H", _TRAILER) and not is_sound(data):
        raise DamagedError(f"{label}: damaged .npz file (its checksum is wrong)")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile raises its own
        raise DamagedError(f"{label}: not a readable .npz file ({first_line(error)})") from error
    found = str(arrays.pop("kind", "unknown"))
    if found != kind:
        raise DamagedError(f"{label}: expected {kind}, the file holds {found}")
    if not set(needed) <= arrays.keys() <= {*needed, *optional}:
        raise DamagedError(f"{label}: expected {', '.join(needed)}, found {', '.join(arrays)}")
    return arrays


def save_arrays(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a file with `pack_arrays`, whole or not at all."""
    data = pack_arrays(kind, arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load_arrays(
    path: str | os.PathLike[str], kind: str, needed: Collection[str], optional: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote.

    Raises:
        GeomatchError: when the file is missing, broken, holds another kind or other arrays.
    """
    return unpack_arrays(read_archive(path), os.fspath(path), kind, needed, optional)


def read_archive(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; raises `GeomatchError` when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise GeomatchError(f"{os.fspath(path)}: not a readable .npz file ({first_line(error)})") from error


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with numbers by their value.

    >>> natural_order(["img10.png", "img9.png"])
    ['img9.png', 'img10.png']
    """
    return sorted(
        names, key=lambda name: ([(int(d or 0), t) for d, t in re.findall(r"(\d*)(\D*)", name)], name)
    )

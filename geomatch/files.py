"""Writing files and folders whole or not at all, their checksums, and arrays to and from one file."""

import base64
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
import struct
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from geomatch.errors import DamagedError, GeomatchError, reading

_PREFIX = ".geomatch-"
_MARK = b"sha256:"
_END = b"PK\5\6"  # begins a zip archive's last record: 22 bytes, of which two are the length of its comment
_LENGTH = len(_MARK) + 64  # of a comment without a name
MAX_UNPACKED = 2**30
"""Most bytes that a smaller archive may unpack to; the features of an image are some millions."""


def _beside(path: Path) -> Path:
    """Name of a temporary file of this process beside a path.

    What killed processes left there is removed: of this machine at once, of others when it is a week old.
    """
    _sweep(path.parent.absolute())
    owner = f"{_machine()}-{os.getpid()}-{_start_of(os.getpid())}"
    return path.parent / f"{_PREFIX}{owner}-{secrets.token_hex(4)}{path.suffix}"


@cache  # once per process and folder
def _sweep(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*-*-*-*"):
        machine, pid, start = path.name.removeprefix(_PREFIX).split("-")[:3]
        with suppress(OSError, ValueError):  # another's, removed meanwhile, or no name of ours
            week = time.time() - path.lstat().st_mtime > 7 * 24 * 3600
            if not _runs(int(pid), start) if machine == _machine() else week:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def _machine() -> str:
    """Tells machines apart, and containers on them, whose processes have numbers of their own."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [os.readlink("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id").read_text()]
    return digest_of(parts)[:8]


def _start_of(pid: int) -> str:
    """When a process began, since numbers are given again; empty where the system does not say."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _runs(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # of another user
    return _start_of(pid) == start


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it in the end; `OSError` if that is no plain file."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is a folder, pipe or device; give the name of a file")
    temporary = _beside(target)
    try:  # a signal may come as soon as there is a file
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside a path, removed after the block with what is left in it."""
    folder = _beside(target)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file with `replacing`; text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def fill_page(path: str | os.PathLike[str], package: str, template: str, data: Any) -> None:
    """Write a page of HTML: a package's template with ``{{data}}`` as JSON, which cannot end its script."""
    encoded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = resources.files(package).joinpath(template).read_text(encoding="utf-8")
    write_whole(path, page.replace("{{data}}", encoded))


def as_base64(values: NDArray[Any], kind: str) -> str:
    """The numbers as text, of the dtype ``kind``."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind)).tobytes()).decode("ascii")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it at the end; `FileExistsError` if that has files."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; give another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(target) as folder:
        temporary = folder / "new"
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)


def make_folder(folder: Path) -> None:
    """Create the folder for results; raises `OSError` for a file of that name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OSError(f"{folder} is a file or in one; give a folder for the results") from error


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(paths: Iterable[Path]) -> str:
    """SHA-256 of several files, their order, and their names with that of the folder."""
    digest, sums = hashlib.sha256(), cache(sha256_of)  # one file may be linked under several names
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name} {sums(path.resolve())}\n".encode())
    return digest.hexdigest()


def read_json(
    path: str | os.PathLike[str], what: str, kind: type[GeomatchError] = GeomatchError, way_out: str = ""
) -> dict[str, Any]:
    """The object of a JSON file; raises ``kind``, naming the file, when it is not a readable ``what``."""
    with reading(path, what, kind, way_out):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, no object")
    return content


def pack_arrays(kind: str, arrays: Mapping[str, Any]) -> bytes:
    """Pack named arrays, but those that are None, in an ``.npz`` file that says what it holds.

    Same arrays, same bytes. The archive's comment is the SHA-256 of the bytes before it.
    """
    present = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    buffer = io.BytesIO()
    np.savez(buffer, kind=np.asarray(kind), **present)  # type: ignore[arg-type]
    return named(buffer.getvalue())


def named(data: bytes, name: bytes = b"") -> bytes:
    """Packed arrays with a name in their comment, which the checksum covers."""
    end = data.rfind(_END) + 20
    digest = hashlib.sha256(memoryview(data)[:end])
    digest.update(name)
    comment = _MARK + digest.hexdigest().encode() + name
    return data[:end] + struct.pack("<H", len(comment) % 2**16) + comment


def name_in(data: bytes) -> bytes:
    """The name of packed arrays; does not look at their checksum."""
    return data[data.rfind(_END) + 22 + _LENGTH :]


def is_sound(data: bytes) -> bool:
    """True if bytes that `pack_arrays` made still have their checksum."""
    return data == named(data, name_in(data))


def unpack_arrays(
    data: bytes, label: str, kind: str, needed: Collection[str], optional: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Unpack what `pack_arrays` packed; `DamagedError`, naming ``label``, for damaged or other content."""
    if data[data.rfind(_END) + 22 :].startswith(_MARK) and not is_sound(data):
        raise DamagedError(f"{label}: damaged .npz file (its checksum is wrong)")
    with reading(label, ".npz file", DamagedError):
        arrays = read_npz(data)
    found = str(arrays.pop("kind", "unknown"))
    if found != kind:
        raise DamagedError(f"{label}: expected {kind}, the file holds {found}")
    if not set(needed) <= arrays.keys() <= {*needed, *optional}:
        raise DamagedError(f"{label}: expected {', '.join(needed)}, found {', '.join(arrays)}")
    return arrays


def read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of anybody's ``.npz`` file, never pickles, of bounded size; to be used within `reading`."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > max(MAX_UNPACKED, len(data)):
            raise ValueError(f"it would unpack to {size} bytes, more than {MAX_UNPACKED}")
        for member in archive.infolist():
            stream = io.BytesIO(archive.read(member))
            header = npy.read_array_header_2_0 if npy.read_magic(stream)[0] > 1 else npy.read_array_header_1_0
            shape, _, dtype = header(stream)
            if math.prod(shape) * dtype.itemsize != len(stream.getbuffer()) - stream.tell():
                raise ValueError(f"{member.filename} holds another number of bytes than its header says")
            stream.seek(0)
            arrays[member.filename.removesuffix(".npy")] = npy.read_array(stream, allow_pickle=False)
    return arrays


def read_archive(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; raises `GeomatchError` when it cannot be read."""
    with reading(path, ".npz file"):
        return Path(path).read_bytes()


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with numbers by their value.

    >>> natural_order(["img10.png", "img9.png"])
    ['img9.png', 'img10.png']
    """
    return sorted(names, key=lambda n: ([(int(d or 0), t) for d, t in re.findall(r"(\d*)(\D*)", n)], n))

"""Single files of weights: a path that the user gives, the cache, then the network.

The cache is ``$GEOMATCH_HOME``, else ``$XDG_CACHE_HOME/geomatch``, else ``~/.cache/geomatch``. With
``HF_HUB_OFFLINE=1`` or ``GEOMATCH_OFFLINE=1`` nothing is downloaded.
"""

import gzip
import hashlib
import os
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from geomatch.errors import WeightsError, first_line
from geomatch.files import digest_of, replacing, sha256_of
from geomatch.weights.transfer import fetch

SUMS = "SHA256SUMS"
"""Beside the files of a model that we made, as ``sha256sum`` writes it."""
LARGE = 2**26  # bytes of a file that is not checked again while its size and time stay
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights, and its name in the cache."""

    file_name: str
    url: str
    licence: str
    sha256: str | None
    """Known checksum in hexadecimal; when None, that of the first whole file binds later reads."""


_SUPERPOINT_URL = "https://github.com/rpautrat/SuperPoint/raw/master/weights/superpoint_v6_from_tf.pth"
# the authors publish no checksum
SUPERPOINT_V6 = WeightsFile("superpoint_v6_from_tf.pth", _SUPERPOINT_URL, "MIT", None)


def cache_folder() -> Path:
    """The folder for downloaded files."""
    chosen = os.environ.get("GEOMATCH_HOME")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geomatch"


def is_offline() -> bool:
    """True if the user forbids downloads."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "GEOMATCH_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def locate_weights(weights: WeightsFile, path: str | Path | None = None) -> Path:
    """The file on disk, downloaded if need be, and checked."""
    if path is not None:
        chosen = Path(path).expanduser()
        if not chosen.is_file():
            raise WeightsError(f"{chosen}: no such weights file; get it from {weights.url}")
        check_file(chosen)
        return chosen
    cached = cache_folder() / weights.file_name
    note = cached.with_name(cached.name + ".sha256")
    if not cached.is_file():
        _download(weights, cached, note)
        return cached
    try:
        _verify(weights, cached, note)
    except ValueError as error:
        raise WeightsError(
            f"{cached} is damaged or was replaced: {error}; "
            f"delete it (and {note.name}) to download it again from {weights.url}"
        ) from error
    return cached


def check_file(path: Path) -> None:
    """Raise `WeightsError` for a file whose bytes are not those that are recorded, if any are.

    The hub's cache names large files by SHA-256, small ones by git's SHA-1; folders of ours have `SUMS`;
    torch's files have CRC-32s. Large files are read once, and again when size or time have changed.
    """
    recorded = _recorded(path)
    if not recorded and (path.suffix == ".safetensors" or not zipfile.is_zipfile(path)):
        return
    place, advice = path.resolve(), ""
    state = place.stat()
    note = cache_folder() / "checked" / digest_of([str(place), state.st_size, state.st_mtime_ns, recorded])
    if state.st_size > LARGE and note.is_file():
        return
    try:
        if not recorded:
            read_whole(place)
        elif recorded not in _sums_of(place, recorded):
            advice = f", or correct {SUMS} if you changed it" if not path.is_symlink() else ""
            raise ValueError("its checksum is not the one recorded")
    except Exception as error:  # zipfile and zlib raise their own
        raise WeightsError(
            f"{path}: damaged or unreadable ({first_line(error)}); delete {place} and get it again{advice}"
        ) from error
    if state.st_size > LARGE:
        with suppress(OSError):  # a cache that cannot be written to: it is read again next time
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def _recorded(path: Path) -> str:
    """The checksum that is recorded for a file, in hexadecimal; empty if there is none."""
    blob = path.readlink() if path.is_symlink() else path
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return blob.name
    sums = path.parent / SUMS
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines() if sums.is_file() else []
    return next((line.split()[0] for line in lines if line.split()[1:] == [path.name]), "")


def _sums_of(path: Path, like: str) -> tuple[str, ...]:
    """What a checksum as long as another one may be: SHA-256, or SHA-1 as of git or of the file alone."""
    if len(like) != 40:
        return (sha256_of(path),)
    content = path.read_bytes()
    return tuple(hashlib.sha1(head + content).hexdigest() for head in (b"blob %d\0" % len(content), b""))


def read_whole(path: Path) -> None:
    """Raise an error of some type unless the file is what its name says, to its last byte."""
    with path.open("rb") as file:
        if _PAGE.match(file.read(1000)):
            raise ValueError("it is a page of the web")
    if path.name.endswith((".gz", ".tgz")):
        with gzip.open(path) as stream:
            while stream.read(2**22):
                pass
    elif path.suffix == ".csv":
        path.read_text(encoding="utf-8")
    elif path.suffix == ".zip" or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def _download(weights: WeightsFile, target: Path, note: Path) -> None:
    advice = f"download {weights.url} and put it at {target}"
    if is_offline():
        raise WeightsError(f"{weights.file_name} is not in the cache and downloads are off; {advice}")
    part, locks = target.with_name("part-" + target.name), target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / target.name):
            if target.is_file():  # another process was faster
                return
            fetch(weights.url, part, weights.file_name, weights.sha256 is not None)
            try:
                _verify(weights, part, note)
            except ValueError:
                part.unlink()
                raise
            part.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsError(f"cannot download {weights.file_name} ({first_line(error)}); {advice}") from error


def _verify(weights: WeightsFile, path: Path, note: Path) -> None:
    """Raise `ValueError` unless the checksum is right; if none is known, note that of a whole file."""
    found = sha256_of(path)
    expected = weights.sha256 or (note.read_text().strip() if note.is_file() else None)
    if expected is not None and found != expected:
        raise ValueError(f"SHA-256 {found}, expected {expected}")
    if expected is None:
        try:
            read_whole(path)
            if path.suffix in (".pt", ".pth", ".ckpt"):
                from geomatch.weights.tensors import load_pickled

                load_pickled(path)
        except Exception as error:  # the readers raise their own
            raise ValueError(f"it is no whole {path.suffix} file: {first_line(error)}") from error
        if os.access(path.parent, os.W_OK):
            with replacing(note) as temporary:
                temporary.write_text(found + "\n")

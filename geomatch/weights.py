"""Where single weight files live, and how they are fetched.

Order: a path that the user gives, the cache, then the network. The cache is
``$GEOMATCH_HOME``, else ``$XDG_CACHE_HOME/geomatch``, else
``~/.cache/geomatch``. With ``HF_HUB_OFFLINE=1`` or ``GEOMATCH_OFFLINE=1``
nothing is downloaded.
"""

import os
import shutil
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from tqdm import tqdm

from geomatch.errors import WeightsError
from geomatch.files import replacing, sha256_of


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights."""

    file_name: str
    """Its name in the cache."""
    url: str
    licence: str
    sha256: str | None
    """Known checksum in hexadecimal; when None, that of the first download binds later reads."""


SUPERPOINT_V6 = WeightsFile(
    file_name="superpoint_v6_from_tf.pth",
    url="https://github.com/rpautrat/SuperPoint/raw/master/weights/superpoint_v6_from_tf.pth",
    licence="MIT",
    sha256=None,  # the authors publish none
)


def cache_folder() -> Path:
    """The folder for downloaded files."""
    chosen = os.environ.get("GEOMATCH_HOME")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geomatch"


def is_offline() -> bool:
    """Whether the user forbids downloads."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "GEOMATCH_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def is_cached(weights: WeightsFile) -> bool:
    """Whether the file is in the cache already."""
    return (cache_folder() / weights.file_name).is_file()


def locate_weights(weights: WeightsFile, path: str | Path | None = None) -> Path:
    """The file on disk, downloaded and verified if need be.

    Raises:
        WeightsError: naming the file and how to get it, when it is missing,
            cannot be fetched or has another checksum.
    """
    if path is not None:
        chosen = Path(path).expanduser()
        if not chosen.is_file():
            raise WeightsError(f"{chosen}: no such weights file; get it from {weights.url}")
        return chosen
    cached = cache_folder() / weights.file_name
    if not cached.is_file():
        _download(weights, cached)
    _verify(weights, cached)
    return cached


def _download(weights: WeightsFile, target: Path) -> None:
    advice = f"download {weights.url} and put it at {target}"
    if is_offline():
        raise WeightsError(f"{weights.file_name} is not in the cache and downloads are off; {advice}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urlopen(weights.url, timeout=60) as answer, replacing(target) as temporary:
            size = int(answer.headers.get("Content-Length") or 0)
            with (
                temporary.open("wb") as file,
                tqdm.wrapattr(answer, "read", total=size or None, desc=weights.file_name) as body,
            ):
                shutil.copyfileobj(body, file)
            if size and temporary.stat().st_size != size:
                raise OSError(f"got {temporary.stat().st_size} of {size} bytes")
            if weights.sha256 and sha256_of(temporary) != weights.sha256:
                raise OSError("wrong SHA-256")
    except (OSError, HTTPException) as error:
        raise WeightsError(f"cannot download {weights.file_name} ({error}); {advice}") from error


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

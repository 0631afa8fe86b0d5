"""Where a user's files lie: paths with ``~``, and the caches, temporary ones where these cannot be used."""

import logging
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from geomatch.errors import GeomatchError

_log = logging.getLogger(__name__)


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path with its ``~`` replaced; `GeomatchError` where that is nobody's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise GeomatchError(
            f"{path}: {Path(path).parts[0]} is nobody's home; write the whole path"
        ) from error


def cache_folder() -> Path:
    """``$GEOMATCH_HOME``, ``$XDG_CACHE_HOME/geomatch`` or ``~/.cache/geomatch``, or a temporary folder."""
    chosen, base = os.environ.get("GEOMATCH_HOME"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = user_path(chosen) if chosen else user_path(base or "~/.cache") / "geomatch"
    except GeomatchError:
        return _temporary(f"{chosen or base or '~'} is nobody's home")
    readable = os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)
    return folder if readable or _writable(folder) else _temporary(f"{folder} cannot be written to")


def cached_path(name: str) -> Path:
    """Where something in the cache is or can be put: in a temporary folder if `cache_folder` is read-only."""
    folder = cache_folder()
    usable = os.path.exists(folder / name) or _writable(folder)
    return (folder if usable else _temporary(f"{folder} cannot be written to")) / name


def hub_caches() -> list[Path]:
    """Where files of huggingface_hub are looked for; the last is where it can put new ones."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    if folder.parts[0] == "~":  # huggingface_hub takes it literally where there is no home
        return [_temporary("~ is nobody's home") / "huggingface"]
    if _writable(folder):
        return [folder]
    return [folder, _temporary(f"{folder} cannot be written to") / "huggingface"]


def _writable(folder: Path) -> bool:
    """True if files can be put there, after it is made if need be."""
    while not os.path.exists(folder) and folder != folder.parent:  # false without permission, unlike Path's
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@cache
def _temporary(reason: str) -> Path:
    """A folder among the temporary files that only this user can write to; why, and where, is told once."""
    folder = Path(tempfile.gettempdir()) / f"geomatch-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_mode != 0o40700 or found.st_uid != os.getuid():  # somebody else's
        folder = Path(tempfile.mkdtemp(prefix="geomatch-"))
    _log.warning("%s; files are kept in %s", reason, folder)
    return folder

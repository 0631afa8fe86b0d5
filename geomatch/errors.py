"""The errors that geomatch raises on its own account, and what other libraries' errors say."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class GeomatchError(Exception):
    """Base of all: catch it to catch everything that geomatch itself reports."""


class ShapeError(GeomatchError, ValueError):
    """An array has another shape than the documented one."""


class ImageError(GeomatchError, ValueError):
    """A file or array cannot be used as an image; the message names it."""


class MissingDependencyError(GeomatchError, ImportError):
    """An optional package is not installed; the message names the extra."""


class FeaturesError(GeomatchError):
    """Files of features are missing or make no sense; the message names them."""


class DamagedError(GeomatchError):
    """A file of arrays is damaged, or holds something else than it should; the message names it."""


class StoreError(GeomatchError):
    """A store cannot be read or written: a full disk, no permission, no connection; the message names it."""


class WeightsError(GeomatchError):
    """Model weights are missing, broken or of another architecture."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message; the error's type when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def reading(
    path: str | os.PathLike[str], what: str, kind: type[GeomatchError] = GeomatchError, way_out: str = ""
) -> Iterator[None]:
    """Turn whatever a library raises in the block into ``PATH: not a readable WHAT (...)``, of type ``kind``.

    A ``way_out`` follows after a semicolon. Our own errors pass as they are, but those of shapes, which name
    no file; so do an interruption and a lack of memory.
    """
    try:
        yield
    except Exception as error:  # parsers raise whatever they like on damaged files
        ours = isinstance(error, GeomatchError) and not isinstance(error, ShapeError)
        if ours or is_out_of_memory(error):
            raise
        lacks = isinstance(error, KeyError) and error.args
        reason = f"it lacks {error}" if lacks else first_line(error)
        reason = getattr(error, "strerror", None) or reason
        ending = f"; {way_out}" if way_out else ""
        raise kind(f"{os.fspath(path)}: not a readable {what} ({reason}){ending}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """True if torch, OpenCV or Python says that memory has run out, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on CUDA
        return True
    message = str(error).lower()
    if type(error).__module__.startswith("cv2"):
        return "insufficient memory" in message
    allocation = "out of memory" in message or "memory: you tried to allocate" in message  # MPS and the CPU
    return isinstance(error, RuntimeError) and allocation


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package; the error of a missing one names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package '{module}'; install it with: pip install 'geomatch-dift[{extra}]'"
        ) from error

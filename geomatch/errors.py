"""The few errors that geomatch raises on its own account."""

import importlib
from types import ModuleType


class GeomatchError(Exception):
    """Base of all: catch it to catch everything that geomatch itself reports."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its type when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingDependencyError: naming the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package '{module}'; install it with: pip install 'geomatch-dift[{extra}]'"
        ) from error

"""The few errors that geomatch raises on its own account."""


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

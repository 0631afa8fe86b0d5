"""The few errors that geomatch raises on its own account."""


class GeomatchError(Exception):
    """Base of all: catch it to catch everything that geomatch itself reports."""


class ShapeError(GeomatchError, ValueError):
    """An array has another shape than the documented one."""


class ImageError(GeomatchError, ValueError):
    """A file or array cannot be used as an image; the message names it."""


class MissingDependencyError(GeomatchError, ImportError):
    """An optional package is not installed; the message names the extra."""


class WeightsError(GeomatchError):
    """Model weights are missing, broken or of another architecture."""

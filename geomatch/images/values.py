"""Values of any depth, as 8 bits: scaled, stretched, filled."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import ImageError

Stretch = Literal["auto", "never", "always"]
PERCENTILES = (0.5, 99.5)
"""Between which values are stretched: a few dead or glowing pixels do not decide."""
_USED = 0.25  # of the range: what uses less is stretched, such as 10, 12 and 14 bits in 16
SAMPLES = 1000
"""Rows and columns, evenly spaced, of which percentiles are taken."""
_LARGEST = np.float32(1e30)  # of floats that are values
_ROWS = 256  # scaled at a time, which bounds the memory of the copies


@dataclass(frozen=True, slots=True)
class Conversion:
    """How values that are no 8-bit RGB become so, see `geomatch.images`; ValueError for other options."""

    stretch: Stretch = "auto"
    """``auto`` stretches values of more than 8 bits that use less than a quarter of their range, and floats
    beyond [0, 1]; ``never`` none, ``always`` those of every image. The bands together: colours stay."""
    bands: tuple[int, ...] | None = None
    """One band, or those taken as red, green and blue, counted from 1 as GDAL does. None takes what the file
    declares as its colours; more than three that are not declared must be chosen from."""

    def __post_init__(self) -> None:
        if self.stretch not in ("auto", "never", "always"):
            raise ValueError(f"stretch must be auto, never or always, got {self.stretch!r}")
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(self.bands))
            if len(self.bands) not in (1, 3) or min(self.bands) < 1:
                raise ValueError(f"bands must be one or three numbers from 1, got {self.bands}")


CONVERSION = Conversion()


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """Values as decoded."""

    array: NDArray[Any]
    """(H, W, 1 or 3)"""
    alpha: NDArray[np.float32] | None = None
    """(H, W) opacity in [0, 1]."""
    premultiplied: bool = False
    """True if the colours are multiplied by their opacity."""
    white_is_zero: bool = False
    nodata: float | None = None
    """The value that means none."""
    note: str = ""
    known: NDArray[np.bool_] | None = None
    """(H, W) False where the file's mask says that there is no value."""


def choose_bands(count: int, bands: tuple[int, ...] | None, name: str) -> list[int]:
    """Indices of the chosen bands, or of all if they are one or three."""
    if bands is None:
        if count in (1, 3):
            return list(range(count))
        raise ImageError(
            f"{name}: {count} bands, which may be any; choose one or three: geomatch match --bands 3,2,1, "
            "in Python Conversion(bands=(3, 2, 1))"
        )
    if max(bands) > count:
        raise ImageError(f"{name}: there is no band {max(bands)}; the image has {count}")
    return [band - 1 for band in bands]


def opacity(alpha: NDArray[Any]) -> NDArray[np.float32]:
    """Alpha values of any type in [0, 1]."""
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    return np.asarray(np.clip(np.nan_to_num(alpha.astype(np.float32)) / most, 0, 1), np.float32)


def to_pixels(
    values: Values, stretch: Stretch, name: str, limits: tuple[float, float] | None = None
) -> tuple[NDArray[np.uint8], str]:
    """(H, W, 3) RGB, and what was done in words; parts of an image have ``limits``, and perhaps no value."""
    array, notes = values.array, [values.note] if values.note else []
    if not array.size:
        raise ImageError(f"{name}: the image has no pixels")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif" or (array.dtype.kind in "ui" and array.dtype.itemsize > 4):
        raise ImageError(f"{name}: values of {array.dtype} are not supported; use uint8, uint16 or floats")
    valid = valid_pixels(values)
    if valid is not None and not valid.any():
        if limits is None:
            raise ImageError(f"{name}: no pixel has a value")
        return np.full((*valid.shape, 3), 255, np.uint8), "; ".join(notes)
    pixels, note = array, ""
    if is_scaled(array.dtype, stretch):
        known = array if valid is None else array[valid]
        step = [-(-side // SAMPLES) for side in array.shape[:2]]
        some = array[:: step[0], :: step[1]]
        some = some if valid is None else some[valid[:: step[0], :: step[1]]]
        low, high = limits or scaling(some, (float(known.min()), float(known.max())), stretch, name)
        pixels, note = _scaled(array, valid, low, high)
    notes += [note] if note else []
    if values.white_is_zero:
        pixels = 255 - pixels
    if valid is not None:
        pixels = np.round(_filled(pixels.astype(np.float32), valid)).astype(np.uint8)
        notes.append(f"{valid.size - int(valid.sum())} pixels without a value filled from around them")
    if values.alpha is not None:
        alpha = values.alpha[:, :, None]
        shown = pixels * (np.float32(1) if values.premultiplied else alpha)
        pixels = np.round(np.minimum(shown + 255 * (1 - alpha), 255)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, "; ".join(notes)


def valid_pixels(values: Values) -> NDArray[np.bool_] | None:
    """(H, W) where there is a value; None for everywhere.

    The nodata value of floats is none in any band; that of integers may be a true value of one, as in GDAL.
    """
    array, nodata, floats = values.array, values.nodata, values.array.dtype.kind == "f"
    if not floats and nodata is None and values.known is None:
        return None
    # beyond lie infinity, NaN, and what programs write for none, such as -3.4e38
    valid = np.ones(array.shape[:2], np.bool_) if values.known is None else values.known.copy()
    if floats:
        valid &= ((array > -_LARGEST) & (array < _LARGEST)).all(axis=2)
    if nodata is not None:
        same = array == (np.asarray(nodata, array.dtype) if floats else nodata)
        valid &= ~(same.any(axis=2) if floats else same.all(axis=2))
    return None if valid.all() else valid


def is_scaled(dtype: np.dtype[Any], stretch: Stretch) -> bool:
    """True for values that are scaled to 8 bits; others are so already."""
    return dtype != np.uint8 or stretch == "always"


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The whole range of a type, 0 to 1 of floats."""
    limits = None if dtype.kind == "f" else np.iinfo(dtype)
    return (float(limits.min), float(limits.max)) if limits else (0.0, 1.0)


def scaling(
    some: NDArray[Any], extremes: tuple[float, float], stretch: Stretch, name: str
) -> tuple[float, float]:
    """Between which values to scale: the whole range, or two percentiles of ``some`` of the known values."""
    (least, most), (first, last) = extremes, _range(some.dtype)
    beyond = least < first or most > last
    if beyond and stretch == "never":
        raise ImageError(
            f"{name}: floating-point values must lie in [0, 1], got {least:g} to {most:g}; "
            "--stretch auto, in Python Conversion(stretch='auto'), reads them"
        )
    if stretch == "never":
        return first, last
    low, high = least, most
    if some.size:
        low, high = (float(value) for value in np.percentile(some.astype(np.float64), PERCENTILES))
    if low == high:
        low, high = least, most
    if beyond and low == high:
        raise ImageError(f"{name}: all values are {low:g}; there is nothing to see")
    if low == high or not (beyond or stretch == "always" or high - low < _USED * (last - first)):
        return first, last
    return low, high


def _scaled(
    array: NDArray[Any], valid: NDArray[np.bool_] | None, low: float, high: float
) -> tuple[NDArray[np.uint8], str]:
    """Scale, and say so unless it is from the whole range."""
    pixels = np.empty(array.shape, np.uint8)
    exact = np.float64 if array.dtype.kind in "ui" or array.dtype.itemsize > 4 else np.float32
    for row in range(0, len(array), _ROWS):
        part = array[row : row + _ROWS].astype(exact)
        part = np.clip(part if valid is None else np.nan_to_num(part), low, high)
        pixels[row : row + _ROWS] = np.round((part - low) * (255 / (high - low)))
    if (low, high) == _range(array.dtype):
        return pixels, ""
    return pixels, f"values from {low:.6g} to {high:.6g} stretched to 0 to 255"


def _filled(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """The pixels that are not valid from means over ever larger neighbourhoods: without edges to detect."""
    import cv2

    if valid.all():
        return values
    height, width = valid.shape
    half = (width + 1) // 2, (height + 1) // 2
    weight = cv2.resize(valid.astype(np.float32), half, interpolation=cv2.INTER_AREA)
    total = cv2.resize(values * valid[:, :, None], half, interpolation=cv2.INTER_AREA)
    mean = total.reshape(*weight.shape, -1) / np.maximum(weight, 1e-6)[:, :, None]
    coarse = cv2.resize(_filled(mean, weight > 0), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(valid[:, :, None], values, coarse.reshape(values.shape))

"""Image files of any size and depth, of which windows are read."""

import os
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import ImageError, reading
from geomatch.images import CONVERSION, MAX_PIXELS, Conversion, Image
from geomatch.images.loading import decode, name_of, open_still, page_of, turned, with_opacity
from geomatch.images.opening import DAMAGED, open_file, open_picture
from geomatch.images.tiff import Page, Segments, Window, check_page, opacity_band, read_page
from geomatch.images.values import SAMPLES, Values, is_scaled, opacity, scaling, to_pixels, valid_pixels

_ROWS = 1 << 22  # values of the rows that are reduced at a time


def open_raster(path: str | os.PathLike[str], *, apply_exif: bool = True) -> "Raster":
    """Open an image file by the rules of `geomatch.images`, of any size if it is a TIFF in strips or tiles.

    Other files are decoded at once, and must not have more than `MAX_PIXELS` pixels. Raises `ImageError`.
    """
    name = name_of(path)
    with ExitStack() as stack:
        file = stack.enter_context(open_file(Path(path)))
        page, array, turn = page_of(file, name), None, 1
        if page is None or _needs_pillow(page, name):
            width, height = open_picture(file, name).size if page is None else page.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: only TIFF may have more than {MAX_PIXELS / 1e6:.0f} million pixels, and not "
                    "with a palette or under 8 bits; make one: gdal_translate -co TILED=YES IN OUT.tif"
                )
            array, turn = decode(open_still(file, page, name), apply_exif, name)
            array = turned(array[:, :, None] if array.ndim == 2 else array, turn)
        if page is not None:
            turn = page.orientation if apply_exif else 1
            ends = np.add(page.tags.dataoffsets, page.tags.databytecounts, dtype=np.float64)
            if ends.size and ends.max() > file.seek(0, os.SEEK_END):
                raise ImageError(f"{name}: not a readable {DAMAGED} (data beyond the end of the file)")
        return Raster(name, page, array, turn, (file, stack.pop_all()))
    raise AssertionError  # nothing above is suppressed


def _needs_pillow(page: Page, name: str) -> bool:
    """True for palettes, fewer than 8 bits and old compressions; raises `ImageError` for what none reads."""
    try:
        check_page(page, name)
        return bool(np.max(page.tags.bitspersample) < 8)
    except ImageError:
        if page.suits_pillow(None):
            return True
        raise


class Raster:
    """An image file whose windows are read; close it, or use ``with``. One thread at a time.

    Coordinates are those of the picture as its EXIF orientation says, the centre of the first pixel (0, 0).
    """

    name: str
    """The path."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    dtype: np.dtype[Any]
    """Type of the values: uint8, uint16, float32 or another."""
    bands: int
    """Number of bands that are not opacity."""
    opacity: bool
    """True if it has an alpha band, a mask, or a value that means none; floats may be none without."""
    orientation: int
    """EXIF's, 1 to 8, by which the pixels of the file are turned here."""

    def __init__(
        self,
        name: str,
        page: Page | None,
        array: NDArray[Any] | None,
        orientation: int,
        file: tuple[IO[bytes], ExitStack],
    ) -> None:
        self.name, self.orientation = name, orientation
        self._page, self._array, (self._file, self._stack) = page, array, file
        self._kept: Segments = {}
        self._limits: dict[Conversion, tuple[float, float] | None] = {}
        nodata = page is not None and page.nodata is not None
        if array is not None or page is None:
            assert array is not None
            self.size, self.dtype = (array.shape[1], array.shape[0]), array.dtype
            alpha = array.shape[2] == 4
            self.bands, self.opacity = array.shape[2] - alpha, alpha or nodata
        else:
            self.size, self.dtype = page.size[:: 1 if orientation < 5 else -1], page.tags.dtype
            alpha = opacity_band(page)[0] is not None
            self.bands = page.tags.samplesperpixel - alpha
            self.opacity = alpha or nodata or page.mask is not None

    @property
    def on_map(self) -> bool:
        """True for a GeoTIFF that says where its pixels lie."""
        tags = self._page.tags.tags if self._page is not None else {}
        return 34264 in tags or (33550 in tags and 33922 in tags)  # a matrix, or scale and tie point

    def close(self) -> None:
        """Close the file."""
        self._stack.close()
        self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stored(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) in the pixels of the file, as programs see them that know no EXIF orientation."""
        x, y = np.asarray(points, np.float64).T
        if self.orientation in (3, 4, 7, 8):
            y = self.size[1] - 1 - y
        if self.orientation in (2, 3, 6, 7):
            x = self.size[0] - 1 - x
        return np.stack([y, x] if self.orientation > 4 else [x, y], axis=1)

    def read(
        self, left: int, top: int, width: int, height: int
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Read a window: values (height, width, bands), and opacity (height, width) in [0, 1] or None for 1.

        Black is zero, and colours are not multiplied by the opacity, whatever the file does.
        """
        values = self._values("all", (left, top, width, height))
        array, valid, alpha = values.array, valid_pixels(values), values.alpha
        if values.premultiplied and alpha is not None:
            divided = array / np.maximum(alpha, 1e-6)[:, :, None]
            array = (
                divided if array.dtype.kind == "f" else np.rint(divided).clip(0, np.iinfo(array.dtype).max)
            )
            array = array.astype(self.dtype)
        if values.white_is_zero:
            array = 1 - array if array.dtype.kind == "f" else ~array
        if valid is not None:
            alpha = valid.astype(np.float32) if alpha is None else alpha * valid
        return array, alpha

    def window(
        self, left: int, top: int, width: int, height: int, conversion: Conversion = CONVERSION
    ) -> Image:
        """Read a window as `load_image` would; what is stretched is so between the same values everywhere."""
        values = self._values(conversion.bands, (left, top, width, height))
        if conversion not in self._limits and is_scaled(values.array.dtype, conversion.stretch):
            self.overview(SAMPLES, conversion)
        with reading(self.name, DAMAGED, ImageError):
            pixels, note = to_pixels(values, conversion.stretch, self.name, self._limits.get(conversion))
        return Image(pixels, self.name, note)

    def overview(self, max_side: int, conversion: Conversion = CONVERSION) -> Image:
        """The whole as `load_image` and `reduce_image` would make it, by area averaging.

        Of the copies in a cloud-optimised GeoTIFF that one is averaged which is the smallest still larger.
        """
        if conversion not in self._limits and self._level(max_side) is not self._level(SAMPLES):
            self._reduced(SAMPLES, conversion)
        values = self._reduced(max_side, conversion)
        with reading(self.name, DAMAGED, ImageError):
            pixels, note = to_pixels(values, conversion.stretch, self.name, self._limits[conversion])
        return Image(pixels if self._array is not None else turned(pixels, self.orientation), self.name, note)

    def _values(self, bands: tuple[int, ...] | Literal["all"] | None, window: Window) -> Values:
        """Values of a window, upright."""
        left, top, width, height = window
        if min(left, top) < 0 or min(width, height) < 1:
            raise ValueError(f"the window {window} is empty, or begins outside the image")
        if left + width > self.size[0] or top + height > self.size[1]:
            raise ValueError(f"the window {window} leaves the image of {self.size[0]} x {self.size[1]}")
        if self._array is not None:
            return self._stored(None, bands, window)
        corners = self.stored(np.array([[left, top], [left + width - 1, top + height - 1]], np.float64))
        (x, y), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
        values = self._stored(self._page, bands, (int(x), int(y), int(x1 - x) + 1, int(y1 - y) + 1))
        turn = self.orientation
        return replace(
            values,
            array=turned(values.array, turn),
            alpha=None if values.alpha is None else turned(values.alpha, turn),
            known=None if values.known is None else turned(values.known, turn),
        )

    def _stored(
        self, page: Page | None, bands: tuple[int, ...] | Literal["all"] | None, window: Window
    ) -> Values:
        """Values of a window as a page, or what was decoded, has them."""
        with reading(self.name, DAMAGED, ImageError):
            if self._array is None and page is not None:
                values = read_page(page, self._file, bands, self.name, window, self._kept)
            else:
                assert self._array is not None
                left, top, width, height = window
                array = self._array[top : top + height, left : left + width]
                if bands == "all":
                    alpha = opacity(array[:, :, 3]) if array.shape[2] == 4 else None
                    values = Values(array[:, :, : self.bands], alpha)
                else:
                    values = with_opacity(array, Conversion(bands=bands), self.name)
            return values if self._page is None else replace(values, nodata=self._page.nodata)

    def _level(self, max_side: int) -> Page | None:
        """The smallest copy in the file that is large enough, or its image; None for what was decoded."""
        if self._array is not None or self._page is None:
            return None
        larger = [one for one in self._page.reduced if max(one.size) >= min(max_side, max(self.size))]
        return min([self._page, *larger], key=lambda one: max(one.size))

    def _reduced(self, max_side: int, conversion: Conversion) -> Values:
        """Averages of the whole as it is stored; finds between which values it is stretched, too."""
        import cv2

        size = self.size if self._array is not None or self._page is None else self._page.size
        factor = min(1, max_side / max(size))
        wide, high = (max(1, round(side * factor)) for side in size)
        page = self._level(max_side)
        width, height = size if page is None else page.size
        step_x, step_y = -(-width // SAMPLES), -(-height // SAMPLES)
        total, weight, some = None, np.zeros((high, wide, 1)), []
        extremes, complete = [], True
        rows = _rows_at_once(page, width)
        for top in range(0, height, rows):
            values = self._stored(page, conversion.bands, (0, top, width, min(rows, height - top)))
            array, valid = values.array, valid_pixels(values)
            dtype, complete = array.dtype, complete and valid is None
            here = slice(-top % step_y, None, step_y), slice(None, None, step_x)
            some.append(array[here] if valid is None else array[here][valid[here]][:, None])
            known = array if valid is None else array[valid]
            if known.size:
                extremes += [float(known.min()), float(known.max())]
            share = np.ones(array.shape[:2], np.float32) if valid is None else valid.astype(np.float32)
            share = share if values.alpha is None else share * values.alpha
            exact = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
            part = np.where(share[:, :, None] > 0, array, 0).astype(exact)
            part = part if values.premultiplied else part * share[:, :, None]
            stack = np.dstack([part, share.astype(exact)])
            if width != wide:
                stack = cv2.resize(stack, (wide, len(stack)), interpolation=cv2.INTER_AREA)
            first, last = top * high // height, ceil((top + len(array)) * high / height)
            edges = np.arange(first, last + 1) * (height / high)
            y = np.arange(top, top + len(array))
            overlap = np.minimum(y + 1, edges[1:, None]) - np.maximum(y, edges[:-1, None])
            mean = np.tensordot(
                overlap.clip(0, None) * (high / height), stack.reshape(*stack.shape[:2], -1), 1
            )
            if total is None:
                total = np.zeros((high, wide, array.shape[2]))
            total[first:last] += mean[:, :, :-1]
            weight[first:last] += mean[:, :, -1:]
        if total is None or not extremes:
            raise ImageError(f"{self.name}: no pixel has a value")
        values = replace(values, premultiplied=False, nodata=None)
        limits = None
        if is_scaled(dtype, conversion.stretch) and conversion not in self._limits:
            flat = np.concatenate([one.reshape(-1, array.shape[2]) for one in some])
            limits = scaling(flat, (min(extremes), max(extremes)), conversion.stretch, self.name)
        self._limits.setdefault(conversion, limits)
        average = total / np.maximum(weight, 1e-6)
        if dtype.kind != "f":
            average = np.rint(average)
        has_alpha = values.alpha is not None
        return replace(
            values,
            array=average.astype(dtype),
            alpha=weight[:, :, 0].astype(np.float32) if has_alpha else None,
            known=None if complete else weight[:, :, 0] > 0,
        )


def _rows_at_once(page: Page | None, width: int) -> int:
    """Whole rows of tiles or strips, of some millions of values."""
    down = 1
    if page is not None:
        down = page.tags.tilelength if page.tags.is_tiled else page.tags.rowsperstrip
        down = 1 if down >= page.size[1] else down
    return max(1, _ROWS // (width * down)) * down

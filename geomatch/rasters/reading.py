"""Image files of any size and depth, of which windows are read."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.errors import ImageError, reading
from geomatch.images import CONVERSION, MAX_PIXELS, Conversion, Image
from geomatch.images.loading import decode, name_of, open_still, page_of, turned, with_opacity
from geomatch.images.opening import DAMAGED, open_file, open_picture
from geomatch.images.tiff import Page, Segments, Window, check_page, read_page
from geomatch.images.values import SAMPLES, Values, is_scaled, scaling, to_pixels, valid_pixels

_Bands = tuple[int, ...] | Literal["all"] | None
_AT_ONCE = 1 << 20  # pixels that are reduced


@dataclass(frozen=True, eq=False, slots=True)
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
    close: Callable[[], None]
    """Closes the file."""
    _file: IO[bytes]
    _page: Page | None
    _array: NDArray[Any] | None  # (H, W, C) as in the file, of what is decoded at once
    _kept: Segments = field(default_factory=dict)
    _limits: dict[Conversion, tuple[float, float]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_map(self) -> bool:
        """True for a GeoTIFF that says where its pixels lie."""
        tags = {} if self._page is None else self._page.tags.tags
        return 34264 in tags or (33550 in tags and 33922 in tags)  # a matrix, or scale and tie point

    def stored(self, points: ArrayLike) -> NDArray[np.float64]:
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
        values = self._upright("all", (left, top, width, height))
        array, valid, alpha = values.array, valid_pixels(values), values.alpha
        floats = array.dtype.kind == "f"
        if values.premultiplied and alpha is not None:
            divided = array / np.maximum(alpha, 1e-6)[:, :, None]
            array = divided if floats else np.rint(divided).clip(0, np.iinfo(array.dtype).max)
            array = array.astype(self.dtype)
        if values.white_is_zero:
            array = 1 - array if floats else ~array
        if valid is not None:
            alpha = valid.astype(np.float32) if alpha is None else alpha * valid
        return array, alpha

    def window(
        self, left: int, top: int, width: int, height: int, conversion: Conversion = CONVERSION
    ) -> Image:
        """Read a window as `load_image` would; what is stretched is so between the same values everywhere."""
        values = self._upright(conversion.bands, (left, top, width, height))
        if conversion not in self._limits and is_scaled(self.dtype, conversion.stretch):
            self._reduced(SAMPLES, conversion)
        return self._image(values, conversion)

    def overview(self, max_side: int, conversion: Conversion = CONVERSION) -> Image:
        """The whole as `load_image` and `reduce_image` make it, of the smallest copy still larger."""
        if conversion not in self._limits and self._level(max_side) is not self._level(SAMPLES):
            self._reduced(SAMPLES, conversion)
        return self._image(self._turned(self._reduced(max_side, conversion)), conversion)

    def _image(self, values: Values, conversion: Conversion) -> Image:
        with reading(self.name, DAMAGED, ImageError):
            limits = self._limits.get(conversion, (0.0, 255.0))
            pixels, note = to_pixels(values, conversion.stretch, self.name, limits)
        return Image(pixels, self.name, note)

    def _turned(self, values: Values) -> Values:
        found = {name: getattr(values, name) for name in ("array", "alpha", "known")}
        arrays: Any = {name: turned(a, self.orientation) for name, a in found.items() if a is not None}
        return replace(values, **arrays)

    def _upright(self, bands: _Bands, window: Window) -> Values:
        left, top, width, height = window
        right, bottom = left + width - 1, top + height - 1
        if not (0 <= left <= right < self.size[0] and 0 <= top <= bottom < self.size[1]):
            raise ValueError(f"no window of an image of {self.size[0]} x {self.size[1]}: {window}")
        corners = self.stored(np.array([[left, top], [right, bottom]]))
        (x, y), (x1, y1) = np.sort(corners, axis=0).astype(int).tolist()
        return self._turned(self._values(self._page, bands, (x, y, x1 - x + 1, y1 - y + 1)))

    def _values(self, page: Page | None, bands: _Bands, window: Window) -> Values:
        """Values of a window of a page, or of what was decoded, as the file has them."""
        left, top, width, height = window
        with reading(self.name, DAMAGED, ImageError):
            if self._array is not None:
                array = self._array[top : top + height, left : left + width]
                values = with_opacity(array, Conversion(bands=None if bands == "all" else bands), self.name)
            else:
                assert page is not None
                values = read_page(page, self._file, bands, self.name, window, self._kept)
        return values if self._page is None else replace(values, nodata=self._page.nodata)

    def _level(self, max_side: int) -> Page | None:
        """The smallest copy in the file that is large enough, or its image."""
        if self._page is None or self._array is not None:
            return self._page
        larger = [one for one in self._page.reduced if max(one.size) >= min(max_side, max(self.size))]
        return min([self._page, *larger], key=lambda one: max(one.size))

    def _reduced(self, max_side: int, conversion: Conversion) -> Values:
        """Averages of the whole as it is stored; finds between which values it is stretched, too."""
        import cv2

        page, own = self._level(max_side), self.size[:: -1 if self.orientation > 4 else 1]
        wide, high = (max(1, round(side * min(1, max_side / max(own)))) for side in own)
        width, height = own if page is None else page.size
        down, step = -(-height // SAMPLES), slice(None, None, -(-width // SAMPLES))
        sums: Any = 0
        some, extremes, complete = [], [], True
        for top in range(0, height, rows := max(1, _AT_ONCE // width)):
            values = self._values(page, conversion.bands, (0, top, width, min(rows, height - top)))
            array, valid = values.array, valid_pixels(values)
            every = np.ones(array.shape[:2], np.bool_) if valid is None else valid
            lines, complete = slice(-top % down, None, down), complete and valid is None
            if every.any():
                some.append(array[lines, step][every[lines, step]])
                known = array if valid is None else array[valid]
                extremes += [known.min(), known.max()]
            exact = np.float32 if self.dtype.itemsize <= 2 or self.dtype == np.float32 else np.float64
            part: NDArray[Any] = np.ones((*every.shape, array.shape[2] + 1), exact)
            part[:, :, :-1] = array
            if valid is not None:
                part[~valid] = 0
            if values.alpha is not None:
                part[:, :, slice(-1 if values.premultiplied else 0, None)] *= values.alpha[:, :, None]
            if width != wide:
                part = cv2.resize(part, (wide, len(part)), interpolation=cv2.INTER_AREA)
            # how much of each row lies in each of the reduced ones
            first, last = top * high // height, ceil((top + len(array)) * high / height)
            edges, y = np.arange(first, last + 1) * (height / high), np.arange(top, top + len(array))
            overlap = np.minimum(y + 1, edges[1:, None]) - np.maximum(y, edges[:-1, None])
            sums = np.zeros((high, *part.shape[1:])) if top == 0 else sums
            sums[first:last] += np.tensordot(overlap.clip(0, None) * (high / height), part, 1)
        if not extremes:
            raise ImageError(f"{self.name}: no pixel has a value")
        if conversion not in self._limits:
            most, stretch = (float(min(extremes)), float(max(extremes))), conversion.stretch
            deep = is_scaled(self.dtype, stretch)
            limits = scaling(np.concatenate(some), most, stretch, self.name) if deep else (0.0, 255.0)
            self._limits[conversion] = limits
        weight = sums[:, :, -1]
        mean = sums[:, :, :-1] / np.maximum(weight, 1e-6)[:, :, None]
        return replace(
            values,
            array=(mean if self.dtype.kind == "f" else np.rint(mean)).astype(self.dtype),
            alpha=None if values.alpha is None else weight.astype(np.float32),
            known=None if complete else weight > 0,
            premultiplied=False,
            nodata=None,
        )


def open_raster(path: str | os.PathLike[str], *, apply_exif: bool = True) -> Raster:
    """Open an image file by the rules of `geomatch.images`, of any size if it is a TIFF in strips or tiles.

    Other files are decoded at once, and must not have more than `MAX_PIXELS` pixels. Raises `ImageError`.
    """
    name = name_of(path)
    with ExitStack() as stack:
        file = stack.enter_context(open_file(Path(path)))
        page, array = page_of(file, name), None
        if page is None or page.suits_pillow:
            width, height = open_picture(file, name).size if page is None else page.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: only TIFF may have more than {MAX_PIXELS / 1e6:.0f} million pixels, and not "
                    "with a palette or under 8 bits; make one: gdal_translate -co TILED=YES IN OUT.tif"
                )
            array, turn = decode(open_still(file, page, name), apply_exif and page is None, name)
            array = array[:, :, None] if array.ndim == 2 else array
        if page is not None:
            array = None if array is None else turned(array, turn)  # Pillow has turned it
            turn = page.orientation if apply_exif else 1
            ends = np.add(page.tags.dataoffsets, page.tags.databytecounts, dtype=np.float64)
            if ends.max(initial=0) > file.seek(0, os.SEEK_END):
                raise ImageError(f"{name}: not a readable {DAMAGED} (its data lie beyond the end)")
        if array is None:
            assert page is not None
            check_page(page, name)
            (width, height), dtype, count = page.size, page.tags.dtype, page.tags.samplesperpixel
            alpha = page.opacity_band[0] is not None
        else:
            height, width, count = array.shape
            dtype, alpha = array.dtype, count == 4
        size = (height, width) if turn > 4 else (width, height)
        clear = alpha or (page is not None and (page.nodata is not None or page.mask is not None))
        closing = stack.pop_all().close
    return Raster(name, size, dtype, count - alpha, clear, turn, closing, file, page, array)

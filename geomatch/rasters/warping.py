"""Warps of images of any size and depth, block by block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.errors import GeomatchError
from geomatch.rasters.reading import Raster

Interpolation = Literal["nearest", "linear", "cubic"]
Send = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From points (N, 2) to points (N, 2), which are not finite where there are none."""
BLOCK = 512  # side in pixels of the parts of a picture
_MOST_VALUES = 1 << 24  # of the source that are read for a block: else for its halves
_CHUNK = 1 << 15  # places that are sampled at a time, which then stay in the processor's cache
_LARGEST = 16  # times the reference: more pixels than that are a canvas by mistake
_SUFFICES = 1e-6  # of a pixel, of a factor, of opacity: below lie rounding errors


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """A part of a picture."""

    left: int
    """Column of its first pixel."""
    top: int
    """Row of its first pixel."""
    values: NDArray[Any]
    """(h, w, C), 0 where the opacity is."""
    opacity: NDArray[np.float32]
    """(h, w) in [0, 1]."""


def through(matrix: ArrayLike, size: tuple[int, int]) -> Send:
    """Where a homography (3, 3) sends points; NaN beyond the line that it sends to infinity.

    What it sends to the centre of an image of ``size`` lies on this side.
    """
    h = np.asarray(matrix, np.float64)
    side = np.sign(np.linalg.solve(h, [(size[0] - 1) / 2, (size[1] - 1) / 2, 1.0])[2]) or 1.0

    def send(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = np.asarray(points, np.float64).T
        depth = (h[2, 0] * x + h[2, 1] * y + h[2, 2]) * side
        depth = np.where(depth > 0, depth, np.nan) * side
        return np.stack([(row[0] * x + row[1] * y + row[2]) / depth for row in h[:2]], axis=1)

    return send


def canvas_of(
    size: tuple[int, int],
    others: Iterable[tuple[tuple[int, int], Send]],
    kind: Literal["reference", "union"] = "reference",
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (width, height) of a canvas, and the point of the reference where its first pixel lies.

    ``size`` is that of the reference; a ``union`` has room for ``others``, too, each a size and where a
    homography sends its pixels in the reference. Raises `GeomatchError` for one that makes it more than 16
    times the reference.
    """
    low, high = np.zeros(2), np.array(size, np.float64)  # in steps between pixels: their edges are whole
    for number, (own, send) in enumerate(others if kind == "union" else (), 1):
        with np.errstate(all="ignore"):
            outline = send(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * own - 0.5) + 0.5
        low, high = np.minimum(low, outline.min(axis=0)), np.maximum(high, outline.max(axis=0))
        area = np.prod(np.ceil(high - _SUFFICES) - np.floor(low + _SUFFICES))
        if not area <= _LARGEST * size[0] * size[1]:
            raise GeomatchError(
                f"image {number}, warped, makes the union canvas more than {_LARGEST} times as large as the "
                "reference: use --canvas reference, or take the reference nearer the middle"
            )
    first, last = np.floor(low + _SUFFICES).astype(int), np.ceil(high - _SUFFICES).astype(int)
    width, height = (last - first).tolist()
    return (width, height), (int(first[0]), int(first[1]))


def warp_blocks(
    raster: Raster,
    send: Send,
    size: tuple[int, int],
    interpolation: Interpolation = "linear",
    offset: tuple[float, float] = (0, 0),
    block: int = BLOCK,
) -> Iterator[Block]:
    """Warp an image onto a canvas, in blocks row by row; memory is bounded whatever the sizes.

    Where the warp reduces the image by 2 or more, whole numbers of pixels are averaged first.

    Args:
        raster: the image.
        send: where points of the frame lie in the image.
        size: (width, height) of the canvas.
        interpolation: ``nearest`` keeps labels; ``cubic`` is Keys's kernel with a = -0.5 (1981). Beyond the
            centres of the outermost pixels these are repeated, for half a pixel.
        offset: the point of the frame at the first pixel of the canvas.
        block: side of a block in pixels.

    Raises ValueError for another interpolation.
    """
    if interpolation not in _TAPS:
        raise ValueError(f"interpolation must be {', '.join(_TAPS)}, got {interpolation!r}")
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            shape = min(block, size[1] - top), min(block, size[0] - left)
            values = np.zeros((*shape, raster.bands), raster.dtype)
            part = Block(left, top, values, np.zeros(shape, np.float32))
            starts = top + offset[1], left + offset[0]
            y, x = (first + np.arange(n) for first, n in zip(starts, shape, strict=True))
            grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
            with np.errstate(all="ignore"):
                places = np.ascontiguousarray(send(grid).T, np.float64).reshape(2, *shape)
            _fill(raster, places, part, interpolation)
            yield part


def _fill(raster: Raster, places: NDArray[np.float64], block: Block, interpolation: Interpolation) -> None:
    """Fill a block from places (2, h, w); its halves by themselves when much of the image is needed."""
    size = np.array(raster.size)
    with np.errstate(invalid="ignore"):
        in_x, in_y = (np.abs(one - (n - 1) / 2) <= n / 2 for one, n in zip(places, raster.size, strict=True))
    inside = in_x & in_y
    if not inside.any():
        return
    where: Any = inside if not inside.all() else np.s_[:]  # which is much faster
    at = np.stack([one[where].reshape(-1) for one in places])
    factors = np.array([1 if interpolation == "nearest" else _factor(one, inside) for one in places])
    low = np.maximum(at.min(axis=1).astype(int) // factors - 2, 0) * factors
    high = np.minimum((at.max(axis=1).astype(int) // factors + 4) * factors, size)
    if np.prod(high - low) * raster.bands > _MOST_VALUES and inside.size > 1:
        axis = int(np.argmax(inside.shape))
        middle = inside.shape[axis] // 2
        for half in (slice(middle), slice(middle, None)):
            cut = (half, slice(None)) if axis == 0 else (slice(None), half)
            part = Block(block.left, block.top, block.values[cut], block.opacity[cut])
            _fill(raster, places[:, cut[0], cut[1]], part, interpolation)
        return
    window, alpha = raster.read(*low.tolist(), *(high - low).tolist())
    if max(factors) > 1:
        window, alpha = _averaged(window, alpha, factors)
    x, y = (at - (low + (factors - 1) / 2)[:, None]) / factors[:, None]  # a mean lies in the middle
    sampled, opacity = _sampled(window, alpha, (x, y), interpolation, raster.dtype)
    for there, found in ((block.values, sampled), (block.opacity, opacity)):
        there[where] = found.reshape(there[where].shape)


def _factor(places: NDArray[np.float64], inside: NDArray[np.bool_]) -> int:
    """How many pixels of the image lie between those of the block along one axis, in whole numbers."""
    s = max(1, min(places.shape) // 16)
    here = places[:-1:s, :-1:s]
    with np.errstate(invalid="ignore"):
        steps = np.hypot(places[:-1:s, 1::s] - here, places[1::s, :-1:s] - here)[inside[:-1:s, :-1:s]]
    steps = steps[np.isfinite(steps)]
    return max(1, int(np.median(steps) + _SUFFICES)) if steps.size else 1


def _averaged(
    window: NDArray[Any], alpha: NDArray[np.float32] | None, factors: NDArray[np.int_]
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Means over whole numbers of pixels, of what is opaque; fewer at the end."""
    columns, rows = (np.arange(0, n, f) for n, f in zip(window.shape[1::-1], factors, strict=True))

    def summed(array: NDArray[Any]) -> NDArray[np.float64]:
        lines = np.add.reduceat(array, rows, axis=0, dtype=np.float64)
        return np.asarray(np.add.reduceat(lines, columns, axis=1))

    share = summed(np.ones((*window.shape[:2], 1)) if alpha is None else alpha[:, :, None].astype(float))
    if alpha is None:
        return summed(window) / share, None
    mean = summed(np.where(alpha[:, :, None] > 0, window, 0) * alpha[:, :, None])
    count = summed(np.ones((*alpha.shape, 1)))
    return mean / np.maximum(share, _SUFFICES), (share / count)[:, :, 0].astype(np.float32)


def _cubic(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, ...) weights of the pixels around, by Keys's kernel."""
    near = [(1.5 * t - 2.5) * t * t + 1 for t in (f, 1 - f)]
    far = [((-0.5 * t + 2.5) * t - 4) * t + 2 for t in (1 + f, 2 - f)]
    return np.stack([far[0], *near, far[1]])


# the first pixel that is weighted, from the one below, and the weights by the fraction that is left
_TAPS: dict[str, tuple[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "nearest": (0, lambda f: np.ones((1, *f.shape))),
    "linear": (0, lambda f: np.stack([1 - f, f])),
    "cubic": (-1, _cubic),
}


def _sampled(
    window: NDArray[Any],
    alpha: NDArray[np.float32] | None,
    places: tuple[NDArray[np.float64], NDArray[np.float64]],
    interpolation: Interpolation,
    dtype: np.dtype[Any],
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Values (N, C) of ``dtype`` and opacity (N,) at places in a window."""
    height, width, count = window.shape
    if alpha is not None:  # colours of transparent pixels do not count
        seen = alpha[:, :, None].astype(np.float64)
        window = np.concatenate([np.where(seen > 0, window, 0) * seen, seen], axis=2)
    flat = np.ascontiguousarray(window).reshape(height * width, -1)
    first, weighted = _TAPS[interpolation]
    values, opacity = np.empty((len(places[0]), count), dtype), np.ones(len(places[0]), np.float32)
    limits = None if dtype.kind == "f" else np.iinfo(dtype)
    exact = np.float32 if limits and dtype.itemsize <= 2 else np.float64
    for start in range(0, len(values), _CHUNK):
        here, taps = slice(start, start + _CHUNK), []
        for place, side, stride in zip(places, (width, height), (1, width), strict=True):
            low = np.floor(place[here] + (0.5 if interpolation == "nearest" else 0))
            weights = weighted(place[here] - low).astype(exact)[:, :, None]
            index = low.astype(np.int64) + first
            taps.append([(stride * np.clip(index + n, 0, side - 1), w) for n, w in enumerate(weights)])
        total: Any = 0
        for row, weight_y in taps[1]:
            line: Any = 0
            for column, weight_x in taps[0]:
                taken = np.multiply(flat.take(row + column, axis=0), weight_x, dtype=exact)
                line = np.add(line, taken, out=taken)
            total = np.add(total, np.multiply(line, weight_y, out=line), out=line)
        if alpha is not None:
            share = total[:, count]
            opacity[here] = np.where(share > _SUFFICES, share, 0).clip(0, 1)
            total /= np.where(share > _SUFFICES, share, np.inf)[:, None]
        if limits:
            np.rint(total, out=total).clip(limits.min, limits.max, out=total)
        values[here] = total[:, :count]
    return values, opacity

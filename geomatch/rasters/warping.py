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
_MOST_VALUES = 1 << 24  # of the source that are read for a block: else for its halves
_CHUNK = 1 << 15  # places that are sampled at a time, which then stay in the processor's cache
_GROUP = 4  # bands that are sampled together
_LARGEST = 16  # times the reference: more pixels than that are a canvas by mistake
_EDGE = 64  # points of each side of an outline
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
    """Where a homography (3, 3) sends points, NaN for those beyond its horizon.

    That is the line that it sends to infinity; the centre of an image of ``size`` comes from this side of it.
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

    Args:
        size: of the reference, whose frame it is.
        others: the size of each other image, and where its pixels lie in the reference.
        kind: ``reference`` is its own frame, ``union`` has room for all of the others, too.

    Raises `GeomatchError` for a union that one of them makes larger than 16 times the reference.
    """
    low, high = np.zeros(2), np.array(size, np.float64)  # in steps between pixels: their edges are whole
    for number, (own, send) in enumerate(others if kind == "union" else (), 1):
        along = np.linspace(0, 1, _EDGE)
        square = np.concatenate([np.stack([along, along * 0 + end], 1) for end in (0.0, 1.0)])
        with np.errstate(all="ignore"):
            outline = send(np.concatenate([square, square[:, ::-1]]) * own - 0.5) + 0.5
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
    block: int = 512,
    step: int = 1,
) -> Iterator[Block]:
    """Warp an image onto a canvas, in blocks row by row; memory is bounded whatever the sizes.

    Where the warp reduces the image by 2 or more, whole numbers of pixels are averaged first.

    Args:
        raster: the image.
        send: where points of the frame lie in it.
        size: (width, height) of the canvas.
        interpolation: ``nearest`` keeps labels; ``cubic`` is Keys's kernel with a = -0.5 (1981). Beyond the
            centres of the outermost pixels these are repeated, for half a pixel.
        offset: the point of the frame at the first pixel of the canvas.
        block: side of a block in pixels.
        step: every how many pixels ``send`` is asked: more than 1 for warps that are slow and smooth, between
            whose places the cubic kernel interpolates.

    Raises ValueError for another interpolation.
    """
    if interpolation not in _TAPS:
        raise ValueError(f"interpolation must be {', '.join(_TAPS)}, got {interpolation!r}")
    for top in range(0, size[1], block):
        for left in range(0, size[0], block):
            shape = min(block, size[1] - top), min(block, size[0] - left)
            x, y = _places(send, (left + offset[0], top + offset[1]), shape, step)
            values = np.zeros((*shape, raster.bands), raster.dtype)
            part = Block(left, top, values, np.zeros(shape, np.float32))
            _fill(raster, (x, y), part.values, part.opacity, interpolation)
            yield part


def _places(
    send: Send, first: tuple[float, float], shape: tuple[int, int], step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixels of a block lie in the image: x and y, each (h, w)."""
    # with a step, one place before the block, and two after it
    y, x = (np.arange(side) if step == 1 else step * np.arange(-1.0, -(-side // step) + 2) for side in shape)
    grid = np.stack(np.broadcast_arrays(first[0] + x, first[1] + y[:, None]), axis=-1)
    with np.errstate(all="ignore"):
        found = np.asarray(send(grid.reshape(-1, 2)), np.float64).reshape(grid.shape)
        if step > 1:
            for axis, side in enumerate(shape):
                whole, part = np.divmod(np.arange(side), step)
                weights = np.expand_dims(_cubic(part / step), (2, 3) if axis == 0 else (2,))
                taken = (found.take(whole + tap, axis) for tap in range(4))
                found = sum(w * one for w, one in zip(weights, taken, strict=True))
    return found[..., 0], found[..., 1]


def _fill(
    raster: Raster,
    places: tuple[NDArray[np.float64], NDArray[np.float64]],
    values: NDArray[Any],
    opacity: NDArray[np.float32],
    interpolation: Interpolation,
) -> None:
    """Fill the values and the opacity at places, the halves alone when much of the image is needed."""
    with np.errstate(invalid="ignore"):
        inside = np.all(
            [(one >= -0.5) & (one <= side - 0.5) for one, side in zip(places, raster.size, strict=True)], 0
        )
    if not inside.any():
        return
    factors = [_factor(one, inside) for one in places]
    at = [one if inside.all() else one[inside] for one in places]
    bounds = []
    for one, factor, side in zip(at, factors, raster.size, strict=True):
        low = max(int(one.min()) // factor - 2, 0) * factor
        bounds.append((low, min((int(one.max()) // factor + 4) * factor, side) - low))
    (left, width), (top, height) = bounds
    if width * height * raster.bands > _MOST_VALUES and inside.size > 1:
        axis = int(np.argmax(inside.shape))
        middle = inside.shape[axis] // 2
        for half in (slice(middle), slice(middle, None)):
            cut = (half,) if axis == 0 else (slice(None), half)
            _fill(raster, (places[0][cut], places[1][cut]), values[cut], opacity[cut], interpolation)
        return
    window, alpha = raster.read(left, top, width, height)
    if max(factors) > 1 and interpolation != "nearest":
        window, alpha = _averaged(window, alpha, factors)
    else:
        factors = [1, 1]
    # a mean lies in the middle of its pixels
    u, v = (
        (one.reshape(-1) - (factor - 1) / 2 - low) / factor
        for one, factor, (low, _) in zip(at, factors, bounds, strict=True)
    )
    for band in range(0, raster.bands, _GROUP):
        bands = slice(band, band + _GROUP)
        sampled, seen = _sampled(window[:, :, bands], alpha, (u, v), interpolation, values.dtype)
        if inside.all():
            values[:, :, bands], opacity[:] = sampled.reshape(*inside.shape, -1), seen.reshape(inside.shape)
        else:
            values[:, :, bands][inside], opacity[inside] = sampled, seen


def _factor(places: NDArray[np.float64], inside: NDArray[np.bool_]) -> int:
    """How many pixels of the image lie between those of the block along one axis, in whole numbers."""
    s = max(1, min(places.shape) // 16)
    here = inside[:-1:s, :-1:s]
    right, down = places[:-1:s, 1::s] - places[:-1:s, :-1:s], places[1::s, :-1:s] - places[:-1:s, :-1:s]
    with np.errstate(invalid="ignore"):
        steps = np.hypot(right, down)[here]
    steps = steps[np.isfinite(steps)]
    return max(1, int(np.median(steps) + _SUFFICES)) if steps.size else 1


def _averaged(
    window: NDArray[Any], alpha: NDArray[np.float32] | None, factors: list[int]
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Means over whole numbers of pixels, of what is opaque; fewer at the end."""
    (height, width), (across, down) = window.shape[:2], factors
    columns, rows = np.arange(0, width, across), np.arange(0, height, down)

    def summed(array: NDArray[Any]) -> NDArray[np.float64]:
        lines = np.add.reduceat(array, rows, axis=0, dtype=np.float64)
        return np.asarray(np.add.reduceat(lines, columns, axis=1))

    count = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    if alpha is None:
        return summed(window) / count[:, :, None], None
    share = summed(alpha)
    total = summed(np.where(alpha[:, :, None] > 0, window, 0) * alpha[:, :, None])
    return total / np.maximum(share, _SUFFICES)[:, :, None], (share / count).astype(np.float32)


def _cubic(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, ...) weights of the pixels around, by Keys's kernel."""
    near = [((1.5 * t - 2.5) * t * t + 1) for t in (f, 1 - f)]
    far = [((-0.5 * t + 2.5) * t - 4) * t + 2 for t in (1 + f, 2 - f)]
    return np.stack([far[0], near[0], near[1], far[1]])


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
    flat, unpacked = _packed(window)
    first, weighted = _TAPS[interpolation]
    values = np.empty((len(places[0]), count), dtype)
    opacity = np.ones(len(values), np.float32)
    limits = None if dtype.kind == "f" else np.iinfo(dtype)
    exact = np.float32 if limits and dtype.itemsize <= 2 else np.float64
    for start in range(0, len(values), _CHUNK):
        here = slice(start, start + _CHUNK)
        taps = []
        for one, side, stride in ((places[0][here], width, 1), (places[1][here], height, width)):
            low = np.floor(one + 0.5 if interpolation == "nearest" else one)
            weights = weighted(one - low).astype(exact)
            index = low.astype(np.int64) + first
            taps.append(
                [(stride * np.clip(index + n, 0, side - 1), w[:, None]) for n, w in enumerate(weights)]
            )
        total: Any = 0
        for row, weight_y in taps[1]:
            line: Any = 0
            for column, weight_x in taps[0]:
                taken = np.multiply(unpacked(flat.take(row + column, axis=0)), weight_x, dtype=exact)
                line = np.add(line, taken, out=taken)
            total = np.add(total, np.multiply(line, weight_y, out=line), out=line)
        total = total[:, : count + (alpha is not None)]
        if alpha is not None:
            opacity[here] = np.where(total[:, -1] > _SUFFICES, total[:, -1], 0).clip(0, 1)
            total = total[:, :-1] / np.where(opacity[here] > 0, total[:, -1], np.inf)[:, None]
        if limits:
            np.rint(total, out=total).clip(limits.min, limits.max, out=total)
        values[here] = total
    return values, opacity


def _packed(window: NDArray[Any]) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """The pixels of a window each as one number, if it has so many bytes, and how they are told apart again.

    One number is fetched much faster than several.
    """
    height, width, count = window.shape
    filled = 1 << (count - 1).bit_length()
    kind = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}.get(filled * window.itemsize)
    if kind is None:
        return np.ascontiguousarray(window).reshape(-1, count), lambda taken: taken
    flat = np.zeros((height * width, filled), window.dtype)
    flat[:, :count] = window.reshape(-1, count)
    return flat.view(kind)[:, 0], lambda taken: taken.view(window.dtype).reshape(-1, filled)

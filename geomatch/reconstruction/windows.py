"""Small windows of one image found in another to a hundredth of a pixel: Lucas-Kanade, many at once.

A window is a square of places ``u`` about its middle; ``x = place + shape u`` says where they lie in an
image. The affine map is refined by Baker and Matthews' inverse compositional algorithm (Lucas-Kanade 20 years
on, IJCV 2004), weighted by a Gaussian; a gain and an offset of the light are projected out of the equations.
OpenCV's Lucas-Kanade, which `geomatch.alignment` has, neither turns nor stretches windows.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Grey = NDArray[np.float32]
Places = NDArray[np.floating]
RADIUS = 7
"""Pixels that windows reach to each side: with 5, 7, 10 and 14 the camera centres of a rendered scene were
off by 21, 16, 16 and 22 millionths of its extent."""
SIDE = 2 * RADIUS + 1
_GRID = np.stack(np.meshgrid(*2 * [np.arange(-RADIUS, RADIUS + 1.0)])).reshape(2, -1)
_WEIGHTS = np.exp(-(_GRID**2).sum(0) / (RADIUS**2 / 2)).astype(np.float32)
_WEIGHTS /= _WEIGHTS.sum()
_BLOCK, _ITERATIONS, _TINY = 512, 15, 1e-6  # windows at a time: some 10 MB
_STILL, _FAR = 0.01, 3.0  # pixels: a smaller step is the last one, a larger one is astray


def cut_windows(image: Grey, places: Places, shapes: Array) -> Grey:
    """(N, SIDE^2) values of an image (H, W) about places (N, 2), by shapes (N, 2, 2)."""
    if not len(places):  # which OpenCV refuses
        return np.zeros((0, SIDE**2), np.float32)
    x, y = ((shapes[:, k] @ _GRID + places[:, k, None]).astype(np.float32) for k in (0, 1))
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)


def windows_inside(image: Grey, places: Places, shapes: Array) -> NDArray[np.bool_]:
    """(N,) which windows lie wholly in the image."""
    reach = RADIUS * np.abs(shapes).sum(axis=2)
    return np.asarray(((places >= reach) & (places + reach <= np.array(image.shape[::-1]) - 1)).all(axis=1))


def align_windows(
    image: Grey, windows: NDArray[np.uint8], places: Places, shapes: Array
) -> tuple[Array, ...]:
    """Find windows (N, SIDE^2) in an image (H, W), from nearly right places (N, 2) and shapes (N, 2, 2).

    Returns places (N, 2); (N,) their normalised correlations; and (N,) standard deviations in pixels, in the
    worst direction, by the difference that is left: infinite where it did not converge.
    """
    cuts = [slice(k, k + _BLOCK) for k in range(0, max(len(places), 1), _BLOCK)]
    parts = [_align(image, windows[cut], places[cut].astype(np.float64), shapes[cut].copy()) for cut in cuts]
    return tuple(np.concatenate(own) for own in zip(*parts, strict=True))


def _align(image: Grey, windows: NDArray[np.uint8], places: Array, shapes: Array) -> tuple[Array, ...]:
    count = len(windows)
    flat = _centred(windows.astype(np.float32))
    flat /= np.sqrt(flat**2 @ _WEIGHTS)[:, None] + _TINY
    gy, gx = (g.reshape(count, SIDE**2) for g in np.gradient(flat.reshape(count, SIDE, SIDE), axis=(1, 2)))
    u, v = (_GRID / RADIUS).astype(np.float32)  # scaled, so that all unknowns are of one size
    steps = np.stack([gx, gy, gx * u, gx * v, gy * u, gy * v], axis=1)
    steps -= (steps @ _WEIGHTS)[..., None]
    steps -= (steps @ (flat * _WEIGHTS)[..., None]) * flat[:, None]
    weighted = steps * _WEIGHTS
    inverse = np.linalg.inv((weighted @ steps.swapaxes(1, 2)).astype(np.float64) + _TINY * np.eye(6))
    solve = inverse.astype(np.float32) @ weighted
    correlation, moved, active = np.zeros(count), np.full(count, np.inf), np.arange(count)
    for _ in range(_ITERATIONS):
        values = _centred(cut_windows(image, places[active], shapes[active]))
        gain = np.maximum((values * flat[active]) @ _WEIGHTS, _TINY)
        correlation[active] = gain / (np.sqrt(values**2 @ _WEIGHTS) + _TINY)
        step = ((solve[active] @ values[..., None])[..., 0] / gain[:, None]).astype(np.float64)
        good = np.linalg.norm(step, axis=1) < _FAR  # what is unlike the window goes astray at once
        moved[active] = np.where(good, np.linalg.norm(step[:, :2], axis=1), np.inf)
        active, step = active[good], step[good]
        shapes[active] = shapes[active] @ np.linalg.inv(np.eye(2) + step[:, 2:].reshape(-1, 2, 2) / RADIUS)
        places[active] -= (shapes[active] @ step[:, :2, None])[..., 0]
        active = active[moved[active] > _STILL]
        if not len(active):
            break
    spread = np.linalg.eigvalsh(inverse[:, :2, :2])[:, 1] * (_WEIGHTS**2).sum()
    deviation = np.sqrt(spread * np.maximum(np.maximum(correlation, _TINY) ** -2 - 1, 0))
    return places, correlation, np.where(moved < 10 * _STILL, deviation, np.inf)


def _centred(values: Grey) -> Grey:
    return np.asarray(values - (values @ _WEIGHTS)[:, None], np.float32)

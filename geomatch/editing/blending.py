"""Pictures with transparency: read, and blended over photographs through a homography.

Colours are premultiplied by their alpha before they are interpolated, so that those of transparent pixels do
not show at the edges (Porter and Duff, 1984). Where a picture shrinks its pixels are averaged.
"""

import os

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps

from geomatch.errors import ImageError
from geomatch.geometry import image_corners, resize_homography, shift_homography, warp_points
from geomatch.images import name_of, open_image
from geomatch.types import check_shape

MAX_SAMPLES = 4
"""Samples per pixel and axis of a target that sees the picture at a slant."""
_MOST = 32_000
"""Pixels along a side that are warped at once: OpenCV takes no more than 32767."""

EditLike = str | os.PathLike[str] | NDArray[np.uint8] | PILImage.Image
"""A path, an array (H, W, 4) RGBA or a PIL image."""


def load_edit(source: EditLike) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA, turned as its EXIF data says; `ImageError` if it is transparent nowhere or wholly."""
    if isinstance(source, np.ndarray):
        name, pixels = "edit", source
        if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
            raise ImageError(f"edit: expected (H, W, 4) uint8 RGBA, got {pixels.shape} {pixels.dtype}")
    else:
        name = name_of(source)
        with open_image(source) as picture:
            clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
            if not clear or picture.mode.startswith("I"):
                raise ImageError(
                    f"{name}: has no alpha channel (mode {picture.mode}); give a picture with transparency, "
                    "such as a PNG that is transparent where nothing was painted"
                )
            pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGBA"))
    if not pixels[:, :, 3].any():
        raise ImageError(f"{name}: is transparent everywhere; paint something on it")
    return pixels


def painted_box(pixels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is not transparent in (H, W, 4)."""
    left, top, width, height = cv2.boundingRect((pixels[:, :, 3] > 0).astype(np.uint8))
    return left, top, width, height


def blend_edit(
    edit: NDArray[np.uint8], matrix: NDArray[np.float64], target: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8: a target with a picture (h, w, 4), RGBA not premultiplied, over it, warped by (3, 3).

    Values are blended as files hold them, as in the paper's code; where the picture is transparent the target
    is as it was. None when nothing of it lies on the target, ValueError when the matrix sends part of what is
    painted through infinity.
    """
    check_shape("edit", edit, ("H", "W", 4))
    left, top, width, height = painted_box(edit)
    cut = edit[top : top + height, left : left + width].astype(np.float32) / 255
    cut[:, :, :3] *= cut[:, :, 3:]
    to_target = matrix @ shift_homography(left, top)
    edges = image_corners((width + 2, height + 2)) - 1  # interpolation reaches a pixel further
    depth = edges @ to_target[2, :2] + to_target[2, 2]
    if not ((depth > 0).all() or (depth < 0).all()):
        raise ValueError("the homography sends part of the edit through infinity")
    seen, size = warp_points(to_target, edges), target.shape[1::-1]
    x0, y0 = np.clip(np.floor(seen.min(0)) - 1, 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(seen.max(0)) + 2, 0, size).astype(int).tolist()
    part = x1 - x0, y1 - y0
    if min(part) < 1 or min(width, height) < 1:
        return None
    least, most = _shrinking(to_target, edges)
    step = max(1, min(int(least), width, height))
    if step > 1:  # shrinking common to all directions is averaged before, the rest by samples after
        padded = np.pad(cut, [(0, -height % step), (0, -width % step), (0, 0)])
        reduced = padded.shape[1] // step, padded.shape[0] // step
        cut = np.asarray(cv2.resize(padded, reduced, interpolation=cv2.INTER_AREA), np.float32)
        to_target = to_target @ resize_homography(reduced, (padded.shape[1], padded.shape[0]))
    # a tenth over is no reason to take another sample
    samples = max(1, min(int(np.ceil(most / step - 0.1)), MAX_SAMPLES, _MOST // max(part)))
    fine = part[0] * samples, part[1] * samples
    view = resize_homography(part, fine) @ shift_homography(-x0, -y0) @ to_target
    values = cv2.warpPerspective(cut, view, fine, flags=cv2.INTER_LINEAR)
    if samples > 1:
        values = cv2.resize(values, part, interpolation=cv2.INTER_AREA)
    colours, alpha = np.split(np.asarray(values, np.float32), [3], axis=2)
    if not alpha.any():
        return None
    picture = target.copy()
    below = picture[y0:y1, x0:x1]
    below[...] = np.clip(np.round(colours * 255 + below * (1 - alpha)), 0, 255).astype(np.uint8)
    return picture


def _shrinking(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> tuple[float, float]:
    """Least and largest number of pixels that become one, by a homography's derivatives at points (N, 2)."""
    depth = (points @ matrix[2, :2] + matrix[2, 2])[:, None, None]
    seen = warp_points(matrix, points)
    derivatives = (matrix[None, :2, :2] - seen[:, :, None] * matrix[2, :2]) / depth
    stretches = np.linalg.svd(derivatives, compute_uv=False)
    return float(1 / stretches.max()), float(1 / max(stretches.min(), 1e-12))

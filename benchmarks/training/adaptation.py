"""Labels for a keypoint detector: points found again under many homographies and changes of light.

Homographic adaptation (DeTone, Malisiewicz, Rabinovich, 2018, section 5). The base detectors are SIFT at its
fine scales and OpenCV's corners (Shi and Tomasi, 1994), in place of a network trained on synthetic shapes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.files import digest_of, load_arrays, save_arrays
from geomatch.geometry import warp_points
from geomatch.images import load_image, reduce_image
from geomatch.keypoints.tiny import peak_shift
from geomatch.synthetic import change_light, random_homography, render_view
from geomatch.training.bank import BankImage, make_files
from geomatch.training.pairs import random_part

VIEW_SIZE = (320, 240)
"""(width, height) of a view."""
LONGEST = 1280
"""Larger photographs are reduced to this long side."""
WARPS = 40
"""Homographies under which each view is searched."""
LARGEST = 9.0
"""Diameter in pixels of SIFT's largest keypoints that count: coarser ones are found in reduced images."""
MOST = 400
"""SIFT keypoints per search, the best."""
MARGIN = 4
"""Least distance in pixels between two points, and from the view's edge, where detectors find the border."""
STABLE = 0.35
"""Least share of the searches in which a point must have been found."""


def make_labels(folder: Path, images: Sequence[BankImage], workers: int = 2) -> dict[BankImage, str]:
    """Write one file per image, unless it exists; return the images that cannot be read, and why."""
    return make_files(partial(_label_image, folder), partial(_file, folder), images, workers, "labels")


def load_labels(
    folder: Path, images: Sequence[BankImage]
) -> list[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Views (H, W, 3) and their stable points (N, 2), as `make_labels` wrote them; else `GeomatchError`."""
    found = []
    for image in images:
        stored = load_arrays(_file(folder, image), "keypoint labels", ("views", "shares"))
        for view, shares in zip(stored["views"], stored["shares"], strict=True):
            found.append((view, stable_points(shares.astype(np.float32) / 255)))
    return found


def stable_points(shares: NDArray[np.float32], least: float = STABLE) -> NDArray[np.float64]:
    """Maxima (N, 2) of a map of shares within `MARGIN` that reach ``least``, placed by a parabola."""
    highest = np.asarray(cv2.dilate(shares, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)))
    y, x = np.nonzero((shares == highest) & (shares >= least))
    inside = (np.minimum(x, y) >= MARGIN) & (x < shares.shape[1] - MARGIN) & (y < shares.shape[0] - MARGIN)
    y, x = y[inside], x[inside]
    before = np.stack([shares[y, x - 1], shares[y - 1, x]], axis=1)
    after = np.stack([shares[y, x + 1], shares[y + 1, x]], axis=1)
    shifts = peak_shift(*map(torch.from_numpy, (before, shares[y, x][:, None], after)))
    return np.stack([x, y], axis=1) + shifts.numpy().astype(np.float64)


def found_again(
    pixels: NDArray[np.uint8], view: NDArray[np.float64], rng: np.random.Generator, warps: int = WARPS
) -> NDArray[np.uint8]:
    """255 times the share of searches that found a point, at each pixel of a view.

    A search counts where its warped view shows the pixel; a point counts by a Gaussian of 1 px around it.
    The larger share of the two kinds of points is taken.
    ``view`` (3, 3) maps the photograph to the view. The first search is of the view itself, relit.
    """
    width, height = VIEW_SIZE
    sift = cv2.SIFT_create(enable_precise_upscale=True)  # type: ignore[attr-defined]
    corners = cv2.GFTTDetector_create(maxCorners=300, minDistance=3)  # type: ignore[attr-defined]
    everything = np.ones((height, width), np.float32)
    sums, seen = np.zeros((2, height, width), np.float32), np.full((height, width), 1e-3, np.float32)
    for warp in range(warps):
        motion = random_homography(rng, VIEW_SIZE, "rotated" if warp % 2 else "upright")
        matrix = motion if warp else np.eye(3)
        lit = change_light(rng, render_view(pixels, matrix @ view, VIEW_SIZE))
        grey = cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY)
        fine = [point for point in sift.detect(grey, None) if point.size <= LARGEST]
        fine.sort(key=lambda point: -point.response)
        back = np.linalg.inv(matrix)
        for total, found in zip(sums, (fine[:MOST], corners.detect(grey, None)), strict=True):
            points = np.array([point.pt for point in found], np.float64).reshape(-1, 2)
            total += _spread(warp_points(back, points))
        seen += cv2.warpPerspective(everything, back, VIEW_SIZE)
    return np.asarray(np.clip(sums.max(0) / seen, 0, 1) * 255, np.uint8)


def _spread(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """A map with a Gaussian of height 1 around each point; the highest counts."""
    width, height = VIEW_SIZE
    spread = np.zeros((height, width), np.float32)
    for x, y in points[np.isfinite(points).all(1)]:
        left, top = max(int(x) - 3, 0), max(int(y) - 3, 0)
        right, bottom = min(int(x) + 5, width), min(int(y) + 5, height)
        if left < right and top < bottom:
            across = np.exp(-0.5 * (np.arange(left, right) - x) ** 2)
            down = np.exp(-0.5 * (np.arange(top, bottom) - y) ** 2)
            part = spread[top:bottom, left:right]
            np.maximum(part, down[:, None] * across[None], out=part)
    return spread


def _file(folder: Path, image: BankImage) -> Path:
    settings = [image.sha256, image.views, VIEW_SIZE, LONGEST, WARPS, LARGEST, MOST]
    return folder / f"{digest_of(settings)}.npz"


def _label_image(folder: Path, image: BankImage) -> None:
    pixels = reduce_image(load_image(image.path), LONGEST).pixels
    views, shares = [], []
    for number in range(image.views):
        rng = np.random.default_rng([int(image.sha256[:8], 16), number])
        view = random_part(pixels, rng, VIEW_SIZE)
        shares.append(found_again(pixels, view, rng))
        views.append(render_view(pixels, view, VIEW_SIZE))
    arrays = {"views": np.stack(views), "shares": np.stack(shares)}
    save_arrays(_file(folder, image), "keypoint labels", arrays)

"""The embedded detector: labels, and its training on them, resumable at any checkpoint.

Labels are points found again under many homographies and changes of light: homographic adaptation (DeTone,
Malisiewicz, Rabinovich, 2018, section 5). The base detectors are SIFT at its fine scales and OpenCV's corners
(Shi and Tomasi, 1994), in place of a network trained on synthetic shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.files import digest_of, load_arrays, save_arrays
from geomatch.geometry import shift_homography, warp_points
from geomatch.images import load_image, reduce_image
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import new_network, peak_shift
from geomatch.synthetic import change_light, random_homography, render_view
from geomatch.training.bank import BankImage, make_files, random_part
from geomatch.training.checkpoint import one_cycle, train

CHECKPOINT = "detector.pt"
CELL = SuperPointNetwork.stride
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601 luma."""
NOTHING = 6.6
"""Logit of "no keypoint" at the start: with 64 others at 0, 92 % of the cells."""
LIGHTS = (1.0, 1.6)
"""Strengths of the change of light, alternating."""
Label = tuple[NDArray[np.uint8], NDArray[np.float64]]
"""A view (H, W, 3) of `VIEW_SIZE` and the stable points in it (N, 2)."""
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


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Everything that decides the weights, besides the labels."""

    crop_size: tuple[int, int] = (192, 144)
    """(width, height) seen in each step, in pixels."""
    batch_size: int = 16
    steps: int = 3000
    learning_rate: float = 2e-3
    """Peak of the one-cycle cosine schedule."""
    seed: int = 0


def train_detector(
    labels: Sequence[Label],
    config: DetectorConfig,
    out: Path,
) -> SuperPointNetwork:
    """Train, or resume from ``out/detector.pt``; crops of step k depend on (seed, k) alone.

    The loss is SuperPoint's cross-entropy over the pixels of a cell and "no keypoint" (DeTone et al.,
    2018, section 3.4), with a point's share spread over the four pixels around it.
    """

    def parts_of(network: SuperPointNetwork) -> dict[str, Any]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # the last normalisation holds the logits near 0: from there "no keypoint", which most cells are,
        # would take thousands of steps
        named = dict(network.named_parameters())
        last = [named.pop(f"detector.1.bn.{name}") for name in ("weight", "bias")]
        torch.nn.init.constant_(last[1][-1:], NOTHING)
        groups = [{"params": [*named.values()]}, {"params": last, "lr": 10 * config.learning_rate}]
        return one_cycle(groups, config, 1e-4)

    def draw(rng: np.random.Generator) -> list[Tensor]:
        drawn = [
            seen_again(labels[int(rng.integers(len(labels)))], config.crop_size, rng, number)
            for number in range(config.batch_size)
        ]
        return [torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)]

    def loss(network: SuperPointNetwork, drawn: list[Tensor]) -> Tensor:
        crops, targets, weights = drawn
        with torch.autocast("cpu", torch.bfloat16):
            cells = network.cells(crops[:, None].contiguous(memory_format=torch.channels_last))
        found = functional.log_softmax(cells.float(), dim=1).permute(0, 2, 3, 1)
        return (-(targets * found).sum(-1) * weights).sum() / weights.sum()

    return train(new_network, parts_of, config, out / CHECKPOINT, draw, loss)[0]


def seen_again(
    label: Label, size: tuple[int, int], rng: np.random.Generator, number: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Render a view under another homography and light, with what the network should answer.

    The place ``number`` in the batch decides how far images rotate and how light changes. Given are grey
    values (h, w) in [0, 1] of a crop of ``size`` (w, h), the target (h/8, w/8, 65) of every cell, and weights
    (h/8, w/8), 0 for cells near the view's edge, which is no keypoint; beyond it is flat ground without any.
    """
    view, points = label
    motion = random_homography(rng, VIEW_SIZE, "rotated" if number % 2 else "upright")
    off = [-rng.uniform(0, whole - part) for whole, part in zip(VIEW_SIZE, size, strict=True)]
    matrix = shift_homography(*off) @ motion
    crop = np.asarray(cv2.warpPerspective(view, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    lit = change_light(rng, crop, LIGHTS[number // 2 % len(LIGHTS)])
    shown = cv2.warpPerspective(np.ones(view.shape[:2], np.uint8), matrix, size)
    around = np.ones((2 * CELL + 1, 2 * CELL + 1), np.uint8)
    clear = (cv2.erode(shown, around) == 1) | (cv2.dilate(shown, around) == 0)
    columns, rows = size[0] // CELL, size[1] // CELL
    weights = clear.reshape(rows, CELL, columns, CELL).all(axis=(1, 3)).astype(np.float32)
    moved = warp_points(matrix, points)
    target = cell_targets(moved[rng.permutation(len(moved))], size)
    return (lit @ GREY / 255).astype(np.float32), target, weights


def cell_targets(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h/8, w/8, 65): shares of the pixels of each cell row by row, and of "no keypoint".

    A point is shared by the four pixels around it, as far as they are in its cell; the first of several
    points in a cell counts.
    """
    width, height = size
    target = np.zeros((height // CELL, width // CELL, CELL**2 + 1), np.float32)
    inside = (points >= 1).all(1) & (points[:, 0] < width - 2) & (points[:, 1] < height - 2)
    for x, y in points[inside]:
        column, row = int(x + 0.5) // CELL, int(y + 0.5) // CELL
        cell = target[row, column]
        if cell.any():
            continue
        for i in (int(x), int(x) + 1):
            for j in (int(y), int(y) + 1):
                u, v = i - CELL * column, j - CELL * row
                if 0 <= u < CELL and 0 <= v < CELL:
                    cell[v * CELL + u] = (1 - abs(x - i)) * (1 - abs(y - j))
        cell /= cell.sum()
    target[..., -1] = 1 - target[..., :-1].sum(-1)
    return target

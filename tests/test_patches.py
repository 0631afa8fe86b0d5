"""Patches are cut at the true place, scale and orientation, whatever the light."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from geomatch import Image, patches
from geomatch.devices import upload_pixels
from geomatch.patches import cut_patches, normalize_patches


def cut(pixels: np.ndarray, *arrays: np.ndarray | Sequence[object], side: int) -> Tensor:
    tensors = [torch.tensor(np.asarray(array), dtype=torch.float32) for array in arrays]
    return torch.cat(list(cut_patches(upload_pixels(pixels, "cpu"), *tensors, side)))


def test_patches_are_read_by_the_rule(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by plain numpy, in every level, over the border, in images that do not halve, and batch by batch."""
    monkeypatch.setattr(patches, "_CHUNK", 7)
    for width, height in ((61, 37), (5, 90), (1, 1)):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        points = rng.uniform(-9, np.array([width, height]) + 9, (30, 2))
        sides, angles = np.exp(rng.uniform(0, 7, 30)), rng.uniform(-4, 4, 30)
        found = cut(pixels, points, sides, angles, side=6)
        levels = [pixels.astype(float)]
        while min(levels[-1].shape[:2]) > 1:
            h, w = (length // 2 * 2 for length in levels[-1].shape[:2])
            levels.append(levels[-1][:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)))
        for patch, point, side, angle in zip(found, points, sides, angles, strict=True):
            level = min(max(0, int(np.floor(np.log2(side / 6)))), len(levels) - 1)
            image, offsets = levels[level], (np.arange(6) - 2.5) * side / 6
            last = np.array([image.shape[1], image.shape[0]]) - 1
            u, v = np.meshgrid(offsets, offsets)
            x = point[0] + np.cos(angle) * u - np.sin(angle) * v
            y = point[1] + np.sin(angle) * u + np.cos(angle) * v
            place = np.clip((np.stack([x, y], -1) + 0.5) / 2**level - 0.5, 0, last)
            low = np.minimum(place.astype(int), np.maximum(last - 1, 0))
            (i, j), (a, b) = np.moveaxis(low, -1, 0), np.moveaxis(place - low, -1, 0)[..., None]
            right, below = np.minimum(i + 1, last[0]), np.minimum(j + 1, last[1])
            upper = (1 - a) * image[j, i] + a * image[j, right]
            lower = (1 - a) * image[below, i] + a * image[below, right]
            wanted = (1 - b) * upper + b * lower
            np.testing.assert_allclose(patch.permute(1, 2, 0), wanted, atol=0.02)


def test_patches_undo_rotation_and_scale(photo0: Image) -> None:
    """A patch of a turned and enlarged image equals the patch of the original."""
    angle, factor = 0.7, 1.5
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    matrix = np.array([[c, -s, 100.0], [s, c, -40.0]])
    turned = cv2.warpAffine(photo0.pixels, matrix, (900, 900), flags=cv2.INTER_CUBIC)
    points = np.array([[320.0, 200], [400, 150], [250, 260]])
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    a = cut(photo0.pixels, points, np.full(3, 80.0), np.full(3, 0.3), side=32)
    b = cut(np.asarray(turned, np.uint8), moved, np.full(3, 120.0), np.full(3, 0.3 + angle), side=32)
    correlation = (normalize_patches(a) * normalize_patches(b)).mean(dim=(1, 2, 3))
    assert correlation.min() > 0.97


def test_patches_are_exact_on_a_ramp() -> None:
    """Every level of the pyramid reads a linear image at the true place."""
    ys, xs = np.mgrid[0:256, 0:256]
    ramp = np.stack([xs, ys, xs], axis=-1).astype(np.uint8)
    for side in (8.0, 32.0, 70.0, 128.0):
        patch = cut(ramp, [[127.5, 127.5]], [side], [0.0], side=8)
        step = side / 8
        columns = (np.arange(8) - 3.5) * step
        values = np.stack(np.broadcast_arrays(columns[None, :], columns[:, None], columns[None, :]))
        np.testing.assert_allclose(patch[0].numpy() - 127.5, values, atol=0.02 * side)


def test_light_does_not_change_patches(photo0: Image) -> None:
    darker = (photo0.pixels.astype(float) * 0.5 + 20).round().astype(np.uint8)
    a, b = (cut(pixels, [[320.0, 200]], [60.0], [0.2], side=32) for pixels in (photo0.pixels, darker))
    assert (normalize_patches(a) - normalize_patches(b)).abs().max() < 0.1

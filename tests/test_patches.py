"""Patches are cut at the true place, scale and orientation, whatever the light."""

import cv2
import numpy as np

from geomatch import Image
from geomatch.patches import cut_patches, normalize_patches


def test_patches_undo_rotation_and_scale(photo0: Image) -> None:
    """A patch of a turned and enlarged image equals the patch of the original."""
    angle, factor = 0.7, 1.5
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    matrix = np.array([[c, -s, 100.0], [s, c, -40.0]])
    turned = cv2.warpAffine(photo0.pixels, matrix, (900, 900), flags=cv2.INTER_CUBIC)
    points = np.array([[320.0, 200], [400, 150], [250, 260]])
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    a = next(cut_patches(photo0.pixels, points, np.full(3, 80.0), np.full(3, 0.3), 32))
    b = next(cut_patches(np.asarray(turned, np.uint8), moved, np.full(3, 120.0), np.full(3, 0.3 + angle), 32))
    correlation = (normalize_patches(a) * normalize_patches(b)).mean(dim=(1, 2, 3))
    assert correlation.min() > 0.97


def test_patches_are_exact_on_a_ramp() -> None:
    """Every level of the pyramid reads a linear image at the true place."""
    ys, xs = np.mgrid[0:256, 0:256]
    ramp = np.stack([xs, ys, xs], axis=-1).astype(np.uint8)
    for side in (8.0, 32.0, 70.0, 128.0):
        patch = next(cut_patches(ramp, np.array([[127.5, 127.5]]), np.array([side]), np.zeros(1), 8))
        step = side / 8
        columns = (np.arange(8) - 3.5) * step
        values = np.stack(np.broadcast_arrays(columns[None, :], columns[:, None], columns[None, :]))
        np.testing.assert_allclose(patch[0].numpy() - 127.5, values, atol=0.02 * side)


def test_light_does_not_change_patches(photo0: Image) -> None:
    darker = (photo0.pixels.astype(float) * 0.5 + 20).round().astype(np.uint8)
    arguments = (np.array([[320.0, 200]]), np.array([60.0]), np.array([0.2]), 32)
    a, b = next(cut_patches(photo0.pixels, *arguments)), next(cut_patches(darker, *arguments))
    assert (normalize_patches(a) - normalize_patches(b)).abs().max() < 0.1

"""The orientation of a keypoint's neighbourhood by SIFT's rule, for keypoints of any detector."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from geomatch.patches import cut_patches

_BINS = 36
"""Bins of the histogram (Lowe, 2004, section 5)."""
_SIDE = 24
"""Side of the sampled neighbourhood in its own pixels."""
_REACH = 6.0
"""Side of the neighbourhood in units of the keypoint's scale."""


def dominant_orientations(
    pixels: NDArray[np.uint8], keypoints: NDArray[np.floating], scales: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(N,) radians from the x axis towards the y axis: the fullest bin of a histogram of gradients.

    Gradients count by their length and by a Gaussian about the keypoint; the histogram is smoothed, and a
    parabola places its peak (Lowe, 2004, section 5; one orientation per keypoint).

    Args:
        pixels: (H, W, 3) uint8.
        keypoints: (N, 2) in pixels.
        scales: (N,) diameters in pixels.
    """
    offsets = (torch.arange(_SIDE) - (_SIDE - 1) / 2) / (_SIDE / 4)
    fall = torch.exp(-0.5 * offsets**2)
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    upright = np.zeros(len(keypoints))
    for patches in cut_patches(pixels, keypoints, scales * _REACH, upright, _SIDE):
        grey = patches.mean(1)
        across = functional.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))
        down = functional.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
        weight = (torch.hypot(across, down) * fall[:, None] * fall).flatten(1)
        place = (torch.atan2(down, across) / (2 * torch.pi) * _BINS).flatten(1) % _BINS
        low = place.floor()
        share = place - low
        bins = torch.zeros(len(grey), _BINS)
        bins.scatter_add_(1, low.long() % _BINS, weight * (1 - share))
        bins.scatter_add_(1, (low.long() + 1) % _BINS, weight * share)
        for _ in range(2):
            bins = bins.roll(1, 1) / 4 + bins / 2 + bins.roll(-1, 1) / 4
        peak = bins.argmax(1, keepdim=True)
        before, highest, after = (bins.gather(1, (peak + step) % _BINS) for step in (-1, 0, 1))
        bend = (before + after - 2 * highest).clamp(max=-1e-9)
        angle = (peak + (before - after) / (2 * bend)) / _BINS * 2 * torch.pi
        found.append(angle[:, 0].numpy().astype(np.float32))
    return np.concatenate(found)

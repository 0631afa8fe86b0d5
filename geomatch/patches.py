"""Small upright patches, cut in each keypoint's own scale and orientation."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_CHUNK = 256  # patches per batch


def cut_patches(
    pixels: NDArray[np.uint8],
    keypoints: NDArray[np.floating],
    sides: NDArray[np.floating],
    orientations: NDArray[np.floating],
    patch_size: int,
) -> Iterator[Tensor]:
    """Batches of patches (n, 3, patch_size, patch_size) of values 0 to 255 from pixels (H, W, 3).

    Keypoints (N, 2) are the centres and ``sides`` (N,) the sides in those pixels; a patch's x axis points to
    its orientation (N,) in radians. Each is read bilinearly from the level of an image pyramid (means of
    2 x 2) in which its own pixel is between 1 and 2 pixels wide; outside the image the border is repeated.
    """
    steps = np.asarray(sides, np.float64) / patch_size
    levels = np.maximum(0, np.floor(np.log2(np.maximum(steps, 1e-6)))).astype(int)
    pyramid = _pyramid(pixels, int(levels.max(initial=0)))
    levels = np.minimum(levels, len(pyramid) - 1)
    offsets = np.arange(patch_size) - (patch_size - 1) / 2
    square = np.stack(np.meshgrid(offsets, offsets), axis=-1)  # (P, P, 2) as (x, y)
    for start in range(0, len(keypoints), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosine, sine = np.cos(orientations[part]), np.sin(orientations[part])
        turn = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
        places = np.einsum("nij,hwj->nhwi", turn * steps[part, None, None], square)
        places += np.asarray(keypoints[part], np.float64)[:, None, None]
        patches = torch.empty(len(places), 3, patch_size, patch_size, dtype=torch.float32, device="cpu")
        for level in np.unique(levels[part]):
            chosen = np.flatnonzero(levels[part] == level)
            patches[torch.from_numpy(chosen)] = _read(pyramid[level], places[chosen], 2.0**level)
        yield patches


def normalize_patches(patches: Tensor) -> Tensor:
    """Patches (n, 3, P, P) of values 0 to 255 with mean 0 and deviation 1 each; flat ones stay flat."""
    mean = patches.mean(dim=(1, 2, 3), keepdim=True)
    return (patches - mean) / patches.std(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)


def _pyramid(pixels: NDArray[np.uint8], top: int) -> list[Tensor]:
    levels = [torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]]
    while len(levels) <= top and min(levels[-1].shape[2:]) >= 2:
        levels.append(functional.avg_pool2d(levels[-1], 2))
    return levels


def _read(image: Tensor, places: NDArray[np.float64], reduction: float) -> Tensor:
    """(n, P, P, 2) places in pixels of the full image, read from a reduced one (1, 3, h, w)."""
    height, width = image.shape[2:]
    # centre of pixel 0 of the reduced image is at (reduction - 1) / 2; grid_sample wants [-1, 1]
    # from the outer edge of the first pixel to that of the last
    scale = np.array([width, height]) * reduction
    grid = torch.from_numpy(((places + 0.5) / scale * 2 - 1).astype(np.float32))
    n, size = grid.shape[0], grid.shape[1]
    read = functional.grid_sample(
        image, grid.reshape(1, n * size, size, 2), padding_mode="border", align_corners=False
    )
    return read[0].reshape(3, n, size, size).permute(1, 0, 2, 3)

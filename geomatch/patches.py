"""Small upright patches, cut in each keypoint's own scale and orientation."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 256  # patches per batch
_CHUNK_ACCELERATED = 4096


def cut_patches(
    pixels: Tensor, keypoints: Tensor, sides: Tensor, orientations: Tensor, patch_size: int
) -> Iterator[Tensor]:
    """Batches of patches (n, C, patch_size, patch_size) from pixels (1, C, H, W), all float32 on one device.

    Keypoints (N, 2) are the centres and ``sides`` (N,) the sides in those pixels; a patch's x axis points to
    its orientation (N,) in radians. Each is read bilinearly from the level of an image pyramid (means of
    2 x 2) in which its own pixel is between 1 and 2 pixels wide; outside the image the border is repeated.
    """
    mosaic, table = _mosaic(pixels)
    steps = sides / patch_size
    levels = steps.clamp(min=1).log2().floor().long().clamp(max=len(table) - 1)
    lowest, highest, (reduction, _) = table[levels].permute(1, 2, 0)  # (2, N) each, x and y
    # grid_sample wants [-1, 1] from the centre of the first pixel to that of the last
    unit = 2 / (pixels.new_tensor([[mosaic.shape[3]], [mosaic.shape[2]]]) - 1)
    # the centre of pixel 0 of a level reduced r times is at (r - 1) / 2
    centres = ((keypoints.T + 0.5) / reduction - 0.5 + lowest) * unit - 1
    lowest, highest = lowest * unit - 1, highest * unit - 1
    offsets = torch.arange(patch_size, dtype=torch.float32, device=pixels.device) - (patch_size - 1) / 2
    cosine, sine = (turn * steps / reduction for turn in (orientations.cos(), orientations.sin()))
    count = _CHUNK if pixels.device.type == "cpu" else _CHUNK_ACCELERATED
    for start in range(0, keypoints.shape[0], count):
        part = slice(start, start + count)
        down = centres[:, part, None] + (torch.stack([-sine[part], cosine[part]]) * unit)[..., None] * offsets
        along = (torch.stack([cosine[part], sine[part]]) * unit)[..., None] * offsets
        places = down[..., None] + along[:, :, None]  # (2, n, P, P)
        places.clamp_(lowest[:, part, None, None], highest[:, part, None, None])
        grid = places.flatten(1, 2).permute(1, 2, 0)[None]
        read = functional.grid_sample(mosaic, grid, padding_mode="border", align_corners=True)
        yield read[0].reshape(-1, places.shape[1], patch_size, patch_size).transpose(0, 1).contiguous()


def normalize_patches(patches: Tensor) -> Tensor:
    """Patches (n, 3, P, P) of values 0 to 255 with mean 0 and deviation 1 each; flat ones stay flat."""
    rows = patches.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    # on CPUs a tenth of the time that torch's std takes
    deviation = torch.linalg.vector_norm(rows, dim=1, keepdim=True) / max(1, rows.shape[1] - 1) ** 0.5
    return rows.div_(deviation.clamp_(min=1.0)).view_as(patches)


def _mosaic(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The pyramid's levels in one image, and of each (x, y) of its first and last pixel, and its reduction.

    A frame that repeats its border is around each level, so that reading at its edge reaches no other.
    """
    height, width = pixels.shape[2:]
    sizes = [(width >> level, height >> level) for level in range(min(width, height).bit_length())]
    tall, wide = max(height + 2, sum(h + 2 for _, h in sizes[1:])), width + width // 2 + 4
    # not pad and avg_pool2d, which took ten times as long on the CPU
    mosaic = pixels.new_empty(1, tall, wide, pixels.shape[1]).permute(0, 3, 1, 2)
    left, top, rows, image = 0, 0, [], pixels
    for level, (w, h) in enumerate(sizes):
        framed = mosaic[..., top : top + h + 2, left : left + w + 2]
        framed[..., 1:-1, 1:-1] = image
        framed[..., 0, :], framed[..., -1, :] = framed[..., 1, :], framed[..., -2, :]
        framed[..., 0], framed[..., -1] = framed[..., 1], framed[..., -2]
        rows.append([[left + 1, top + 1], [left + w, top + h], [2**level] * 2])
        left, top = width + 2, top + h + 2 if level else 0
        even = framed[..., 1 : 1 + h // 2 * 2, 1 : 1 + w // 2 * 2]
        tall_pairs = even[..., ::2, :] + even[..., 1::2, :]
        image = (tall_pairs[..., ::2] + tall_pairs[..., 1::2]) / 4
    return mosaic, torch.tensor(rows, dtype=torch.float32, device=pixels.device)

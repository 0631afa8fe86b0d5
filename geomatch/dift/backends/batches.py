"""How many images go through a network at once, and what happens when memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

from geomatch.dift.backends.model import DiffusionModel
from geomatch.errors import is_out_of_memory

BATCH_PIXELS = {"cpu": 2**18, "accelerator": 8 * 768**2}
"""Pixels of images per forward pass: on CPUs larger batches are not faster (measured); elsewhere an ensemble
of 8 at the paper's size goes through at once."""


def batch_size(images: Tensor, model: DiffusionModel) -> int:
    """How many images (B, 3, H, W) go through at once."""
    kind = "cpu" if next(model.unet.parameters()).device.type == "cpu" else "accelerator"
    return max(1, BATCH_PIXELS[kind] // (images.shape[2] * images.shape[3]))


def in_batches(count: int, size: int, run: Callable[[slice], None]) -> int:
    """Run over slices of at most ``size``, halved when memory runs out; returns the size that fitted."""
    start = 0
    while start < count:
        try:
            run(slice(start, start + size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryError(
                    "the device's memory does not hold one image: try a smaller image_size, "
                    "dtype='bfloat16', or device='cpu'"
                ) from error
            size = max(1, min(size, count - start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += size
    return size

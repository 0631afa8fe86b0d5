"""What goes into the network: a whole image, or a patch per keypoint."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from geomatch.devices import upload_pixels
from geomatch.dift.config import DIFTConfig, Side
from geomatch.images import Image, reduce_image
from geomatch.patches import cut_patches, normalize_patches
from geomatch.tensors import FeatureTensors

PATCH_CONTRAST = 0.5
"""Standard deviation that patches are given before the network, whose images lie in [-1, 1]."""
UPRIGHT_SIDE = 88.0
"""Side, in pixels of the reduced image, of patches without scale or orientation: of 44, 64 and 88 the one
whose matches made whole models of photographs."""
VIDEO_MULTIPLE = 32
"""The paper's temporal settings cut the long side of a frame to a multiple of it (DINO's protocol)."""


def image_input(picture: Image, config: DIFTConfig, stride: int, device: str | torch.device) -> Tensor:
    """(1, 3, h, w) in [-1, 1]: the image in the size that `DIFTConfig.image_size` rules."""
    size = dense_size(picture.size, config.image_size, stride, config.image_side)
    # Pillow's bicubic, as in the reference: smooth when an axis shrinks, exact in geometry. torch's, on the
    # device, differs by up to 9 of 255 (by 2 if it rounds between the axes, as Pillow does)
    resized = PILImage.fromarray(picture.pixels).resize(size, PILImage.Resampling.BICUBIC)
    return upload_pixels(np.asarray(resized), device) / 127.5 - 1


def network_patches(patches: Tensor) -> Tensor:
    """Patches (n, 3, P, P) of values 0 to 255 as the networks take them, whatever their light."""
    return normalize_patches(patches) * PATCH_CONTRAST


def dense_size(
    size: tuple[int, int], rule: int | tuple[int, int] | None, stride: int, side: Side = "long"
) -> tuple[int, int]:
    """(width, height) at which an image enters the network: the rule, rounded to multiples of ``stride``."""
    if isinstance(rule, tuple):
        width, height = float(rule[0]), float(rule[1])
    elif rule is not None and side == "short":
        short = max(1, round(rule / stride)) * stride
        scaled = [length * short / min(size) for length in size]
        floored = [max(1, int(length / VIDEO_MULTIPLE)) * VIDEO_MULTIPLE for length in scaled]
        return (floored[0], short) if size[0] > size[1] else (short, floored[1])
    else:
        factor = min(1.0, rule / max(size)) if rule else 1.0
        width, height = size[0] * factor, size[1] * factor
    return max(1, round(width / stride)) * stride, max(1, round(height / stride)) * stride


def keypoint_patches(
    picture: Image, features: FeatureTensors, config: DIFTConfig, stride: int
) -> Iterator[Tensor]:
    """Batches (n, 3, P, P), values 0 to 255, of patches in each keypoint's scale and orientation."""
    if isinstance(config.image_size, tuple):
        raise ValueError("sampling='patch' keeps the aspect: image_size must be an int or None")
    if config.patch_size % stride:
        raise ValueError(f"patch_size must be a multiple of {stride}, got {config.patch_size}")
    reduced = reduce_image(picture, config.image_size)
    pixels, moved = upload_pixels(reduced.pixels, features.keypoints.device), features.resized(reduced.size)
    angles = moved.orientations
    if moved.scales is None or angles is None:
        sides, angles = torch.full_like(moved.scores, UPRIGHT_SIDE), torch.zeros_like(moved.scores)
    else:
        sides = moved.scales * config.patch_scale
    return cut_patches(pixels, moved.keypoints, sides, angles, config.patch_size)

"""A projection head over the maps of a whole image, which learns what neighbouring cells say together."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDE = 4
"""Pixels of the network's input per cell of the descriptors."""
COARSEST = 16  # stride up to which context is gathered, at least

norm = partial(nn.BatchNorm2d, dtype=torch.float32)
convolution = partial(nn.Conv2d, bias=False, dtype=torch.float32)  # whatever torch's default


class DenseNetwork(nn.Module):
    """From maps of several layers to one map of unit descriptors with a cell per `STRIDE` pixels.

    A small U-Net (Ronneberger et al., 2015): maps join at the level of their stride, finer ones at the first;
    levels lead down to a stride of 16 pixels, or to that of the coarsest map, and up again. ``maps`` are
    (channels, stride in pixels) of every layer; strides are powers of two, the least at most `STRIDE`.
    """

    def __init__(self, maps: Sequence[tuple[int, int]], width: int, dimension: int) -> None:
        super().__init__()
        self.maps = [(int(channels), int(stride)) for channels, stride in maps]
        self.width, self.dimension = int(width), int(dimension)
        last = max(COARSEST, *(stride for _, stride in self.maps))
        self.strides = [STRIDE << k for k in range((last // STRIDE).bit_length())]
        self.scale = nn.ModuleList(norm(channels, affine=False) for channels, _ in self.maps)
        self.join = nn.ModuleList(_joining(channels, stride, width) for channels, stride in self.maps)
        self.down = nn.ModuleList(_block(width, width) for _ in self.strides)
        self.up = nn.ModuleList(_block(width, width) for _ in self.strides[1:])
        self.last = nn.Sequential(
            convolution(width, dimension, 1), nn.BatchNorm2d(dimension, affine=False, dtype=torch.float32)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w), in the order of the constructor, to (B, dimension, H / 4, W / 4)."""
        joined: dict[int, list[Tensor]] = {stride: [] for stride in self.strides}
        for (_, stride), norm, join, layer in zip(self.maps, self.scale, self.join, maps, strict=True):
            joined[max(stride, STRIDE)].append(join(norm(layer)))
        levels: list[Tensor] = []
        for stride, block in zip(self.strides, self.down, strict=True):
            parts = joined[stride]
            if levels:
                parts = [*parts, functional.avg_pool2d(levels[-1], 2, ceil_mode=True)]
            x = sum(parts[1:], parts[0])
            levels.append(x + block(x))
        x = levels[-1]
        for level, block in zip(reversed(levels[:-1]), reversed(self.up), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = level + x[..., : level.shape[2], : level.shape[3]]
            x = x + block(x)
        return functional.normalize(self.last(x), dim=1)

    def on(self, device: str | torch.device, dtype: torch.dtype) -> Callable[[Sequence[Tensor]], Tensor]:
        """A copy there, always float32 as the maps are, its normalisations folded."""
        network = copy.deepcopy(self)
        for block in (*network.join, *network.down, *network.up, network.last):
            for place in range(0, len(block), 3):  # those before one would shift what is padded
                block[place] = fuse_conv_bn_eval(block[place], block[place + 1])
                block[place + 1] = nn.Identity()
        return network.to(device)


def _joining(channels: int, stride: int, width: int) -> nn.Sequential:
    step = max(1, STRIDE // stride)
    kernel, padding = (1, 0) if step == 1 else (step + 2, 1)
    return nn.Sequential(convolution(channels, width, kernel, stride=step, padding=padding), norm(width))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU(inplace=True),
        convolution(outputs, outputs, 3, padding=1), norm(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip

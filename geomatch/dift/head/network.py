"""The convolutional projection head: a small network from the activations of a patch to its descriptor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

POOLED = 4
"""Cells per side that the last, fully connected step sees."""


class HeadNetwork(nn.Module):
    """From the maps of several layers to unit descriptors, finest map first.

    Each halving of the resolution is a 3x3 convolution, after which the maps of that resolution join and are
    mixed by another; one linear map takes the last 4x4 cells, as in L2-Net (Tian et al., 2017). ``maps`` are
    (channels, side) of every layer of a patch, sides 4 times a power of two; ``widths`` the channels after
    the steps to half, a quarter ... of the finest side.
    """

    def __init__(self, maps: Sequence[tuple[int, int]], widths: Sequence[int], dimension: int) -> None:
        super().__init__()
        self.maps = [(int(channels), int(side)) for channels, side in maps]
        self.widths = [int(width) for width in widths]
        self.dimension = dimension
        sides = sorted({side for _, side in self.maps}, reverse=True)
        finest = sides[0]
        levels = [finest // 2**k for k in range(len(widths) + 1)]
        if levels[-1] != POOLED or any(side not in levels for side in sides):
            raise ValueError(f"{len(widths)} halvings do not lead from maps of sides {sides} to {POOLED}")
        joining = {side: sum(c for c, s in self.maps if s == side) for side in levels}
        self.scale = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels, _ in self.maps)
        self.down, self.mix = nn.ModuleList(), nn.ModuleList()
        width = joining[finest]
        for level, wanted in zip(levels[1:], widths, strict=True):
            self.down.append(_block(width, wanted, stride=2))
            self.mix.append(_block(wanted + joining[level], wanted))
            width = wanted
        self.last = nn.Sequential(
            nn.Dropout(0.1),
            nn.Conv2d(width, dimension, POOLED, bias=False),
            nn.BatchNorm2d(dimension, affine=False),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, side, side), in the order of the constructor, to (N, dimension) of unit length."""
        scaled = [norm(layer) for norm, layer in zip(self.scale, maps, strict=True)]
        side = max(layer.shape[2] for layer in scaled)
        x = torch.cat([layer for layer in scaled if layer.shape[2] == side], dim=1)
        for down, mix in zip(self.down, self.mix, strict=True):
            side //= 2
            x = mix(torch.cat([down(x), *(layer for layer in scaled if layer.shape[2] == side)], dim=1))
        return functional.normalize(self.last(x).flatten(1), dim=1)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )

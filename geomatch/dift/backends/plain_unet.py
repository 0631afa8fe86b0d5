"""The network of `dift-tiny` in plain torch: diffusers' ``UNet2DModel`` of its configuration, by its names.

It loads without diffusers, whose import takes longer than its work, and runs faster on CPUs.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def waves(count: int, timesteps: Tensor) -> Tensor:
    """(B,) to (B, 2 count) float32, as diffusers' ``get_timestep_embedding`` (Ho et al., NeurIPS 2020)."""
    steps = torch.arange(count, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * steps / count)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Resnet(nn.Module):
    """Two convolutions beside a shortcut; the timestep, one for all maps, shifts the first's output."""

    def __init__(self, channels: int, out: int, time: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, out)
        self.norm2 = nn.GroupNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, maps: Tensor, embedding: Tensor) -> Tensor:
        """Maps (N, C, h, w) and an embedding (1, D)."""
        bias = self.conv1.bias + self.time_emb_proj(functional.silu(embedding))[0]
        hidden = functional.silu(self.norm1(maps), inplace=True)
        hidden = functional.conv2d(hidden, self.conv1.weight, bias, padding=1)
        change: Tensor = self.conv2(functional.silu(self.norm2(hidden), inplace=True))
        shortcut: Tensor = maps if self.conv_shortcut is None else self.conv_shortcut(maps)
        return change + shortcut


class Upsample(nn.Module):
    """The nearest pixels, and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) to (N, C, *size)."""
        enlarged: Tensor = self.conv(functional.interpolate(maps, size=size, mode="nearest"))
        return enlarged


class PlainUNet(nn.Module):
    """Parts and parameters under diffusers' names; `geomatch.dift.backends.wanted.WantedPart` runs them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = settings = SimpleNamespace(**config)
        widths, time = list(settings.block_out_channels), 4 * settings.block_out_channels[0]

        def resnets(channels: list[int], out: int) -> nn.ModuleList:
            groups, eps = settings.norm_num_groups, settings.norm_eps
            return nn.ModuleList(Resnet(width, out, time, groups, eps) for width in channels)

        self.conv_in = nn.Conv2d(settings.in_channels, widths[0], 3, padding=1)
        self.time_proj = partial(waves, widths[0] // 2)
        layers = {"linear_1": nn.Linear(widths[0], time), "act": nn.SiLU(), "linear_2": nn.Linear(time, time)}
        self.time_embedding = nn.Sequential(OrderedDict(layers))
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        entering = widths[0]
        for place, width in enumerate(widths):
            block = nn.Module()
            block.resnets = resnets([entering], width)
            halving = nn.Sequential(OrderedDict(conv=nn.Conv2d(width, width, 3, stride=2, padding=1)))
            block.downsamplers = nn.ModuleList([halving] if place + 1 < len(widths) else [])
            self.down_blocks.append(block)
            entering = width
        self.mid_block = nn.Module()
        self.mid_block.resnets = resnets([entering] * 2, entering)
        for place, width in reversed(list(enumerate(widths))):
            block = nn.Module()
            block.resnets = resnets([entering + width, width + widths[max(place - 1, 0)]], width)
            block.upsamplers = nn.ModuleList([Upsample(width)] if place else [])
            self.up_blocks.append(block)
            entering = width
        self.conv_norm_out = nn.GroupNorm(settings.norm_num_groups, entering, settings.norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(entering, settings.out_channels, 3, padding=1)

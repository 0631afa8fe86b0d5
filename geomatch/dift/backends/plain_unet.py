"""UNets of convolutions alone, in plain torch: diffusers' ``UNet2DModel`` without attention, by its names.

They load without diffusers, whose import takes longer than a small model's work, and run faster on CPUs.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_DEFAULTS: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "center_input_sample": False, "time_embedding_dim": None,
    "freq_shift": 0, "flip_sin_to_cos": True, "layers_per_block": 2, "norm_num_groups": 32, "norm_eps": 1e-5,
    "class_embed_type": None, "num_class_embeds": None,
}  # fmt: skip
"""What a configuration may leave out, and what it means then, in diffusers 0.42."""
_ONLY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "time_embedding_type": ("positional", ("positional",)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "add_attention": (True, (False,)),
    "mid_block_scale_factor": (1, (1,)),
    "downsample_padding": (1, (1,)),
    "act_fn": ("silu", ("silu", "swish")),
    "resnet_time_scale_shift": ("default", ("default",)),
    "class_embed_type": (None, (None,)),
    "num_class_embeds": (None, (None,)),
}
"""Default in diffusers, and the values that are possible here."""


def covers(config: Mapping[str, Any]) -> bool:
    """True if `PlainUNet` is the network of a ``UNet2DModel``'s configuration."""
    blocks = {*config.get("down_block_types", ("?",)), *config.get("up_block_types", ("?",))}
    return (
        blocks <= {"DownBlock2D", "UpBlock2D"}
        and isinstance(config.get("norm_num_groups", 32), int)
        and all(config.get(name, default) in allowed for name, (default, allowed) in _ONLY.items())
    )


class Timesteps(nn.Module):
    """Sines and cosines of timesteps (Ho et al., NeurIPS 2020; diffusers' ``get_timestep_embedding``)."""

    def __init__(self, width: int, cosines_first: bool, freq_shift: float) -> None:
        super().__init__()
        self.width, self.cosines_first, self.freq_shift = width, cosines_first, freq_shift

    def forward(self, timesteps: Tensor) -> Tensor:
        """(B,) to (B, width) float32."""
        half = self.width // 2
        steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * steps / (half - self.freq_shift))
        parts = (angles.cos(), angles.sin()) if self.cosines_first else (angles.sin(), angles.cos())
        return functional.pad(torch.cat(parts, dim=1), (0, self.width % 2))


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


def named(**parts: nn.Module) -> nn.Sequential:
    """Layers one after the other, under names of their own."""
    return nn.Sequential(OrderedDict(parts))


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
        self.config = settings = SimpleNamespace(**_DEFAULTS | dict(config))
        widths, layers = list(settings.block_out_channels), settings.layers_per_block
        if not len(widths) == len(settings.down_block_types) == len(settings.up_block_types):
            raise ValueError("block_out_channels, down_block_types and up_block_types differ in length")
        time = settings.time_embedding_dim or 4 * widths[0]
        groups, eps = settings.norm_num_groups, settings.norm_eps

        def resnets(channels: list[int], out: int) -> nn.ModuleList:
            return nn.ModuleList(Resnet(width, out, time, groups, eps) for width in channels)

        self.conv_in = nn.Conv2d(settings.in_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], settings.flip_sin_to_cos, settings.freq_shift)
        self.time_embedding = named(
            linear_1=nn.Linear(widths[0], time), act=nn.SiLU(), linear_2=nn.Linear(time, time)
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        entering = widths[0]
        for place, width in enumerate(widths):
            block = nn.Module()
            block.resnets = resnets([entering] + [width] * (layers - 1), width)
            halving = named(conv=nn.Conv2d(width, width, 3, stride=2, padding=1))
            block.downsamplers = nn.ModuleList([halving] if place + 1 < len(widths) else [])
            self.down_blocks.append(block)
            entering = width
        self.mid_block = nn.Module()
        self.mid_block.resnets = resnets([entering] * 2, entering)
        for place, width in reversed(list(enumerate(widths))):
            block, skips = nn.Module(), [width] * layers + [widths[max(place - 1, 0)]]
            inner = [entering] + [width] * layers
            block.resnets = resnets([a + b for a, b in zip(inner, skips, strict=True)], width)
            block.upsamplers = nn.ModuleList([Upsample(width)] if place else [])
            self.up_blocks.append(block)
            entering = width
        self.conv_norm_out = nn.GroupNorm(groups, entering, eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(entering, settings.out_channels, 3, padding=1)

"""The part of a UNet that the wanted layers need, as a network of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from geomatch.errors import WeightsError

_PARTS = {"resnets", "attentions", "downsamplers", "upsamplers"}


@dataclass(frozen=True, slots=True)
class Step:
    """A module that gives a map, in the order in which they run."""

    names: tuple[str, ...]
    """Its dotted name; if it ends a block, that of the block, too, whose output its own is."""
    role: str
    """What it is called with: ``plain``, ``resnet``, ``attention``, ``cross`` or ``upsampler``."""
    keeps: bool = False
    """Its output waits for the way up."""
    joins: bool = False
    """Its input is joined with what was kept last."""


def steps_of(unet: nn.Module) -> list[Step]:
    """All steps of a ``UNet2DModel``, a ``UNet2DConditionModel`` or a `PlainUNet`.

    Raises:
        WeightsError: for blocks of other kinds.
    """
    steps = [Step(("conv_in",), "plain", keeps=True)]
    for name, block in _blocks(unet):
        if not {part for part, _ in block.named_children()} <= _PARTS:
            raise WeightsError(f"{name}: blocks of the kind {type(block).__name__} are not supported")
        steps += _block_steps(name, block)
    tail = ("conv_norm_out", "conv_act", "conv_out")
    return steps + [Step((name,), "plain") for name in tail if getattr(unet, name, None) is not None]


def _blocks(unet: Any) -> list[tuple[str, nn.Module]]:
    middle = [("mid_block", unet.mid_block)] if unet.mid_block is not None else []
    downs = [(f"down_blocks.{place}", block) for place, block in enumerate(unet.down_blocks)]
    return [*downs, *middle, *((f"up_blocks.{place}", block) for place, block in enumerate(unet.up_blocks))]


def _block_steps(name: str, block: Any) -> list[Step]:
    down, up = name.startswith("down"), name.startswith("up")
    attention = "cross" if getattr(block, "has_cross_attention", False) else "attention"
    attentions = list(getattr(block, "attentions", None) or ())
    steps: list[Step] = []
    for place, (resnet, follower) in enumerate(zip_longest(block.resnets, attentions)):
        if resnet is not None:
            ends = down and follower is None
            steps.append(Step((f"{name}.resnets.{place}",), "resnet", keeps=ends, joins=up))
        if follower is not None:
            steps.append(Step((f"{name}.attentions.{place}",), attention, keeps=down))
    for kind, role in (("downsamplers", "plain"), ("upsamplers", "upsampler")):
        for place, sampler in enumerate(getattr(block, kind, None) or ()):
            called = "resnet" if hasattr(sampler, "time_emb_proj") else role
            steps.append(Step((f"{name}.{kind}.{place}",), called, keeps=down))
    return [*steps[:-1], replace(steps[-1], names=(*steps[-1].names, name))]


def _split(unet: nn.Module, layers: Sequence[str]) -> tuple[list[Step], list[Step]]:
    """The steps up to the last wanted layer, and those after it."""
    steps = steps_of(unet)
    known = {name: place for place, step in enumerate(steps) for name in step.names}
    for layer in layers:
        if layer not in known:
            near = ", ".join(get_close_matches(layer, known, cutoff=0))
            raise ValueError(
                f"unknown layer {layer!r}: take a block, or a resnet, attention or sampler, such as {near}"
            )
    count = max(known[layer] for layer in layers) + 1
    return steps[:count], steps[count:]


def unneeded_parts(unet: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the modules that run only after all the wanted layers."""
    return [step.names[0] for step in _split(unet, layers)[1]]


class WantedPart(nn.Module):
    """The steps up to the last wanted layer; it can be compiled, and run by several threads at once."""

    def __init__(self, unet: Any, layers: Sequence[str]) -> None:
        """The layers by name; the modules stay those of the UNet, of which later ones may be gone."""
        super().__init__()
        self.steps = _without_unused(_split(unet, layers)[0])
        self.layers = tuple(layers)
        self.parts = nn.ModuleList(unet.get_submodule(step.names[0]) for step in self.steps)
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.time_act = getattr(unet, "time_embed_act", None)
        self.centred = bool(unet.config.center_input_sample)

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor | None = None) -> tuple[Tensor, ...]:
        """The layers' outputs (B, C, h, w) for latents (B, C, h, w), a timestep (1,), a text (1, tokens, D).

        As the ``forward`` of diffusers' UNets, with one row of the time's embedding for all maps.
        """
        embedding = self.time_embedding(self.time_proj(timestep).to(latents.dtype))
        if self.time_act is not None:
            embedding = self.time_act(embedding)
        if text is not None:
            text = text.expand(len(latents), -1, -1)
        hidden = 2 * latents - 1 if self.centred else latents
        kept: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for step, part in zip(self.steps, self.parts, strict=True):
            if step.joins:
                hidden = torch.cat([hidden, kept.pop()], dim=1)
            if step.role == "resnet":
                hidden = part(hidden, embedding)
            elif step.role == "cross":
                hidden = part(hidden, encoder_hidden_states=text, return_dict=False)[0]
            elif step.role == "upsampler":
                hidden = part(hidden, kept[-1].shape[2:])  # halved sides may have been rounded up
            else:
                hidden = part(hidden)
            if step.keeps:
                kept.append(hidden)
            for name in step.names:
                if name in self.layers:
                    found[name] = hidden
        return tuple(found[name] for name in self.layers)


def _without_unused(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, keeping only what is joined or whose size is asked for later."""
    waiting: list[int] = []
    needed: set[int] = set()
    for place, step in enumerate(steps):
        if step.joins:
            needed.add(waiting.pop())
        if step.role == "upsampler":
            needed.add(waiting[-1])
        if step.keeps:
            waiting.append(place)
    return tuple(replace(step, keeps=place in needed) for place, step in enumerate(steps))


def layer_names(layers: Sequence[str | int], up_layers: Sequence[str]) -> tuple[str, ...]:
    """Names of layers that may be given by the paper's index."""
    for layer in layers:
        if isinstance(layer, int) and layer >= len(up_layers):
            raise ValueError(f"layer {layer}: up_ft indices of this model are 0 to {len(up_layers) - 1}")
    return tuple(layer if isinstance(layer, str) else up_layers[layer] for layer in layers)

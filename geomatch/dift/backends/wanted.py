"""The part of a UNet that the wanted layers need, as a network of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from geomatch.dift.backends.layers import block_of, catch, token_map
from geomatch.errors import WeightsError

_SIDES = ("down_blocks", "up_blocks")
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


def steps_of(unet: Any) -> list[Step]:
    """All steps of a UNet of diffusers, or of a `PlainUNet`; WeightsError for blocks of other kinds."""
    steps = [Step(("conv_in",), "plain", keeps=True)]
    middle = [("mid_block", unet.mid_block)] if unet.mid_block is not None else []
    downs, ups = ([(f"{side}.{n}", one) for n, one in enumerate(getattr(unet, side))] for side in _SIDES)
    for name, block in (*downs, *middle, *ups):
        if not {part for part, _ in block.named_children()} <= _PARTS:
            raise WeightsError(f"{name}: blocks of the kind {type(block).__name__} are not supported")
        steps += _block_steps(name, block)
    tail = ("conv_norm_out", "conv_act", "conv_out")
    return steps + [Step((name,), "plain") for name in tail if getattr(unet, name, None) is not None]


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


def known_layers(unet: nn.Module) -> dict[str, int]:
    """All layers by name, steps and blocks of transformers in them, and the place of the step of each."""
    known: dict[str, int] = {}
    for place, step in enumerate(steps_of(unet)):
        known |= dict.fromkeys(step.names, place)
        inside = unet.get_submodule(step.names[0])
        for block, _ in enumerate(getattr(inside, "transformer_blocks", ())):
            known[f"{step.names[0]}.transformer_blocks.{block}"] = place
    return known


def _wanted_count(unet: nn.Module, layers: Sequence[str]) -> int:
    known = known_layers(unet)
    return max(known[block_of(layer)[0]] for layer in layers) + 1


def unneeded_parts(unet: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the modules that run only after all the wanted layers."""
    return [step.names[0] for step in steps_of(unet)[_wanted_count(unet, layers) :]]


class WantedPart(nn.Module):
    """The steps up to the last wanted layer; it can be compiled, and run by several threads at once."""

    patch = 1
    """Its cells are those of the latents."""

    def __init__(self, unet: Any, layers: Sequence[str], stride: int = 1) -> None:
        """The layers by name; later modules of the UNet may be gone. ``stride`` is that of the latents."""
        super().__init__()
        self.steps = _without_unused(steps_of(unet)[: _wanted_count(unet, layers)])
        self.layers, self.stride = tuple(layers), stride
        self.parts = nn.ModuleList(unet.get_submodule(step.names[0]) for step in self.steps)
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.time_act = getattr(unet, "time_embed_act", None)
        self.size_proj: Any = getattr(unet, "add_time_proj", None)
        self.size_embedding: Any = getattr(unet, "add_embedding", None)
        self.centred = bool(unet.config.center_input_sample)
        outside = {name for step in self.steps for name in step.names}
        homes = known_layers(unet)
        self.inside = {layer: homes[block_of(layer)[0]] for layer in layers if layer not in outside}
        self.caught: dict[str, Tensor] = {}
        self.one = Lock()  # pass at a time, where layers inside of steps have one place
        for layer in self.inside:
            catch(unet, layer, self.caught)

    def forward(
        self, latents: Tensor, timestep: Tensor, text: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The layers' outputs (B, C, h, w) for latents (B, C, h, w), a timestep (1,), a row of conditioning.

        As the ``forward`` of diffusers' UNets, with one row of the time's embedding for all maps.
        """
        if not self.inside:
            return self._run(latents, timestep, text or {})
        with self.one:
            return self._run(latents, timestep, text or {})

    def _run(self, latents: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        embedding = self.time_embedding(self.time_proj(timestep).to(latents.dtype))
        if self.size_embedding is not None:
            embedding = embedding + self._added(latents, text["pooled"])
        if self.time_act is not None:
            embedding = self.time_act(embedding)
        prompt = text["prompt_embeds"].expand(len(latents), -1, -1) if text else None
        hidden = 2 * latents - 1 if self.centred else latents
        kept: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for place, (step, part) in enumerate(zip(self.steps, self.parts, strict=True)):
            if step.joins:
                hidden = torch.cat([hidden, kept.pop()], dim=1)
            if step.role == "resnet":
                hidden = part(hidden, embedding)
            elif step.role == "cross":
                hidden = part(hidden, encoder_hidden_states=prompt, return_dict=False)[0]
            elif step.role == "upsampler":
                hidden = part(hidden, kept[-1].shape[2:])  # halved sides may have been rounded up
            else:
                hidden = part(hidden)
            if step.keeps:
                kept.append(hidden)
            found |= {name: hidden for name in step.names if name in self.layers}
            for layer in [name for name, home in self.inside.items() if home == place]:
                found[layer] = token_map(self.caught.pop(layer), (hidden.shape[2], hidden.shape[3]))
        return tuple(found[name] for name in self.layers)

    def _added(self, latents: Tensor, pooled: Tensor) -> Tensor:
        """What SDXL adds to the time's embedding: of the pooled text, and of the image's size.

        The numbers are height, width, the cut at top and left, and the size that is asked for; in the refiner
        an aesthetic score, 6, in place of that (diffusers' ``_get_add_time_ids``).
        """
        project, embed = self.size_proj, self.size_embedding
        size = [float(side * self.stride) for side in latents.shape[2:]]
        count = (embed.linear_1.in_features - pooled.shape[1]) // project.num_channels
        numbers = [*size, 0.0, 0.0, *(size if count == 6 else [6.0])]
        ids = torch.tensor(numbers, dtype=torch.float32, device=latents.device)
        added = torch.cat([pooled, project(ids).flatten()[None].to(pooled.dtype)], dim=1)
        embedded: Tensor = embed(added.to(latents.dtype))
        return embedded


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

"""Diffusion transformers, read at any of their blocks."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any

from torch import Tensor, nn

from geomatch.dift.backends.layers import block_of, catch, token_map
from geomatch.weights.families import Family, Told


class TransformerPart(nn.Module):
    """A transformer of diffusers that runs as far as the wanted layers need."""

    def __init__(self, network: Any, family: Family, layers: Sequence[str], stride: int) -> None:
        """The layers by name; later blocks may be gone. ``stride`` is that of the latents."""
        super().__init__()
        self.network, self.family, self.layers, self.stride = network, family, tuple(layers), stride
        self.patch = patch_of(family, network.config)
        self.most = _most_cells(network.config)
        self.caught: dict[str, Tensor] = {}
        self.one = Lock()  # pass at a time, since what it catches has one place
        for layer in self.layers:
            catch(network, layer, self.caught)
        network.set_submodule(unneeded_blocks(network, family, layers)[0], _Stop())

    def forward(self, latents: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The layers' outputs (B, C, h, w) of latents (B, C, H, W), a timestep (1,), a row of text."""
        count, _, height, width = latents.shape
        rows = {name: value.expand(count, *value.shape[1:]) for name, value in text.items()}
        size = (width * self.stride, height * self.stride)
        cells = (height // self.patch, width // self.patch)
        if max(cells) > self.most:
            pixels = self.most * self.patch * self.stride
            raise ValueError(f"the model's positions end at {pixels:.0f} pixels: give a smaller image_size")
        assert self.family.inputs is not None
        time = timestep.float().expand(count)
        given = self.family.inputs(Told(self.network.config, latents, time, rows, size))
        with self.one:
            with suppress(_ReachedError):
                self.network(**given, return_dict=False)
            found = [self.caught[layer] for layer in self.layers]  # one may be wanted twice
            self.caught.clear()
        return tuple(token_map(tokens, cells, self.family.image_first) for tokens in found)


def patch_of(family: Family, config: Any) -> int:
    """Cells of the latents along the side of a token."""
    return 2 if family.packed else int(config.get("patch_size") or config.all_patch_size[0])


def _most_cells(config: Any) -> float:
    """The largest number of tokens along a side of the image for which there are positions."""
    if config.get("axes_lens"):  # of text, rows and columns
        return float(min(config.axes_lens[1:]))
    most = config.get("pos_embed_max_size") or math.inf
    # AuraFlow counts those of the whole square table
    return math.isqrt(int(most)) if "num_mmdit_layers" in config else most


def block_names(network: nn.Module, family: Family) -> tuple[str, ...]:
    """The blocks in the order in which they run: the numbers of layers are theirs."""
    lists = ((name, network.get_submodule(name)) for name in family.blocks)
    return tuple(f"{name}.{place}" for name, blocks in lists for place, _ in blocks.named_children())


def place_blocks(network: nn.Module, family: Family, device: str) -> None:
    """Put the network on a device, but its blocks only while they run: of their weights copies go there.

    So does group offloading of diffusers, but with accelerate, which makes its import a third slower.
    """
    blocks = [network.get_submodule(name) for name in block_names(network, family)]
    homes = [{part: part.data for part in (*block.parameters(), *block.buffers())} for block in blocks]
    inside = {part for home in homes for part in home}
    for part in (*network.parameters(), *network.buffers()):
        if part not in inside:
            part.data = part.data.to(device)

    def enter(home: dict[Tensor, Tensor], *_: object) -> None:
        for part, data in home.items():
            part.data = data.to(device, copy=True)

    def leave(home: dict[Tensor, Tensor], *_: object) -> None:
        for part, data in home.items():
            part.data = data

    for block, home in zip(blocks, homes, strict=True):
        block.register_forward_pre_hook(partial(enter, home))
        block.register_forward_hook(partial(leave, home))


def unneeded_blocks(network: nn.Module, family: Family, layers: Sequence[str]) -> list[str]:
    """Names of the modules that run only after all the wanted layers, in order."""
    names = block_names(network, family)
    last = max(names.index(block_of(layer)[0]) for layer in layers)
    return [*names[last + 1 :], *family.tail]


class _ReachedError(Exception):
    """All that is wanted has been caught."""


class _Stop(nn.Module):
    """Ends the pass, in place of the first module that no wanted layer needs."""

    def forward(self, *arguments: object, **named: object) -> None:
        raise _ReachedError

"""Layers by name: a block, what its first attention is given, its queries; and the maps that they give."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

MODULATED, QUERY = "modulated", "query"
ATTENTIONS = ("attn1", "attn", "attention")
"""Names of a block's first attention in diffusers."""


def block_of(layer: str) -> tuple[str, str]:
    """The block of a layer NAME, NAME.modulated or NAME.query, and which it is: '' for the block itself."""
    name, _, kind = layer.rpartition(".")
    return (name, kind) if kind in (MODULATED, QUERY) else (layer, "")


def layer_names(
    layers: Sequence[str | int], numbered: Sequence[str], known: Collection[str]
) -> tuple[str, ...]:
    """Names of layers given by name, number (28, ``28.modulated``) or ``default``; ValueError for others."""
    names = []
    for layer in layers:
        if layer == "default":
            layer = "up_blocks.1" if "up_blocks.1" in known else f"{(len(numbered) - 1) // 2}.modulated"
        block, kind = block_of(str(layer))
        if block.isascii() and block.isdigit():
            if int(block) >= len(numbered):
                raise ValueError(f"layer {layer}: the numbers of this model are 0 to {len(numbered) - 1}")
            block = numbered[int(block)]
        elif block not in known:
            near = ", ".join(get_close_matches(block, known, cutoff=0))
            raise ValueError(f"unknown layer {layer!r}: `geomatch models layers` lists them; near are {near}")
        names.append(f"{block}.{kind}" if kind else block)
    return tuple(names)


def catch(network: nn.Module, layer: str, caught: dict[str, Tensor]) -> None:
    """Have every pass leave what the layer gives in ``caught``, under the layer's name.

    NAME is the block's output (of several the last, which is the image's), NAME.modulated the input of its
    first attention, after the norm that timestep and text modulate; NAME.query are the queries of its
    cross-attention or, where text and image are joined, of that attention. Raises ValueError without one.
    """
    name, kind = block_of(layer)
    block = network.get_submodule(name)

    def output(module: nn.Module, given: Any, found: Any) -> None:
        caught[layer] = found[-1] if isinstance(found, tuple) else found

    def entering(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught[layer] = given[0] if given else named["hidden_states"]

    if not kind:
        block.register_forward_hook(output)
        return
    parts = dict(block.named_children())
    attention = next((parts[part] for part in ATTENTIONS if part in parts), None)
    if kind == QUERY:
        # beside joined attention (`attn`, Stable Diffusion 3.5) the second is the image's own
        cross = parts.get("attn2", attention) if "attn1" in parts else attention
        attention = getattr(cross, "to_q", None)
    if attention is None:
        raise ValueError(f"layer {layer!r}: {name} is a {type(block).__name__}, which has no such attention")
    if kind == QUERY:
        attention.register_forward_hook(output)
    else:
        attention.register_forward_pre_hook(entering, with_kwargs=True)


def token_map(tokens: Tensor, cells: tuple[int, int], image_first: bool = False) -> Tensor:
    """(B, C, h, w) of the image's tokens, row by row, at the end or beginning of a sequence (B, n, C)."""
    count = cells[0] * cells[1]
    image = tokens[:, :count] if image_first else tokens[:, -count:]
    return image.transpose(1, 2).reshape(len(tokens), -1, *cells)

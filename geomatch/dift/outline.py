"""What a model is: its layers, and what its folder can be used for, without reading weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomatch.dift.backends.layers import ATTENTIONS
from geomatch.dift.backends.schedule import load_schedule
from geomatch.dift.backends.wanted import WantedPart, known_layers
from geomatch.errors import GeomatchError
from geomatch.isolation import isolated
from geomatch.weights.checkpoint import fill_network
from geomatch.weights.families import FAMILIES, Family, find_family
from geomatch.weights.folders import family_of, missing_files, network_folder, read_config
from geomatch.weights.prompt import cached_conditioning, missing_parts, pipeline_of

_CELLS = 64
"""Side of the image in which a UNet is tried, in cells of what it is given: it can be halved six times."""


@isolated()
def list_layers(folder: Path) -> list[tuple[int | None, str, int, int]]:
    """The layers of the model in a diffusers folder, in which only the configurations need to be.

    Of each the number, which is a name, too, the name, channels, and pixels of the network's image per cell.
    """
    family = family_of(folder)
    network, _, stride = _networks(family, folder)
    text: dict[str, Tensor] = {}
    if family is None:
        from geomatch.dift.backends.pixel_unet import output_blocks

        numbered: Sequence[str] = output_blocks(network)
    else:
        from geomatch.dift.backends.latent import named_layers
        from geomatch.dift.backends.transformer import patch_of

        config, (numbered, _) = network.config, named_layers(network, family)
        if family.blocks:
            side = stride * patch_of(family, config)
            return [(n, name, _width(network, name), side) for n, name in enumerate(numbered)]
        text["prompt_embeds"] = torch.empty(1, 1, config.cross_attention_dim, device="meta")
        if config.addition_embed_type:
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            text["pooled"] = torch.empty(1, width, device="meta")
    names = list(known_layers(network))
    latents = torch.empty(1, network.config.in_channels, _CELLS, _CELLS, device="meta")
    time = torch.zeros(1, dtype=torch.int64, device="meta")
    maps = WantedPart(network.to("meta"), names)(latents, time, text)
    numbers = {name: number for number, name in enumerate(numbered)}
    return [
        (numbers.get(name), name, found.shape[1], stride * _CELLS // found.shape[2])
        for name, found in zip(names, maps, strict=True)
    ]


def _networks(family: Family | None, folder: Path) -> tuple[Any, Any, int]:
    """The network and the autoencoder, if any, without weights, and the stride of the network's cells."""
    home = network_folder(folder)
    if family is None:
        from geomatch.dift.backends.pixel_unet import empty_unet

        unet, side = empty_unet(home)
        return unet, None, side
    from geomatch.dift.backends.autoencoder import empty_autoencoder, latent_shape
    from geomatch.dift.backends.latent import empty_denoiser

    vae, kind = empty_autoencoder(folder / "vae")
    channels, stride = latent_shape(vae, kind)
    return empty_denoiser(family, home, channels), vae, stride


def _width(network: nn.Module, name: str) -> int:
    """Channels of a transformer's block: its first attention takes as many."""
    parts = dict(network.get_submodule(name).named_children())
    attention = next(parts[part] for part in ATTENTIONS if part in parts)
    return next(part.in_features for part in attention.modules() if isinstance(part, nn.Linear))


@isolated()
def describe_folder(folder: Path) -> tuple[list[tuple[str, str]], bool]:
    """What a folder is, lacks and is usable for, in words, and if it is; WeightsError for unknown ones."""
    home, lacking = network_folder(folder), missing_files(folder)
    if not (home / "config.json").is_file():
        return [("missing", lacking[0])], False
    config = read_config(home)
    family = find_family(config, home / "config.json")
    name = next((name for name, one in FAMILIES.items() if one is family), "UNet in pixel space")
    found = [("model", f"{name} ({config['_class_name']})")]
    found += [("missing", words) for words in lacking]
    usable = not lacking
    try:
        if usable:
            network, vae, _ = _networks(family, folder)
            fill_network(network, home, None)
            if vae is not None:
                fill_network(vae, folder / "vae", None)
            if family is None or not family.flow:
                load_schedule(folder)
    except GeomatchError as error:
        found.append(("wrong", str(error)))
        usable = False
    prompts = "any prompt"
    if family is None or not family.pipelines:
        prompts = "it takes no text"
    elif gone := missing_parts(folder, pipeline_of(family, folder)[1]):
        cached = cached_conditioning(family, folder, "") is not None
        allowed = "the empty prompt alone" if cached else "a conditioning of your own alone, no prompt"
        prompts = f"{allowed}, without {', '.join(gone)}"
    found.append(("usable for", f"descriptors; {prompts}" if usable else "nothing yet"))
    return found, usable

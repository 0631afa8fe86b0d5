"""Models that work on the latents of an autoencoder, conditioned on text or on classes."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geomatch.dift.backends.autoencoder import empty_autoencoder, latent_shape, load_autoencoder
from geomatch.dift.backends.compiled import Runner
from geomatch.dift.backends.layers import layer_names
from geomatch.dift.backends.model import DiffusionModel, text_on
from geomatch.dift.backends.schedule import flow_schedule, load_schedule
from geomatch.dift.backends.transformer import TransformerPart, block_names, place_blocks, unneeded_blocks
from geomatch.dift.backends.wanted import WantedPart, known_layers, unneeded_parts
from geomatch.dift.config import DIFTConfig
from geomatch.dift.files import Conditioning, conditioning_of
from geomatch.errors import ShapeError, WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network
from geomatch.weights.families import Family
from geomatch.weights.folders import network_folder

_log = logging.getLogger(__name__)


def load_latent_model(
    family: Family,
    conditioning: Conditioning | None,
    folder: Path,
    unet_file: Path | None,
    config: DIFTConfig,
    device: str,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> DiffusionModel:
    """Load network, autoencoder and noise schedule, but no part that the wanted layers do not need.

    ``conditioning`` replaces the prompt's, the weights in ``unet_file`` the network's. The ``dtypes`` are
    those of the network and of the autoencoder.
    """
    home, dtype = network_folder(folder), dtypes[0]
    vae = empty_autoencoder(folder / "vae")
    channels, stride = latent_shape(*vae)
    network = empty_denoiser(family, home, channels)
    vae_dtype = torch.float32 if family.exact_encoder and dtypes[1] is torch.float16 else dtypes[1]
    encode, encoder = load_autoencoder(*vae, folder / "vae", vae_dtype, device, config.compile)
    text = conditioning_of(config, folder) if conditioning is None else conditioning
    check_conditioning(family, network.config, text)
    layers = layer_names(config.layers, *named_layers(network, family))
    unneeded = unneeded_blocks(network, family, layers) if family.blocks else unneeded_parts(network, layers)
    fill_network(network, home, dtype, unneeded, unet_file)
    if family.blocks and not fits(network, device):
        _log.info("the device's memory does not hold the network: its blocks go there one by one")
        place_blocks(network, family, device)
    else:
        layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
        network.to(device, memory_format=layout)
    part: WantedPart | TransformerPart
    if family.blocks:
        part = TransformerPart(network, family, layers, stride)
    else:
        part = WantedPart(network, layers, stride)
    return DiffusionModel(
        network=network,
        part=Runner(part, "off" if family.blocks else config.compile),
        encode=encode,
        schedule=flow_schedule() if family.flow else load_schedule(folder),
        stride=stride * part.patch,
        device=torch.device(device),
        encoder=encoder,
        text=text_on(text, device, dtype),
        discarded=config.discard,
    )


def empty_denoiser(family: Family, home: Path, channels: int) -> Any:
    """The network in ``home`` without weights; an error unless it takes latents of so many channels."""
    import diffusers

    network = empty_network(getattr(diffusers, family.network).from_config, home)
    channels *= 4 if family.packed else 1
    if network.config.in_channels != channels:
        raise WeightsError(
            f"{home}: takes {network.config.in_channels} channels, the autoencoder gives {channels}; "
            "inpainting and depth models are not supported"
        )
    return network


def fits(network: nn.Module, device: str) -> bool:
    """True if the device's free memory holds the weights and as much again as a quarter of them."""
    if not device.startswith("cuda"):
        return True
    size = sum(weights.nbytes for weights in network.parameters())
    return 1.25 * size <= torch.cuda.mem_get_info(device)[0]


def named_layers(network: Any, family: Family) -> tuple[Sequence[str], Collection[str]]:
    """The layers that have numbers, in their order, and all that have names."""
    if family.blocks:
        blocks = block_names(network, family)
        return blocks, blocks
    return [f"up_blocks.{index}" for index in range(len(network.up_blocks))], known_layers(network)


def check_conditioning(family: Family, config: Any, given: Conditioning) -> None:
    """Raise ShapeError unless the tensors are those that the network is conditioned on."""
    if not isinstance(given, Mapping):
        raise ShapeError("conditioning: expected arrays by name, such as {'prompt_embeds': (tokens, D)}")
    expected = {"prompt_embeds": 2, "pooled": 1, "mask": 1}
    for name in [name for name in family.encoded if name and name not in family.spare]:
        if name not in given or given[name].ndim != expected[name]:
            shape = given[name].shape if name in given else f"only {', '.join(given) or 'nothing'}"
            raise ShapeError(f"conditioning: expected {name!r} of {expected[name]} dimensions, got {shape}")
    if family.text_width and given["prompt_embeds"].shape[1] != config[family.text_width]:
        raise ShapeError(
            f"conditioning: expected 'prompt_embeds' of shape (tokens, {config[family.text_width]}), "
            f"got {given['prompt_embeds'].shape}"
        )

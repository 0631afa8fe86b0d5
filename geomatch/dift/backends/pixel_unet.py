"""Unconditional diffusion models in pixel space: every diffusers ``UNet2DModel``, ADM included."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geomatch.dift.backends.compiled import Runner
from geomatch.dift.backends.layers import layer_names
from geomatch.dift.backends.model import DiffusionModel, Latents
from geomatch.dift.backends.plain_unet import PlainUNet
from geomatch.dift.backends.schedule import load_schedule
from geomatch.dift.backends.wanted import WantedPart, known_layers, unneeded_parts
from geomatch.dift.config import DIFTConfig
from geomatch.errors import WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network
from geomatch.weights.folders import network_folder, read_config
from geomatch.weights.sources import EMBEDDED, model_folder


def load_pixel_unet(
    folder: Path,
    unet_file: Path | None,
    config: DIFTConfig,
    device: str,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> DiffusionModel:
    """Load a bare UNet or a pipeline of it and a scheduler; 3 n^2 channels are n x n blocks of pixels."""
    if config.latent == "sample":
        raise ValueError(f"{config.model} has no autoencoder: use latent='mode'")
    home, dtype = network_folder(folder), dtypes[0]
    unet, unshuffle = empty_unet(home)
    layers = layer_names(config.layers, output_blocks(unet), known_layers(unet))
    fill_network(unet, home, dtype, unneeded_parts(unet, layers), unet_file)
    unet = unet.to(device)
    # on CPUs, torch's normalisation of it is slow in bfloat16 (measured)
    if dtype == torch.float32 or device.startswith("cuda"):
        unet = unet.to(memory_format=torch.channels_last)

    def encode(images: Tensor) -> Latents:
        return functional.pixel_unshuffle(images.to(device), unshuffle), None

    return DiffusionModel(
        network=unet,
        part=Runner(WantedPart(unet, layers), config.compile),
        encode=encode,
        schedule=load_schedule(folder),
        stride=unshuffle * 2 ** (len(unet.config.block_out_channels) - 1),
        device=torch.device(device),
        discarded=config.discard,
    )


def empty_unet(home: Path) -> tuple[Any, int]:
    """The UNet of a folder without weights, and the side of the blocks of pixels that are its cells."""
    make: Callable[[Any], Any] = PlainUNet
    if read_config(home) != read_config(model_folder(EMBEDDED[0])):
        from diffusers.models.unets.unet_2d import UNet2DModel

        make = UNet2DModel.from_config
    unet = empty_network(make, home)
    channels = unet.config.in_channels
    unshuffle = math.isqrt(channels // 3)
    if channels < 3 or 3 * unshuffle**2 != channels:
        raise WeightsError(f"{home}: {channels} input channels; RGB images need 3, or 3 n^2 for n x n blocks")
    if unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None:
        raise WeightsError(f"{home}: a class-conditional UNet, which needs labels; unconditional only")
    return unet, unshuffle


def output_blocks(unet: nn.Module) -> tuple[str, ...]:
    """Module names of guided-diffusion's ``output_blocks``, by which DIFT counts ADM's layers.

    Each of diffusers' up-blocks stands for one output block per resnet: after the attention if there is one;
    the last of a level includes the upsampling and so is the up-block itself.
    """
    names = []
    for level, block in enumerate(unet.get_submodule("up_blocks").children()):
        part = "attentions" if any(True for _ in getattr(block, "attentions", None) or ()) else "resnets"
        inner = len(block.get_submodule("resnets")) - 1  # type: ignore[arg-type]  # a ModuleList
        names += [f"up_blocks.{level}.{part}.{index}" for index in range(inner)]
        names.append(f"up_blocks.{level}")
    return tuple(names)

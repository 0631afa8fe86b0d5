"""Stable Diffusion 1 and 2: an autoencoder, and a UNet conditioned on text."""

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from geomatch.dift.backends.model import DiffusionModel, Latents, unneeded_parts
from geomatch.dift.backends.schedule import load_alphas
from geomatch.dift.config import DIFTConfig
from geomatch.errors import ShapeError, WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network


def load_stable_diffusion(
    folder: Path, unet_file: Path | None, embedding: NDArray[np.float32], config: DIFTConfig, device: str
) -> DiffusionModel:
    """Load ``unet``, ``vae`` and ``scheduler`` of a pipeline, but not the decoder nor later up-blocks.

    ``embedding`` (tokens, D) is the prompt's; the weights in ``unet_file`` replace the UNet's.
    """
    dtype = getattr(torch, config.dtype)
    unet = empty_network(UNet2DConditionModel, folder / "unet")
    vae = empty_network(AutoencoderKL, folder / "vae")
    settings = unet.config
    if settings.addition_embed_type or settings.class_embed_type or settings.encoder_hid_dim_type:
        raise WeightsError(
            f"{folder / 'unet'}: the UNet wants more than text (SDXL, unCLIP?); Stable Diffusion 1 and 2 only"
        )
    if settings.in_channels != vae.config.latent_channels:
        raise WeightsError(
            f"{folder / 'unet'}: takes {settings.in_channels} channels, the autoencoder gives "
            f"{vae.config.latent_channels}; inpainting and depth models are not supported"
        )
    if embedding.ndim != 2 or embedding.shape[1] != settings.cross_attention_dim:
        raise ShapeError(
            f"prompt embedding: expected shape (tokens, {settings.cross_attention_dim}), "
            f"got {embedding.shape}"
        )
    up_layers = tuple(f"up_blocks.{index}" for index in range(len(unet.up_blocks)))
    alphas = load_alphas(folder)
    fill_network(unet, folder / "unet", dtype, unneeded_parts(unet, config.layers, up_layers), unet_file)
    decoder = [name for name in ("decoder", "post_quant_conv") if getattr(vae, name) is not None]
    fill_network(vae, folder / "vae", dtype, decoder)
    unet, vae = unet.to(device), vae.to(device)

    def encode(images: Tensor) -> Latents:
        distribution = vae.encode(images.to(device, dtype)).latent_dist
        factor = vae.config.scaling_factor
        return Latents(distribution.mean.float() * factor, distribution.std.float() * factor)

    return DiffusionModel(
        unet=unet,
        encode=encode,
        alphas_cumprod=alphas,
        stride=2 ** (len(vae.config.block_out_channels) - 1),
        up_layers=up_layers,
        prompt_embedding=torch.tensor(embedding)[None].to(device, dtype),
    )

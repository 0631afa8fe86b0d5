"""Stable Diffusion 1 and 2: an autoencoder, and a UNet conditioned on text."""

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from geomatch.dift.backends.compiled import Runner
from geomatch.dift.backends.model import DiffusionModel, Latents
from geomatch.dift.backends.schedule import load_alphas
from geomatch.dift.backends.wanted import WantedPart, layer_names, unneeded_parts
from geomatch.dift.config import DIFTConfig
from geomatch.dift.files import prompt_of
from geomatch.errors import ShapeError, WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network


def load_stable_diffusion(
    folder: Path,
    unet_file: Path | None,
    embedding: NDArray[np.float32] | None,
    config: DIFTConfig,
    device: str,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> DiffusionModel:
    """Load ``unet``, ``vae`` and ``scheduler`` of a pipeline, but not the decoder nor later up-blocks.

    ``embedding`` (tokens, D) replaces the prompt's, the weights in ``unet_file`` the UNet's. The ``dtypes``
    are those of the UNet and of the autoencoder.
    """
    if embedding is None:
        embedding = prompt_of(config, folder)
    dtype, vae_dtype = dtypes
    unet = empty_network(UNet2DConditionModel.from_config, folder / "unet")
    vae = empty_network(AutoencoderKL.from_config, folder / "vae")
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
    layers = layer_names(config.layers, up_layers)
    fill_network(unet, folder / "unet", dtype, unneeded_parts(unet, layers), unet_file)
    decoder = [name for name in ("decoder", "post_quant_conv") if getattr(vae, name) is not None]
    fill_network(vae, folder / "vae", vae_dtype, decoder)
    # tensor cores take half precision in this layout; on CPUs it is no faster
    layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
    unet, vae = unet.to(device, memory_format=layout), vae.to(device, memory_format=layout)
    encoder = Runner(_Encoder(vae), config.compile)

    def encode(images: Tensor) -> Latents:
        mean, std = encoder(images.to(device, vae_dtype))
        return mean.float() * vae.config.scaling_factor, std.float() * vae.config.scaling_factor

    return DiffusionModel(
        unet=unet,
        part=Runner(WantedPart(unet, layers), config.compile),
        encode=encode,
        alphas_cumprod=alphas,
        stride=2 ** (len(vae.config.block_out_channels) - 1),
        encoder=encoder,
        prompt_embedding=torch.tensor(embedding)[None].to(device, dtype),
    )


class _Encoder(nn.Module):
    """Images to mean and deviation of their latents, as ``AutoencoderKL.encode``."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.encoder(images)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logarithm = moments.chunk(2, dim=1)
        return mean, torch.exp(0.5 * logarithm.clamp(-30, 20))  # bounds of DiagonalGaussianDistribution

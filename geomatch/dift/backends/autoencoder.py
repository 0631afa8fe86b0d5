"""Autoencoders: images to the latents that a diffusion model works on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from geomatch.dift.backends.compiled import Runner
from geomatch.dift.backends.model import Latents
from geomatch.dift.config import Compile
from geomatch.errors import WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network
from geomatch.weights.folders import read_config


@dataclass(frozen=True, eq=False, slots=True)
class Autoencoder:
    """The encoder half of an autoencoder."""

    encode: Callable[[Tensor], Latents]
    runner: Runner
    channels: int
    """Channels of the latents."""
    stride: int
    """Pixels along a cell of the latents."""


def load_autoencoder(
    folder: Path, dtype: torch.dtype, device: str, compile: Compile, file: Path | None = None
) -> Autoencoder:
    """Load the encoder in ``folder``, of the weights in ``file`` if that is given.

    Raises:
        WeightsError: for other kinds than ``AutoencoderKL``.
    """
    kind = read_config(folder).get("_class_name")
    if kind != "AutoencoderKL":
        raise WeightsError(f"{folder / 'config.json'}: is a {kind}; supported is AutoencoderKL")
    vae = empty_network(AutoencoderKL.from_config, folder)
    decoder = [name for name in ("decoder", "post_quant_conv") if getattr(vae, name) is not None]
    fill_network(vae, folder, dtype, decoder, file)
    # tensor cores take half precision in this layout; on CPUs it is no faster
    layout = torch.channels_last if device.startswith("cuda") else torch.contiguous_format
    runner = Runner(_Encoder(vae.to(device, memory_format=layout)), compile)
    shift, scale = (part.to(device) for part in _normalisation(vae.config))

    def encode(images: Tensor) -> Latents:
        mean, std = runner(images.to(device, dtype))
        return (mean.float() - shift) * scale, std.float() * scale

    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    return Autoencoder(encode, runner, vae.config.latent_channels, stride)


def _normalisation(config: Any) -> tuple[Tensor, Tensor]:
    """What is subtracted from latents, and what they are multiplied by then: (C, 1, 1) or single numbers.

    As in diffusers' image-to-image pipelines: means and deviations of the channels, else one shift for all.
    """

    def column(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(-1, 1, 1)

    if config.latents_mean is not None and config.latents_std is not None:
        return column(config.latents_mean), config.scaling_factor / column(config.latents_std)
    return column([config.shift_factor or 0.0]), column([config.scaling_factor])


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

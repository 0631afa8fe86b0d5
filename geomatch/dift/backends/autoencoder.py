"""Autoencoders: images to the latents that a diffusion model works on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.nn import functional

from geomatch.dift.backends.compiled import Runner
from geomatch.dift.backends.model import Latents
from geomatch.dift.config import Compile
from geomatch.errors import WeightsError
from geomatch.weights.checkpoint import empty_network, fill_network
from geomatch.weights.folders import read_config

KINDS = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLQwenImage", "AutoencoderDC")
_JOINED = {"AutoencoderKLFlux2": 2}  # cells along the side of a block that is put into channels


def load_autoencoder(
    vae: Any, kind: str, folder: Path, dtype: torch.dtype, device: str, compile: Compile
) -> tuple[Callable[[Tensor], Latents], Runner]:
    """The encoder of an `empty_autoencoder`, with the weights in its folder, and the network in it."""
    unused = ("decoder", "post_quant_conv")
    fill_network(vae, folder, dtype, [name for name in unused if getattr(vae, name, None) is not None])
    # tensor cores take half precision in this layout; on CPUs it is no faster
    cuda = device.startswith("cuda") and kind != "AutoencoderKLQwenImage"  # which is one of videos
    layout = torch.channels_last if cuda else torch.contiguous_format
    runner = Runner(_Encoder(vae.to(device, memory_format=layout), kind), compile)
    shift, scale = (part.to(device) for part in _normalisation(vae))

    def encode(images: Tensor) -> Latents:
        mean, *deviation = (part.float() for part in runner(images.to(device, dtype)))
        return (mean - shift) * scale, deviation[0] * scale if deviation else None

    return encode, runner


def empty_autoencoder(folder: Path) -> tuple[Any, str]:
    """The autoencoder in ``folder`` without weights, and its kind; WeightsError for none of `KINDS`."""
    kind = read_config(folder).get("_class_name")
    if kind not in KINDS:
        raise WeightsError(f"{folder / 'config.json'}: is a {kind}; supported are {', '.join(KINDS)}")
    return empty_network(getattr(diffusers, kind).from_config, folder), kind


def latent_shape(vae: Any, kind: str) -> tuple[int, int]:
    """Channels and stride of the latents that networks get."""
    channels = vae.config.z_dim if kind == "AutoencoderKLQwenImage" else vae.config.latent_channels
    stride = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
    side = _JOINED.get(kind, 1)
    return channels * side**2, stride * side


def _normalisation(vae: Any) -> tuple[Tensor, Tensor]:
    """What is subtracted from latents, and what they are multiplied by then, (C, 1, 1) each.

    As in diffusers' image-to-image pipelines: means and deviations of the channels, else one shift for all.
    """

    def column(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(-1, 1, 1)

    config = vae.config
    if hasattr(vae, "bn"):
        variance = vae.bn.running_var.float() + config.batch_norm_eps
        return vae.bn.running_mean.float()[:, None, None], variance.rsqrt()[:, None, None]
    scaling = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return column(config.latents_mean), scaling / column(config.latents_std)
    return column([config.get("shift_factor") or 0.0]), column([scaling])


class _Encoder(nn.Module):
    """Images to the latents' mean and, but for ``AutoencoderDC``, deviation, as diffusers' ``encode``."""

    def __init__(self, vae: Any, kind: str) -> None:
        super().__init__()
        self.kind, self.side = kind, _JOINED.get(kind, 1)
        if kind == "AutoencoderKLQwenImage":
            self.vae = vae
        else:
            self.encoder, self.quant_conv = vae.encoder, getattr(vae, "quant_conv", None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.kind == "AutoencoderKLQwenImage":  # of videos, with a state between frames
            found = self.vae.encode(images[:, :, None], return_dict=False)[0]
            return found.mean[:, :, 0], found.std[:, :, 0]
        moments = self.encoder(images)
        if self.kind == "AutoencoderDC":
            return (moments,)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logarithm = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * logarithm.clamp(-30, 20))  # bounds of DiagonalGaussianDistribution
        return functional.pixel_unshuffle(mean, self.side), functional.pixel_unshuffle(deviation, self.side)

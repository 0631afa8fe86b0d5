"""Full-size diffusion models with random weights, and their parts in plain diffusers, to measure beside."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils import logging
from torch import Tensor, nn

from geomatch.dift import PRESETS, DIFTConfig

logging.set_verbosity_error()  # such as that all weights may be halved


@dataclass(frozen=True, slots=True)
class Network:
    """A model as its configuration files describe it, as far as it differs from diffusers' defaults."""

    unet: dict[str, Any]
    settings: DIFTConfig
    """The paper's for geometric matching, with the mode of the autoencoder, so that features compare."""
    blocks: int
    """Up-blocks that the layer needs."""
    vae: dict[str, Any] | None = None


SD = Network(
    {
        "sample_size": 96,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    replace(PRESETS["dift-sd"], latent="mode"),
    blocks=3,
    vae={
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    },
)
"""Stable Diffusion 2-1."""
ADM = Network(
    {
        "sample_size": 256,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": [256, 256, 512, 512, 1024, 1024],
        "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
        "layers_per_block": 2,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 64,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift",
    },
    PRESETS["dift-adm"],
    blocks=4,
)
"""guided-diffusion's unconditional model of 256x256, as `geomatch.weights.adm` converts it."""


def _narrow(full: Network, width: int) -> Network:
    """As deep, with ``width`` channels everywhere: to try a study out."""
    unet = full.unet | {"block_out_channels": [width] * (6 if full.vae is None else 4)}
    if full.vae is None:
        return replace(full, unet=unet | {"attention_head_dim": width})
    unet |= {"attention_head_dim": 1, "cross_attention_dim": width}
    return replace(full, unet=unet, vae=full.vae | {"block_out_channels": [width] * 4})


NETWORKS = {"sd": SD, "adm": ADM, "sd-narrow": _narrow(SD, 32), "adm-narrow": _narrow(ADM, 32)}


def make_model(network: Network, folder: Path, device: str = "cpu") -> None:
    """Write it with random weights in half precision, as ``save_pretrained`` does."""
    torch.manual_seed(0)
    with torch.device(device):
        if network.vae is None:
            _scrambled(UNet2DModel.from_config(network.unet)).save_pretrained(folder)
        else:
            _scrambled(UNet2DConditionModel.from_config(network.unet)).save_pretrained(folder / "unet")
            _scrambled(AutoencoderKL.from_config(network.vae)).save_pretrained(folder / "vae")
    if network.vae is None:
        DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").save_pretrained(folder)
    else:
        schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        DDIMScheduler.from_config(schedule).save_pretrained(folder / "scheduler")


def _scrambled(module: Any) -> Any:
    """With other weights of normalisation than a new network's, which would be warned of."""
    for part in module.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.normal_(part.weight, 1.0, 0.1)
    return module.to(torch.bfloat16)


def prompt_of(network: Network) -> dict[str, np.ndarray[Any, Any]] | None:
    """The encoding of a prompt, for a model that takes one."""
    if network.vae is None:
        return None
    shape = (77, network.unet["cross_attention_dim"])
    return {"prompt_embeds": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def load_parts(
    network: Network, folder: Path, device: str, dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What `make_model` wrote, in plain diffusers: encoder, and UNet up to the wanted up-block.

    The encoder makes latents of images (B, 3, H, W) in [-1, 1], the UNet a layer (B, C, h, w) of noisy ones.
    """

    def load(kind: Any, part: str) -> Any:
        module = kind.from_pretrained(folder / part, torch_dtype=dtype, low_cpu_mem_usage=False)
        return module.to(device).eval()

    unet = load(UNet2DConditionModel if network.vae else UNet2DModel, "unet" if network.vae else "")
    unet.up_blocks = unet.up_blocks[: network.blocks]
    unet.conv_norm_out = unet.conv_act = unet.conv_out = nn.Identity()
    vae = load(AutoencoderKL, "vae") if network.vae else None
    text = prompt_of(network)
    prompt = None if text is None else torch.tensor(text["prompt_embeds"], dtype=dtype, device=device)

    def encode(images: Tensor) -> Tensor:
        if vae is None:
            return images
        return vae.encode(images).latent_dist.mode() * vae.config.scaling_factor  # type: ignore[no-any-return]

    def features(noisy: Tensor) -> Tensor:
        time = torch.full((len(noisy),), network.settings.timestep, device=noisy.device)
        rows = () if prompt is None else (prompt.expand(len(noisy), -1, -1),)
        found: Tensor = unet(noisy, time, *rows).sample
        return found

    return encode, features

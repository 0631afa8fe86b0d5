"""Unconditional diffusion models in pixel space: every diffusers ``UNet2DModel``."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional

from geomatch.dift.capture import capture
from geomatch.dift.config import DType
from geomatch.errors import WeightsError


@dataclass(frozen=True, slots=True)
class PixelUNet:
    """A UNet on pixels, or on n x n blocks of pixels turned into 3 n^2 channels."""

    unet: UNet2DModel
    alphas_cumprod: Tensor
    """(T,) alpha_bar_t of the noise schedule, on the CPU."""
    unshuffle: int
    """n."""
    stride: int
    lock: Lock = field(default_factory=Lock)
    """Held during a pass: hooks on a shared network would hear other threads."""

    def encode(self, images: Tensor) -> Tensor:
        """See `geomatch.dift.model.DiffusionModel`."""
        return functional.pixel_unshuffle(images, self.unshuffle)

    @torch.inference_mode()
    def activations(
        self, latents: Tensor, noise: Tensor | None, timestep: int, layers: Sequence[str]
    ) -> list[Tensor]:
        """See `geomatch.dift.model.DiffusionModel`."""
        if timestep >= len(self.alphas_cumprod):
            raise ValueError(f"timestep must be below {len(self.alphas_cumprod)}, got {timestep}")
        signal = float(self.alphas_cumprod[timestep])
        noisy = math.sqrt(signal) * latents
        if noise is not None:
            noisy = noisy + math.sqrt(1 - signal) * noise
        parameter = next(self.unet.parameters())
        noisy = noisy.to(parameter.device, parameter.dtype)
        times = torch.full((len(noisy),), timestep, device=parameter.device)
        with self.lock:
            outputs = capture(self.unet, layers, lambda: self.unet(noisy, times))
        return [output.float() for output in outputs]


def load_pixel_unet(folder: Path, unet_folder: Path, dtype: DType, device: str) -> PixelUNet:
    """From a diffusers folder: a bare UNet, or a pipeline with ``unet`` and ``scheduler`` in it.

    Without a scheduler's configuration the noise schedule is the linear one of
    DDPM (1e-4 to 0.02 in 1000 steps).

    Raises:
        WeightsError: when the files are missing, damaged or of another network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unet = UNet2DModel.from_pretrained(
                unet_folder, local_files_only=True, low_cpu_mem_usage=False, torch_dtype=getattr(torch, dtype)
            )
    except Exception as error:  # safetensors, torch and diffusers raise many types
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{unet_folder}: cannot load the UNet2DModel there ({reason})") from error
    channels = unet.config.in_channels
    unshuffle = math.isqrt(channels // 3)
    if channels < 3 or 3 * unshuffle**2 != channels:
        raise WeightsError(
            f"{unet_folder}: {channels} input channels; RGB images need 3, or 3 n^2 for n x n blocks"
        )
    schedules = [folder / "scheduler", folder]
    found = [place for place in schedules if (place / "scheduler_config.json").is_file()]
    try:
        scheduler = (
            DDPMScheduler.from_pretrained(found[0], local_files_only=True) if found else DDPMScheduler()
        )
    except Exception as error:
        raise WeightsError(f"{found[0]}: damaged scheduler_config.json") from error
    unet = unet.eval().requires_grad_(False).to(device)
    if dtype == "float32":  # a fifth faster on CPUs; in bfloat16 it is slower (measured)
        unet = unet.to(memory_format=torch.channels_last)
    return PixelUNet(
        unet=unet,
        alphas_cumprod=scheduler.alphas_cumprod,
        unshuffle=unshuffle,
        stride=unshuffle * 2 ** (len(unet.config.block_out_channels) - 1),
    )

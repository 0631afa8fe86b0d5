"""Training of a small pixel-space diffusion UNet, resumable at any checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geomatch.benchmarks.training.crops import CropSource
from geomatch.training.checkpoint import Log, train


@dataclass(frozen=True, slots=True)
class DenoiseConfig:
    """Everything that decides the weights, besides the images."""

    widths: tuple[int, ...] = (48, 64, 96)
    """Channels per resolution level."""
    unshuffle: int = 2
    """Pixels of an n x n block become channels before the first convolution."""
    crop_size: int = 64
    """Side of the training crops in pixels."""
    batch_size: int = 16
    steps: int = 8000
    learning_rate: float = 6e-4
    """Peak of the cosine schedule, after 100 steps of warm-up."""
    timestep_power: float = 2.0
    """t = 1000 u^power with u uniform: above 1 favours the low noise that matching uses."""
    ema_decay: float = 0.999
    seed: int = 0


def new_unet(config: DenoiseConfig) -> Any:
    """An untrained UNet of diffusers: one ResNet per block, no attention."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    channels, levels = 3 * config.unshuffle**2, len(config.widths)
    return UNet2DModel(
        sample_size=config.crop_size // config.unshuffle,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=config.widths,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=16,
        add_attention=False,
    )


def train_denoiser(
    config: DenoiseConfig,
    crops: CropSource,
    out: Path,
    device: str = "cpu",
) -> list[Log]:
    """Train, or resume from ``out/checkpoint.pt``, and save the averaged weights; steps and losses.

    Noise, timesteps and crops of step k depend on (seed, k) alone, so that a resumed run gives the same. Then
    ``out`` is a diffusers folder (config, safetensors, scheduler).
    """
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.training_utils import EMAModel

    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    averages = []

    def parts_of(unet: Any) -> dict[str, Any]:
        average = EMAModel(unet.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        averages.append(average)
        optimiser = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate, weight_decay=1e-2)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(unet.parameters(), 1.0)

        optimiser.register_step_pre_hook(clip)
        optimiser.register_step_post_hook(lambda *_: average.step(unet.parameters()))
        schedule = get_cosine_schedule_with_warmup(optimiser, 100, config.steps)
        return {"optimiser": optimiser, "schedule": schedule, "average": average}

    def draw(rng: np.random.Generator) -> tuple[Tensor, ...]:
        pixels = torch.from_numpy(crops.batch(rng, config.batch_size, config.crop_size))
        clean = functional.pixel_unshuffle(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, config.unshuffle)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        times = 1000 * rng.random(config.batch_size) ** config.timestep_power
        return clean, noise, torch.from_numpy(times.astype(np.int64))

    def loss(unet: Any, drawn: tuple[Tensor, ...]) -> Tensor:
        clean, noise, timesteps = (part.to(device) for part in drawn)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            predicted = unet(noisy, timesteps).sample
        return functional.mse_loss(predicted.float(), noise)

    unet, losses = train(
        lambda: new_unet(config).to(device), parts_of, config, out / "checkpoint.pt", draw, loss
    )
    averages[0].copy_to(unet.parameters())
    unet.save_pretrained(out)
    scheduler.save_pretrained(out)
    return losses

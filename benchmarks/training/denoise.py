"""Training of a small pixel-space diffusion UNet on random crops, resumable at any checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from geomatch.benchmarks.training.sources import TrainingImage
from geomatch.training.checkpoint import Log, train

PHOTO_SHARE = 0.55
"""Share of crops from photographs; the rest comes from textures."""
MAX_SIDE = 2048
"""Larger images are reduced to this many pixels before cropping."""


@dataclass(frozen=True, slots=True)
class CropSource:
    """Images in memory as pyramids, level k reduced by 2^k."""

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    textures: Sequence[Sequence[NDArray[np.uint8]]]

    def batch(self, rng: np.random.Generator, count: int, side: int) -> NDArray[np.uint8]:
        """``count`` crops of shape (side, side, 3), RGB."""

        def edges(crop: NDArray[np.uint8]) -> float:
            return float(np.abs(np.diff(crop.astype(np.float32), axis=1)).mean())

        # the strongest edges of three: empty sky teaches little
        return np.stack([max((self._crop(rng, side) for _ in range(3)), key=edges) for _ in range(count)])

    def _crop(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        group = self.photos if rng.random() < PHOTO_SHARE or not self.textures else self.textures
        pyramid = group[int(rng.integers(len(group)))]
        height, width = pyramid[0].shape[:2]
        largest = min(height, width) / (side * 1.45)  # the rotated crop stays inside
        scale = float(np.exp(rng.uniform(0.0, np.log(max(1.0, largest)))))
        level = min(int(np.log2(scale)), len(pyramid) - 1)
        image = pyramid[level]
        step = scale / 2**level
        angle = rng.uniform(0, 2 * np.pi)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        cosine, sine = step * np.cos(angle), step * np.sin(angle)
        linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
        reach = 0.5 * side * step * 1.42
        centre = np.array(
            [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in (image.shape[1], image.shape[0])]
        )
        offset = centre - linear @ np.full(2, (side - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = np.hstack([linear, offset[:, None]])
        crop = cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        if rng.random() < 0.5:  # exposure and contrast
            gain, shift = np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(-30, 30)
            mean = crop.mean()
            crop = np.clip((crop - mean) * gain + mean + shift, 0, 255)
        return crop.astype(np.uint8)


def load_crops(images: Sequence[tuple[TrainingImage, Path]]) -> CropSource:
    """Decode the images once and keep their pyramids in memory (about 1 GB for the recipe)."""
    groups: dict[str, list[list[NDArray[np.uint8]]]] = {"photo": [], "texture": []}
    for image, path in tqdm(images, desc="reading images", unit="image"):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"OpenCV cannot read the training image {path}")
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        factor = MAX_SIDE / max(rgb.shape[:2])
        if factor < 1:
            rgb = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        pyramid = [np.asarray(rgb, dtype=np.uint8)]
        while min(pyramid[-1].shape[:2]) >= 128:
            pyramid.append(np.asarray(cv2.pyrDown(pyramid[-1]), dtype=np.uint8))
        groups[image.kind].append(pyramid)
    return CropSource(photos=groups["photo"], textures=groups["texture"])


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

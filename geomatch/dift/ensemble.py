"""Activations of images: noise is added, the UNet runs in batches that fit the memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from geomatch.dift.backends.model import DiffusionModel, Latents
from geomatch.dift.config import DIFTConfig
from geomatch.errors import is_out_of_memory
from geomatch.types import check_shape

BATCH_PIXELS = {"cpu": 2**18, "accelerator": 8 * 768**2}
"""Pixels of images per forward pass: on CPUs larger batches are not faster (measured); elsewhere an ensemble
of 8 at the paper's size goes through at once."""


def member_activations(
    model: DiffusionModel, config: DIFTConfig, images: Tensor, noises: Sequence[Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """The layers' outputs for each member of the ensemble in turn.

    Images are (B, 3, H, W) in [-1, 1], their sides multiples of the model's stride; each is encoded once. All
    share the noises, so that none depends on the others: ``noises``, one (1, C, h, w) per member of the shape
    of the encoded image, or those drawn from the seed.
    """
    if noises is not None and not config.noise:
        raise ValueError("noises were given to a configuration without noise")
    if noises is not None and len(noises) != config.ensemble_size:
        raise ValueError(f"{config.ensemble_size} noises are needed, got {len(noises)}")
    kind = "cpu" if next(model.unet.parameters()).device.type == "cpu" else "accelerator"
    fitting = max(1, BATCH_PIXELS[kind] // (images.shape[2] * images.shape[3]))
    encoded: list[Latents] = []
    size = _in_batches(
        len(images), config.batch_size or fitting, lambda part: encoded.append(model.encode(images[part]))
    )
    mean = torch.cat([latents.mean for latents in encoded])
    std = None if encoded[0].std is None else torch.cat([x.std for x in encoded if x.std is not None])
    if not config.noise:
        yield _pass(model, config, mean, size, len(images))[0]
        return
    for noise in noises or ():
        check_shape("noise", noise.numpy(force=True), (1, *mean.shape[1:]))
    # one batch holds as many whole members as it may
    together = max(1, size // len(images))
    for start in range(0, config.ensemble_size, together):
        noisy = []
        for member in range(start, min(start + together, config.ensemble_size)):
            generator = torch.Generator("cpu").manual_seed(config.seed + member)
            drawn = torch.randn((1, *mean.shape[1:]), generator=generator, dtype=torch.float32)
            noise = drawn if noises is None else noises[member]
            latents = mean
            if config.latent == "sample" and std is not None:
                latents = mean + std * torch.empty_like(drawn).normal_(generator=generator).to(std)
            noisy.append(model.add_noise(latents, noise.to(latents), config.timestep))
        yield from _pass(model, config, torch.cat(noisy), size, len(images))


def _pass(
    model: DiffusionModel, config: DIFTConfig, latents: Tensor, size: int, images: int
) -> list[list[Tensor]]:
    """Through the UNet in batches of ``size``; the maps of each group of ``images`` rows."""
    parts: list[list[Tensor]] = []
    _in_batches(
        len(latents),
        size,
        lambda part: parts.append(model.activations(latents[part], config.timestep, config.layers)),
    )
    joined = [torch.cat(layer) if len(layer) > 1 else layer[0] for layer in zip(*parts, strict=True)]
    return [list(group) for group in zip(*(layer.split(images) for layer in joined), strict=True)]


def _in_batches(count: int, size: int, run: Callable[[slice], None]) -> int:
    """Run over slices of at most ``size``, halved when memory runs out; returns the size that fitted."""
    start = 0
    while start < count:
        try:
            run(slice(start, start + size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryError(
                    "the device's memory does not hold one image: try a smaller image_size, "
                    "dtype='bfloat16', or device='cpu'"
                ) from error
            size = max(1, min(size, count - start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += size
    return size

"""Activations of images: noise is added, the UNet runs in batches, an ensemble is averaged."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geomatch.dift.backends.batches import batch_size, in_batches
from geomatch.dift.backends.model import DiffusionModel, Latents
from geomatch.dift.config import DIFTConfig
from geomatch.types import check_shape


@torch.inference_mode()
def mean_activations(
    model: DiffusionModel, config: DIFTConfig, images: Tensor, noises: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Mean of the layers' outputs over the ensemble, each (B, C, h, w) float32; see `member_activations`."""
    total: list[Tensor] = []
    for maps in member_activations(model, config, images, noises):
        # not in place: a block and its last part may be one tensor
        total = [summed + new for summed, new in zip(total, maps, strict=True)] if total else maps
    return [layer / config.ensemble_size for layer in total]


def member_activations(
    model: DiffusionModel, config: DIFTConfig, images: Tensor, noises: Sequence[Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """The layers' outputs for each member of the ensemble in turn.

    Every image is encoded once. All images share the noises, so that none depends on the others.

    Args:
        model: the networks.
        config: layers, timestep, noise and ensemble.
        images: (B, 3, H, W) in [-1, 1], sides multiples of the model's stride.
        noises: one (1, C, h, w) tensor per member, of the shape of the encoded image, instead of those drawn
            from the seed.
    """
    if noises is not None and not config.noise:
        raise ValueError("noises were given to a configuration without noise")
    if noises is not None and len(noises) != config.ensemble_size:
        raise ValueError(f"{config.ensemble_size} noises are needed, got {len(noises)}")
    size = config.batch_size or batch_size(images, model)
    encoded: list[Latents] = []
    size = in_batches(len(images), size, lambda part: encoded.append(model.encode(images[part])))
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
            generator = torch.Generator().manual_seed(config.seed + member)
            drawn = torch.randn((1, *mean.shape[1:]), generator=generator)
            noise = drawn if noises is None else noises[member]
            latents = mean
            if config.latent == "sample" and std is not None:
                latents = mean + std * torch.randn(drawn.shape, generator=generator).to(std)
            noisy.append(model.add_noise(latents, noise.to(latents), config.timestep))
        yield from _pass(model, config, torch.cat(noisy), size, len(images))


def _pass(
    model: DiffusionModel, config: DIFTConfig, latents: Tensor, size: int, images: int
) -> list[list[Tensor]]:
    """Through the UNet in batches of ``size``; the maps of each group of ``images`` rows."""
    parts: list[list[Tensor]] = []
    in_batches(
        len(latents),
        size,
        lambda part: parts.append(model.activations(latents[part], config.timestep, config.layers)),
    )
    joined = [torch.cat(layer) if len(layer) > 1 else layer[0] for layer in zip(*parts, strict=True)]
    return [list(group) for group in zip(*(layer.split(images) for layer in joined), strict=True)]

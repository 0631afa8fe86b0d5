"""Activations of images: noise is added, the UNet runs in batches that fit the memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.config import DIFTConfig
from geomatch.errors import is_out_of_memory

BATCH_PIXELS = {"cpu": 2**18, "accelerator": 8 * 768**2}
"""Pixels of images per forward pass: on CPUs larger batches are not faster (measured); elsewhere an ensemble
of 8 at the paper's size goes through at once."""
NOISES = 16
"""Members of ensembles whose noise is kept for the next image: twice the paper's most."""
_Output = TypeVar("_Output")


def mean_activations(model: DiffusionModel, config: DIFTConfig, images: Tensor) -> list[Tensor]:
    """Means of the layers' outputs (B, C, h, w), float32, over the members of the ensemble.

    Images are (B, 3, H, W) in [-1, 1], their sides multiples of the model's stride; each is encoded once. All
    share the noises, so that none depends on the others.
    """
    if config.ensemble_size == 1:
        return [layer[0].float() for layer in next(_passes(model, config, images))]
    sums: list[Tensor] = []
    for together in _passes(model, config, images):
        found = [layer.sum(0, dtype=torch.float32) for layer in together]
        sums = [old.add_(new) for old, new in zip(sums, found, strict=True)] if sums else found
    return [layer.div_(config.ensemble_size) for layer in sums]


def images_at_once(config: DIFTConfig, images: Tensor) -> int:
    """How many images of the size of these, (B, 3, H, W), a pass takes on their device."""
    kind = "cpu" if images.device.type == "cpu" else "accelerator"
    return config.batch_size or max(1, BATCH_PIXELS[kind] // (images.shape[2] * images.shape[3]))


def _passes(model: DiffusionModel, config: DIFTConfig, images: Tensor) -> Iterator[list[Tensor]]:
    """The layers' outputs (members, B, C, h, w), in the network's type, of some members at a time."""
    if config.timestep >= (count := len(model.schedule[0])):
        raise ValueError(f"timestep must be below {count}, got {config.timestep}")
    encoded, size = _in_batches(images, images_at_once(config, images), model.encode)
    mean = _joined([mean for mean, _ in encoded])
    sampled = [std for _, std in encoded if std is not None and config.latent == "sample"]
    std = _joined(sampled) if sampled else None
    shape = (1, *mean.shape[1:])

    def noisy(members: range) -> Tensor:
        """(members, B, C, h, w)"""
        if not config.noise:
            return mean[None]
        count = 1 if std is None else 2
        drawn = [drawn_noises(config.seed + member, shape, count, mean.device) for member in members]
        latents = mean if std is None else mean + std * torch.stack([noise[1] for noise in drawn])
        return model.add_noise(latents, torch.stack([noise[0] for noise in drawn]).to(mean), config.timestep)

    start = 0
    while start < config.ensemble_size:
        # one batch holds as many whole members as it may
        members = range(start, min(start + max(1, size // len(images)), config.ensemble_size))
        rows = noisy(members).flatten(0, 1)
        parts, size = _in_batches(rows, size, lambda part: model.activations(part, config.timestep))
        layers = [_joined(layer) for layer in zip(*parts, strict=True)]
        del parts
        yield [layer.view(len(members), len(images), *layer.shape[1:]) for layer in layers]
        start = members.stop


@lru_cache(maxsize=NOISES)
def drawn_noises(seed: int, shape: tuple[int, ...], count: int, device: torch.device) -> tuple[Tensor, ...]:
    """The first ``count`` noises of a seed, drawn on the CPU, so that they are the same everywhere."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(count))
    return tuple(noise.to(device) for noise in drawn)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _in_batches(rows: Tensor, size: int, run: Callable[[Tensor], _Output]) -> tuple[list[_Output], int]:
    """Run over at most ``size`` rows at a time, halved when memory runs out; also the size that fitted."""
    start, outputs = 0, list[_Output]()
    while start < len(rows):
        try:
            outputs.append(run(rows[start : start + size]))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryError(
                    "the device's memory does not hold one image: try a smaller image_size, "
                    "dtype='bfloat16', or device='cpu'"
                ) from error
            size = max(1, min(size, len(rows) - start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += size
    return outputs, size

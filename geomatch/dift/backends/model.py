"""Diffusion models as feature extractors: an encoder, a network read at inner layers, a noise schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geomatch.dift.backends.compiled import Runner
from geomatch.weights.prompt import Conditioning

Latents = tuple[Tensor, Tensor | None]
"""What a network works on before noise is added: the mean (or mode) of what the autoencoder gives, and its
deviation, (B, C, h, w) each, on the model's device; no deviation for models in pixel space."""


def text_on(conditioning: Conditioning, device: str | torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Conditioning as networks take it: a row of each tensor."""
    return {name: torch.tensor(value)[None].to(device, dtype) for name, value in conditioning.items()}


@dataclass(frozen=True, eq=False, slots=True)
class DiffusionModel:
    """A loaded model, whatever its kind."""

    network: nn.Module  # the denoiser's modules; parts that no wanted layer needs may be absent
    part: Runner  # runs as much of it as the wanted layers need
    encode: Callable[[Tensor], Latents]  # images (B, 3, H, W) in [-1, 1] to latents
    schedule: tuple[Tensor, Tensor]  # (T,) signal and noise that make the image of a timestep, on the CPU
    stride: int  # image sides must be multiples of it
    device: torch.device  # where it runs
    encoder: Runner | None = None  # the network in `encode`, if there is one
    text: Mapping[str, Tensor] | None = None  # one row of conditioning, by the names of `text_on`
    discarded: tuple[int, ...] = ()  # channels of the outputs that are set to 0

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """The latents (B, C, h, w) as they are at a timestep: signal_t latents + noise_t noise."""
        signal, strength = (float(table[timestep]) for table in self.schedule)
        return signal * latents + strength * noise

    def activations(self, latents: Tensor, timestep: int) -> tuple[Tensor, ...]:
        """The wanted layers' outputs (B, C, h, w) of noisy latents; ValueError for wrong ``discarded``."""
        latents = latents.to(self.device, next(self.network.parameters()).dtype)
        steps = torch.full((1,), timestep, dtype=torch.int64, device=self.device)
        found = self.part(latents, steps) if self.text is None else self.part(latents, steps, self.text)
        if not self.discarded:
            return found
        least, last = min(len(layer[0]) for layer in found), max(self.discarded)
        if last >= least:
            raise ValueError(f"discard={last}: a layer has {least} channels, 0 to {least - 1}")
        channels = torch.tensor(self.discarded, device=self.device)
        return tuple(layer.index_fill(1, channels, 0) for layer in found)

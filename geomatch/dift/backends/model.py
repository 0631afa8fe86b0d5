"""Diffusion models as feature extractors: an encoder, a UNet read at inner layers, a noise schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geomatch.dift.backends.compiled import Runner

Latents = tuple[Tensor, Tensor | None]
"""What a network works on before noise is added: the mean (or mode) of what the autoencoder gives, and its
deviation, (B, C, h, w) each, on the model's device; no deviation for models in pixel space."""


@dataclass(frozen=True, eq=False, slots=True)
class DiffusionModel:
    """A loaded model, whatever its kind."""

    unet: nn.Module  # the UNet's modules; parts that no wanted layer needs may be absent
    part: Runner  # runs a `geomatch.dift.backends.wanted.WantedPart` of it
    encode: Callable[[Tensor], Latents]  # images (B, 3, H, W) in [-1, 1] to latents
    alphas_cumprod: Tensor  # (T,) alpha_bar_t of the noise schedule, on the CPU
    stride: int  # image sides must be multiples of it
    encoder: Runner | None = None  # the network in `encode`, if there is one
    prompt_embedding: Tensor | None = None  # (1, tokens, D) for UNets conditioned on text

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.unet.parameters()).device

    def expect(self, images: int, passes: int) -> None:
        """Announce so many images, and rows for the UNet, after which compiled networks may pay."""
        self.part.coming = max(self.part.coming, passes)
        if self.encoder is not None:
            self.encoder.coming = max(self.encoder.coming, images)

    def check_timestep(self, timestep: int) -> None:
        """Raise ValueError unless the schedule has that timestep."""
        if timestep >= len(self.alphas_cumprod):
            raise ValueError(f"timestep must be below {len(self.alphas_cumprod)}, got {timestep}")

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """sqrt(alpha_bar_t) latents + sqrt(1 - alpha_bar_t) noise (Ho et al., NeurIPS 2020, eq. 4)."""
        self.check_timestep(timestep)
        signal = float(self.alphas_cumprod[timestep])
        return math.sqrt(signal) * latents + math.sqrt(1 - signal) * noise

    def activations(self, latents: Tensor, timestep: int) -> tuple[Tensor, ...]:
        """The wanted layers' outputs (B, C, h, w), in the network's type, for noisy latents (B, C, h, w)."""
        self.check_timestep(timestep)
        parameter = next(self.unet.parameters())
        latents = latents.to(parameter.device, parameter.dtype)
        steps = torch.full((1,), timestep, dtype=torch.int64, device=parameter.device)
        return self.part(latents, steps, self.prompt_embedding)

"""Diffusion models as feature extractors: an encoder, a UNet and a noise schedule."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor, nn

from geomatch.dift.backends.capture import capture, find_layer


@dataclass(frozen=True, eq=False, slots=True)
class Latents:
    """What a UNet works on, before noise is added."""

    mean: Tensor
    """(B, C, h, w), on the model's device; the mode, where there is a distribution."""
    std: Tensor | None = None
    """(B, C, h, w) deviation of the autoencoder's distribution; None for models in pixel space."""


@dataclass(frozen=True, eq=False, slots=True)
class DiffusionModel:
    """A loaded model, whatever its kind."""

    unet: nn.Module
    """A diffusers UNet; parts that no wanted layer needs may be absent."""
    encode: Callable[[Tensor], Latents]
    """Images (B, 3, H, W) in [-1, 1] to latents."""
    alphas_cumprod: Tensor
    """(T,) alpha_bar_t of the noise schedule, on the CPU."""
    stride: int
    """Image sides must be multiples of it."""
    up_layers: tuple[str, ...]
    """Module names of the paper's up_ft indices."""
    prompt_embedding: Tensor | None = None
    """(1, tokens, D) for UNets conditioned on text."""
    lock: Lock = field(default_factory=Lock)
    """Held during a pass: hooks on a shared network would see other threads' passes."""

    def check_timestep(self, timestep: int) -> None:
        """Raise ValueError unless the schedule has that timestep."""
        if timestep >= len(self.alphas_cumprod):
            raise ValueError(f"timestep must be below {len(self.alphas_cumprod)}, got {timestep}")

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """sqrt(alpha_bar_t) latents + sqrt(1 - alpha_bar_t) noise (Ho et al., NeurIPS 2020, eq. 4)."""
        self.check_timestep(timestep)
        signal = float(self.alphas_cumprod[timestep])
        return math.sqrt(signal) * latents + math.sqrt(1 - signal) * noise

    @torch.inference_mode()
    def activations(self, latents: Tensor, timestep: int, layers: Sequence[str | int]) -> list[Tensor]:
        """Outputs (B, C, h, w) in float32 of the layers, for noisy latents (B, C, h, w)."""
        self.check_timestep(timestep)
        parameter = next(self.unet.parameters())
        latents = latents.to(parameter.device, parameter.dtype)
        times = torch.full((len(latents),), timestep, device=parameter.device)
        names = [layer_name(layer, self.up_layers) for layer in layers]
        with self.lock:
            if self.prompt_embedding is None:
                outputs = capture(self.unet, names, lambda: self.unet(latents, times))
            else:
                text = self.prompt_embedding.expand(len(latents), -1, -1)
                outputs = capture(self.unet, names, lambda: self.unet(latents, times, text))
        return [output.float() for output in outputs]


def layer_name(layer: str | int, up_layers: Sequence[str]) -> str:
    """The module's name of a layer that may be given by the paper's index."""
    if isinstance(layer, str):
        return layer
    if layer >= len(up_layers):
        raise ValueError(f"layer {layer}: up_ft indices of this model are 0 to {len(up_layers) - 1}")
    return up_layers[layer]


def unneeded_parts(unet: nn.Module, names: Iterable[str]) -> list[str]:
    """Modules that run only after all the named ones: later up-blocks and the output layers."""
    names = list(names)
    for name in names:
        find_layer(unet, name)
    tail = ["conv_norm_out", "conv_act", "conv_out"]
    if any(name in tail for name in names):
        return []
    ups = [int(found[1]) for name in names if (found := re.match(r"up_blocks\.(\d+)", name))]
    blocks = len(unet.get_submodule("up_blocks"))  # type: ignore[arg-type]  # a ModuleList
    later = [f"up_blocks.{index}" for index in range(max(ups, default=-1) + 1, blocks)]
    return later + [name for name in tail if getattr(unet, name, None) is not None]

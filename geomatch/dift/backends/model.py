"""Diffusion models as feature extractors: an encoder, a UNet read at inner layers, a noise schedule."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False, slots=True)
class Latents:
    """What a UNet works on, before noise is added."""

    mean: Tensor  # (B, C, h, w), on the model's device; the mode, where there is a distribution
    std: Tensor | None = None
    """(B, C, h, w) deviation of the autoencoder's distribution; None for models in pixel space."""


@dataclass(frozen=True, eq=False, slots=True)
class DiffusionModel:
    """A loaded model, whatever its kind."""

    unet: nn.Module  # a diffusers UNet; parts that no wanted layer needs may be absent
    encode: Callable[[Tensor], Latents]  # images (B, 3, H, W) in [-1, 1] to latents
    alphas_cumprod: Tensor  # (T,) alpha_bar_t of the noise schedule, on the CPU
    stride: int  # image sides must be multiples of it
    up_layers: tuple[str, ...]  # module names of the paper's up_ft indices
    prompt_embedding: Tensor | None = None  # (1, tokens, D) for UNets conditioned on text
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

    def activations(self, latents: Tensor, timestep: int, layers: Sequence[str | int]) -> list[Tensor]:
        """Outputs (B, C, h, w) in float32 of the layers, for noisy latents (B, C, h, w)."""
        self.check_timestep(timestep)
        parameter = next(self.unet.parameters())
        latents = latents.to(parameter.device, parameter.dtype)
        inputs = [latents, torch.full((len(latents),), timestep, device=parameter.device)]
        if self.prompt_embedding is not None:
            inputs.append(self.prompt_embedding.expand(len(latents), -1, -1))
        names = [layer_name(layer, self.up_layers) for layer in layers]
        with self.lock:
            outputs = capture(self.unet, names, lambda: self.unet(*inputs))
        return [output.float() for output in outputs]


class _AllSeen(Exception):  # noqa: N818 (control flow, not an error)
    """Raised inside the network once every wanted layer has run."""


def capture(network: nn.Module, layers: Sequence[str], call: Callable[[], object]) -> list[Tensor]:
    """The outputs of the named submodules during ``call``, which is ended once all are there.

    Where a block returns several values the first is taken, which diffusers makes the hidden state.
    """
    outputs: dict[str, Tensor] = {}
    wanted = set(layers)
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def store(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if value.ndim != 4:
                raise ValueError(
                    f"layer {name!r} gives no feature map: its output has shape {tuple(value.shape)}"
                )
            outputs[name] = value
            if len(outputs) == len(wanted):
                raise _AllSeen

        return store

    try:
        for name in wanted:
            handles.append(find_layer(network, name).register_forward_hook(hook(name)))
        call()
    except _AllSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    silent = wanted - outputs.keys()
    if silent:
        raise ValueError(f"layers that do not run: {', '.join(sorted(silent))}")
    return [outputs[name] for name in layers]


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """A submodule by its dotted name."""
    module, path = network, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            place = path or "the network"
            raise ValueError(f"unknown layer {name!r}: {place} has {', '.join(children) or 'no parts'}")
        module, path = children[part], f"{path}.{part}" if path else part
    return module


def layer_name(layer: str | int, up_layers: Sequence[str]) -> str:
    """The module's name of a layer that may be given by the paper's index."""
    if isinstance(layer, str):
        return layer
    if layer >= len(up_layers):
        raise ValueError(f"layer {layer}: up_ft indices of this model are 0 to {len(up_layers) - 1}")
    return up_layers[layer]


def unneeded_parts(unet: nn.Module, layers: Sequence[str | int], up_layers: Sequence[str]) -> list[str]:
    """Modules that run only after all the wanted layers: later up-blocks and the output layers."""
    names = [layer_name(layer, up_layers) for layer in layers]
    for name in names:
        find_layer(unet, name)
    tail = ["conv_norm_out", "conv_act", "conv_out"]
    if any(name in tail for name in names):
        return []
    ups = [int(found[1]) for name in names if (found := re.match(r"up_blocks\.(\d+)", name))]
    blocks = len(unet.get_submodule("up_blocks"))  # type: ignore[arg-type]  # a ModuleList
    later = [f"up_blocks.{index}" for index in range(max(ups, default=-1) + 1, blocks)]
    return later + [name for name in tail if getattr(unet, name, None) is not None]

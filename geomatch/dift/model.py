"""Diffusion models as feature extractors: what they share, and how they are found and loaded."""

import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from geomatch.dift.config import DIFTConfig
from geomatch.errors import WeightsError

EMBEDDED = ("dift-tiny",)
"""Models that come with the package."""


class DiffusionModel(Protocol):
    """A diffusion model whose inner activations can be read."""

    @property
    def stride(self) -> int:
        """Image sides must be multiples of it."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to what the UNet works on."""
        ...

    def activations(
        self, latents: Tensor, noise: Tensor | None, timestep: int, layers: Sequence[str]
    ) -> list[Tensor]:
        """Outputs of the named layers, each (B, C, h, w), for latents mixed with ``noise`` at ``timestep``.

        None for ``noise`` scales the clean latents by sqrt(alpha_bar_t).
        """
        ...


def model_folder(model: str) -> Path:
    """The folder of an embedded model by name, or of a local one by path.

    Raises:
        WeightsError: when there is neither.
    """
    if model in EMBEDDED:
        folder = importlib.resources.files("geomatch.dift") / "weights" / model
        return Path(str(folder))
    path = Path(model).expanduser()
    if not path.is_dir():
        raise WeightsError(
            f"{model}: neither an embedded model ({', '.join(EMBEDDED)}) nor a folder with a diffusers model"
        )
    return path


def load_model(config: DIFTConfig) -> DiffusionModel:
    """Load the network that ``config`` names.

    Raises:
        WeightsError: when files are missing, damaged or of an unknown kind, naming them.
        ValueError: when the device cannot be used.
    """
    try:
        torch.zeros(1).to(config.device).cpu()
    except (RuntimeError, AssertionError) as error:  # not compiled in, or no such device
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {config.device!r} cannot be used here ({reason})") from error
    folder = model_folder(config.model)
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    description = unet / "config.json"
    try:
        kind = json.loads(description.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{description}: no readable diffusers configuration ({error})") from error
    if kind == "UNet2DModel":
        if config.prompt:
            raise ValueError(f"{config.model} takes no text: leave the prompt empty")
        from geomatch.dift.pixel_unet import load_pixel_unet

        return load_pixel_unet(folder, unet, config.dtype, config.device)
    raise WeightsError(f"{description}: is a {kind}; supported is UNet2DModel (pixel space, unconditional)")

"""Where networks run, and what is carried there."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomatch.errors import first_line


def find_device(name: str) -> str:
    """``auto`` as a device that is there (CUDA, else MPS, else the CPU), other names after a trial."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device="cpu").to(name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # not compiled in, or no such device
        # torch lists all that it has heard of
        why = "" if "Expected one of" in str(error) else f" ({first_line(error)})"
        raise ValueError(f"device {name!r} cannot be used here: give auto, cpu, cuda or mps{why}") from error
    return name


def device_kind(name: str) -> str:
    """What numbers depend on: ``cuda`` of ``cuda:1``, and what ``auto`` stands for here."""
    return (find_device(name) if name == "auto" else name).split(":")[0]


def device_of(network: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(network.parameters()).device


def upload_pixels(pixels: NDArray[np.uint8], device: str | torch.device) -> Tensor:
    """Pixels (H, W, 3) as (1, 3, H, W) float32 of values 0 to 255 on the device; a byte each is carried."""
    return torch.tensor(pixels, device=device).permute(2, 0, 1)[None].to(torch.float32)


def widest_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it, which MPS has not."""
    return torch.float32 if device.type == "mps" else torch.float64

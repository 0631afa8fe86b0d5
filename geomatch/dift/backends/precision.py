"""The number format of the networks, where it is left to us."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.config import DType

PROBE_CELLS = 8
"""Cells of the smallest image that every UNet known here can halve three times."""
_HALF = torch.float16
_log = logging.getLogger(__name__)


def network_dtype(name: DType, device: str) -> torch.dtype:
    """``auto`` as float16 on CUDA, to be tried, and float32 elsewhere; the others as torch's."""
    if name == "auto":
        return _HALF if device.startswith("cuda") else torch.float32
    found: torch.dtype = getattr(torch, name)
    return found


def patch_dtype(name: DType, device: str) -> torch.dtype:
    """The same for the small network over patches: bfloat16 on processors that multiply in it.

    Its convolutions overflow in no format; in bfloat16 they take half the time there, and on 200 synthetic
    pairs made no difference beyond chance.
    """
    known = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch do not tell
    capable: dict[str, Any] = known() if name == "auto" and device == "cpu" else {}
    if capable.get("avx512_bf16") or capable.get("amx_bf16"):
        return torch.bfloat16
    return network_dtype(name, device)


def load_finite(
    load: Callable[[torch.dtype, torch.dtype], DiffusionModel], name: DType, device: str, timestep: int
) -> DiffusionModel:
    """The model by ``load``, called with the types of the UNet and of the autoencoder.

    Where float16 overflows on an image of noise, bfloat16 takes its place: in the autoencoder always, in the
    UNet for ``auto``.
    """
    dtype = encoder = network_dtype(name, device)
    model = load(dtype, encoder)
    if dtype is not _HALF:
        return model
    with torch.inference_mode():
        latents = model.encode(_probe(model.stride))[0]
        if not _finite(latents):
            encoder = torch.bfloat16
            del model  # its memory is needed
            model = load(dtype, encoder)
            _log.info("the autoencoder overflows in float16: it runs in bfloat16")
            latents = model.encode(_probe(model.stride))[0]
        if name == "auto" and not all(_finite(layer) for layer in model.activations(latents, timestep)):
            del model
            model = load(torch.bfloat16, encoder)
            _log.info("the UNet overflows in float16: it runs in bfloat16")
    return model


def _probe(stride: int) -> Tensor:
    """(1, 3, h, w) in [-1, 1]: noise of full contrast, the left half of it black and white alone."""
    side = stride * PROBE_CELLS
    generator = torch.Generator("cpu").manual_seed(0)
    image = torch.rand((1, 3, side, side), generator=generator, dtype=torch.float32) * 2 - 1
    image[..., : side // 2] = image[..., : side // 2].sign()
    return image


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())

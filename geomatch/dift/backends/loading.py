"""From the settings to a loaded model, in the number format that suits it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from geomatch.devices import find_device
from geomatch.dift.backends.model import DiffusionModel, text_on
from geomatch.dift.config import DIFTConfig, DType
from geomatch.dift.files import Conditioning, conditioning_of, folder_of
from geomatch.isolation import isolated
from geomatch.weights.folders import family_of
from geomatch.weights.sources import unet_file

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

    It overflows in no format; in bfloat16 it takes half the time and is no worse on 200 synthetic pairs.
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

    bfloat16 replaces float16 where it overflows on noise: in the UNet for ``auto``, always in autoencoders.
    """
    dtype = encoder = network_dtype(name, device)
    model = load(dtype, encoder)
    if dtype is not _HALF:
        return model
    with torch.inference_mode():
        latents = model.encode(_probe(model.stride))[0]
        if not latents.isfinite().all():
            encoder = torch.bfloat16
            del model  # its memory is needed
            model = load(dtype, encoder)
            _log.info("the autoencoder overflows in float16: it runs in bfloat16")
            latents = model.encode(_probe(model.stride))[0]
        if name == "auto" and not all(x.isfinite().all() for x in model.activations(latents, timestep)):
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


@isolated(gradients=True)
def load_model(config: DIFTConfig, conditioning: Conditioning | None = None) -> DiffusionModel:
    """Load the networks of ``config``, as far as its layers need; ``conditioning`` replaces the prompt's."""
    device, folder = find_device(config.device), folder_of(config)
    file = None if config.unet_file is None else unet_file(config.unet_file)
    family = family_of(folder)
    if (config.prompt or conditioning) and not (family and family.pipelines):
        raise ValueError(f"{config.model} takes no text: leave the prompt empty, and give no conditioning")
    if family is None:
        from geomatch.dift.backends.pixel_unet import load_pixel_unet as load
    else:
        from geomatch.dift.backends.latent import load_latent_model

        load = partial(load_latent_model, family, conditioning)
    dtype = config.dtype
    if dtype == "auto" and device.startswith("cuda") and family is not None and family.flow:
        dtype = "bfloat16"  # which these are trained in
    _log.debug("weights of %s come from %s and go to %s", config.model, file or folder, device)
    return load_finite(
        lambda *dtypes: load(folder, file, config, device, dtypes),
        dtype, device, config.timestep,
    )  # fmt: skip


@isolated(gradients=True)
def with_prompt(model: DiffusionModel, config: DIFTConfig) -> DiffusionModel:
    """The same networks, of a model of text, with the prompt of ``config``."""
    dtype = next(model.network.parameters()).dtype
    return replace(model, text=text_on(conditioning_of(config, folder_of(config)), model.device, dtype))

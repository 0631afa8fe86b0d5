"""From the settings to a loaded model."""

from dataclasses import replace
from functools import partial

from geomatch.devices import find_device
from geomatch.dift.backends.model import DiffusionModel, text_on
from geomatch.dift.backends.precision import load_finite
from geomatch.dift.config import DIFTConfig
from geomatch.dift.files import Conditioning, conditioning_of, folder_of
from geomatch.isolation import isolated
from geomatch.weights.folders import family_of
from geomatch.weights.sources import unet_file


@isolated(gradients=True)
def load_model(config: DIFTConfig, conditioning: Conditioning | None = None) -> DiffusionModel:
    """Load the networks that ``config`` names, as far as its layers need them.

    A ``conditioning`` is used instead of encoding the prompt.
    """
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
    return load_finite(
        lambda *dtypes: load(folder, file, config, device, dtypes),
        dtype, device, config.timestep,
    )  # fmt: skip


@isolated(gradients=True)
def with_prompt(model: DiffusionModel, config: DIFTConfig) -> DiffusionModel:
    """The same networks, of a model of text, with the prompt of ``config``."""
    dtype = next(model.network.parameters()).dtype
    return replace(model, text=text_on(conditioning_of(config, folder_of(config)), model.device, dtype))

"""From the settings to a loaded model."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.devices import find_device
from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.backends.precision import load_finite
from geomatch.dift.config import DIFTConfig
from geomatch.dift.files import folder_of, prompt_of
from geomatch.errors import WeightsError
from geomatch.isolation import isolated
from geomatch.weights.folders import read_config, unet_folder
from geomatch.weights.sources import unet_file


@isolated(gradients=True)
def load_model(config: DIFTConfig, prompt_embedding: NDArray[np.float32] | None = None) -> DiffusionModel:
    """Load the networks that ``config`` names, as far as its layers need them.

    A ``prompt_embedding`` (tokens, D) is used instead of encoding the prompt.
    """
    device, folder = find_device(config.device), folder_of(config)
    file = None if config.unet_file is None else unet_file(config.unet_file)
    unet = unet_folder(folder)
    kind = read_config(unet).get("_class_name")
    if kind == "UNet2DModel":
        from geomatch.dift.backends.pixel_unet import load_pixel_unet as load
    elif kind == "UNet2DConditionModel" and unet != folder:
        from geomatch.dift.backends.stable_diffusion import load_stable_diffusion as load
    else:
        raise WeightsError(
            f"{unet / 'config.json'}: is a {kind}; supported are UNet2DModel (pixel space, unconditional) "
            "and pipelines with UNet2DConditionModel (Stable Diffusion 1 and 2)"
        )
    return load_finite(
        lambda *dtypes: load(folder, file, prompt_embedding, config, device, dtypes),
        config.dtype, device, config.timestep,
    )  # fmt: skip


@isolated(gradients=True)
def with_prompt(model: DiffusionModel, config: DIFTConfig) -> DiffusionModel:
    """The same networks with the prompt of ``config``; a model without text is given back as it is."""
    if model.prompt_embedding is None:
        return model
    embedding = torch.tensor(prompt_of(config, folder_of(config)))[None].to(model.prompt_embedding)
    return replace(model, prompt_embedding=embedding)

"""From the settings to a loaded model."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.config import DIFTConfig
from geomatch.errors import WeightsError, first_line
from geomatch.files import fingerprint_of
from geomatch.weights.checkpoint import find_weights, read_config
from geomatch.weights.prompt import cached_embedding, encode_prompt
from geomatch.weights.sources import (
    CONFIGS,
    HEAD_FILE,
    model_folder,
    text_encoder_folder,
    unet_file,
    unet_folder,
)


def load_model(config: DIFTConfig, prompt_embedding: NDArray[np.float32] | None = None) -> DiffusionModel:
    """Load the networks that ``config`` names, as far as its layers need them.

    Args:
        config: model, layers, prompt, dtype and device.
        prompt_embedding: (tokens, D) to use instead of encoding the prompt.

    Raises:
        WeightsError: when files are missing, damaged or of an unknown kind, naming them.
        MissingDependencyError: when a prompt must be encoded without transformers.
        ValueError: when the device or a layer does not exist.
    """
    device = find_device(config.device)
    file = None if config.unet_file is None else unet_file(config.unet_file)
    folder = model_folder(config.model, config.revision, own_unet=file is None)
    unet = unet_folder(folder)
    kind = read_config(unet).get("_class_name")
    if kind == "UNet2DModel":
        if prompt_embedding is not None:
            raise ValueError(f"{config.model} takes no text: leave out the prompt embedding")
        from geomatch.dift.backends.pixel_unet import load_pixel_unet

        return load_pixel_unet(folder, unet, file, config, device)
    if kind == "UNet2DConditionModel" and unet != folder:
        from geomatch.dift.backends.stable_diffusion import load_stable_diffusion

        if prompt_embedding is None:
            prompt_embedding = prompt_of(config, folder)
        return load_stable_diffusion(folder, file, prompt_embedding, config, device)
    raise WeightsError(
        f"{unet / 'config.json'}: is a {kind}; supported are UNet2DModel (pixel space, unconditional) and "
        "pipelines with UNet2DConditionModel (Stable Diffusion 1 and 2)"
    )


def with_prompt(model: DiffusionModel, config: DIFTConfig) -> DiffusionModel:
    """The same networks with the prompt of ``config``; a model without text is given back as it is.

    Raises:
        WeightsError: when the prompt is not in the cache and there is no text encoder.
    """
    if model.prompt_embedding is None:
        return model
    folder = model_folder(config.model, config.revision, own_unet=config.unet_file is None)
    embedding = torch.tensor(prompt_of(config, folder))[None].to(model.prompt_embedding)
    return replace(model, prompt_embedding=embedding)


def prompt_of(config: DIFTConfig, folder: Path) -> NDArray[np.float32]:
    """(tokens, D) of the prompt, from the cache beside the weights or from the text encoder."""
    cached = cached_embedding(folder, config.prompt)
    if cached is not None:
        return cached
    return encode_prompt(text_encoder_folder(config.model, config.revision, folder), config.prompt)


def model_fingerprint(config: DIFTConfig, prompt_embedding: NDArray[np.float32] | None = None) -> str:
    """SHA-256 over all that decides the activations besides the settings: weights, configurations, prompt.

    Args:
        config: model, weights and prompt.
        prompt_embedding: (tokens, D) in place of the prompt's.
    """
    found = fingerprint_of(model_files(config))
    folder = model_folder(config.model, config.revision, own_unet=config.unet_file is None)
    if (folder / "vae").is_dir():
        embedding = prompt_of(config, folder) if prompt_embedding is None else prompt_embedding
        found += hashlib.sha256(np.asarray(embedding, np.float32).tobytes()).hexdigest()
    return found


def model_files(config: DIFTConfig) -> list[Path]:
    """The files that decide a model's descriptors, but for the text encoder's: weights and configurations."""
    file = None if config.unet_file is None else unet_file(config.unet_file)
    folder = model_folder(config.model, config.revision, own_unet=file is None)
    files = find_weights(unet_folder(folder)) if file is None else [file]
    if (folder / "vae").is_dir():
        files += find_weights(folder / "vae")
    places = [
        folder / name for name in (*CONFIGS, "scheduler_config.json", "scheduler/scheduler_config.json")
    ]
    head = head_file(config)
    return files + [path for path in (*places, *((head,) if head else ())) if path.is_file()]


def head_file(config: DIFTConfig) -> Path | None:
    """Where the projection head that a configuration asks for lies, or should; None when it asks for none.

    Raises:
        WeightsError: when it is asked for beside a model that is nowhere.
    """
    if not config.head:
        return None
    if config.head is True:
        return model_folder(config.model, config.revision, config.unet_file is None) / HEAD_FILE
    path = Path(config.head).expanduser()
    return path / HEAD_FILE if path.is_dir() else path


def find_device(name: str) -> str:
    """``auto`` as a device that is there, other names after a trial.

    Raises:
        ValueError: when the device cannot be used.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1).to(name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # not compiled in, or no such device
        raise ValueError(f"device {name!r} cannot be used here ({first_line(error)})") from error
    return name

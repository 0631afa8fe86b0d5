"""The files that a configuration names, and the prompt's encoding."""

import hashlib
from pathlib import Path

import numpy as np

from geomatch.dift.config import DIFTConfig
from geomatch.dift.presets import PRESETS
from geomatch.files import fingerprint_of
from geomatch.places import user_path
from geomatch.weights.folders import CONFIGS, HEAD_FILES, SCHEDULES, family_of, find_weights, network_folder
from geomatch.weights.prompt import Conditioning as Conditioning
from geomatch.weights.prompt import cached_conditioning, encode_prompt
from geomatch.weights.sources import model_folder, text_encoder_folder, unet_file


def folder_of(config: DIFTConfig) -> Path:
    """The model's folder; without weights of the UNet where ``unet_file`` replaces them."""
    model, unet = config.model, config.unet_file
    fetch = next((name for name, one in PRESETS.items() if (one.model, one.unet_file) == (model, unet)), "")
    return model_folder(model, config.revision, own_unet=unet is None, fetch=fetch)


def conditioning_of(config: DIFTConfig, folder: Path) -> Conditioning:
    """The prompt's encoding, from the cache beside the weights or the text encoders; empty without text."""
    family = family_of(folder)
    if family is None or not family.pipelines:
        return {}
    cached = cached_conditioning(family, folder, config.prompt)
    if cached is not None:
        return cached
    from geomatch.isolation import isolated  # loads torch

    with isolated():
        home = text_encoder_folder(config.model, config.revision, folder, family)
        return encode_prompt(family, home, config.prompt)


def head_file(config: DIFTConfig) -> Path | None:
    """Where the projection head that a configuration asks for should be; None when it asks for none."""
    if not config.head:
        return None
    path = folder_of(config) if config.head is True else user_path(config.head)
    return path / HEAD_FILES[config.sampling] if path.is_dir() else path


def model_fingerprint(config: DIFTConfig, conditioning: Conditioning | None = None) -> str:
    """SHA-256 over all that decides the descriptors besides the settings: weights, configurations, prompt."""
    folder, head = folder_of(config), head_file(config)
    network = network_folder(folder)
    files = find_weights(network) if config.unet_file is None else [unet_file(config.unet_file)]
    files += find_weights(folder / "vae")
    places = [*(folder / name for name in (*CONFIGS, *SCHEDULES)), *([head] if head else [])]
    found = fingerprint_of(files + [path for path in places if path.is_file()])
    text = conditioning_of(config, folder) if conditioning is None else conditioning
    for name in sorted(text):
        found += name + hashlib.sha256(np.asarray(text[name], np.float32).tobytes()).hexdigest()
    return found

"""The known models on this machine: list and fetch them."""

from dataclasses import replace
from pathlib import Path

from geomatch.dift.config import DIFTConfig
from geomatch.dift.files import conditioning_of, folder_of
from geomatch.dift.presets import PRESETS
from geomatch.errors import MissingDependencyError, WeightsError
from geomatch.places import cached_path, hub_caches
from geomatch.weights.download import SUPERPOINT_V6, locate_weights
from geomatch.weights.folders import family_of, missing_files
from geomatch.weights.hub import is_hub_id
from geomatch.weights.models import ADM, MODELS, ModelInfo
from geomatch.weights.prompt import cached_conditioning
from geomatch.weights.sources import (
    ADM_CHECKPOINT,
    EMBEDDED,
    converted_folder,
    model_folder,
    text_encoder_folder,
    unet_file,
)

_SUPERPOINT_SIZE = 5_200_000  # bytes, about: 1.3 million parameters


def inventory() -> list[str]:
    """Every known model, if its weights are here, where they are looked for, in words; asks no network."""
    entries, hub = [], hub_caches()[0]
    for name, info in MODELS.items():
        users = ", ".join(p for p, config in PRESETS.items() if name in (config.model, config.unet_file))
        place = model_folder(name) if name in EMBEDDED else converted_folder(name)
        looked_for = str(place) if name in (*EMBEDDED, ADM) else f"{hub} (huggingface_hub)"
        entries.append(_entry(f"{name}\n  presets     {users}", info, looked_for, _is_present(name)))
    info = ModelInfo(SUPERPOINT_V6.licence, _SUPERPOINT_SIZE, SUPERPOINT_V6.url)
    path = cached_path(SUPERPOINT_V6.file_name)
    return [*entries, _entry("superpoint", info, str(path), path.is_file())]


def _entry(title: str, info: ModelInfo, looked_for: str, present: bool) -> str:
    size = f"{info.size / 1e9:.1f} GB" if info.size >= 1e8 else f"{info.size / 1e6:.1f} MB"
    return (
        f"{title}\n  licence     {info.licence}\n  size        {size}, {info.source}"
        f"\n  looked for  {looked_for}\n  present     {'yes' if present else 'no'}"
    )


def fetch_weights(name: str, revision: str | None = None) -> list[Path]:
    """Make the weights that a preset, a model or ``superpoint`` needs present; return where they are.

    The embedding of the preset's prompt is made, too: later neither network nor transformers is needed.
    """
    if name == "superpoint":
        return [locate_weights(SUPERPOINT_V6)]
    if name.count("/") > 1:
        return [unet_file(f"{name}@{revision}" if revision else name)]
    if name not in PRESETS and name not in MODELS and not is_hub_id(name):
        known = ", ".join(("superpoint", *PRESETS, *MODELS))
        raise ValueError(f"unknown model {name!r}; choose one of: {known}")
    config = PRESETS.get(name) or DIFTConfig(model=name)
    if revision is not None:
        if not is_hub_id(config.model) or config.unet_file is not None:
            raise ValueError(f"--revision has no single meaning for {name}; fetch the models it uses by name")
        config = replace(config, revision=revision)
    found = [] if config.unet_file is None else [unet_file(config.unet_file)]
    if config.model == ADM and missing_files(converted_folder(ADM)):
        from geomatch.weights.adm import convert_adm

        convert_adm(locate_weights(ADM_CHECKPOINT), converted_folder(ADM))
    folder = folder_of(config)
    found.append(folder)
    try:
        conditioning_of(config, folder)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"the weights are at {folder}, but {error}") from error
    return found


def _is_present(name: str) -> bool:
    try:
        if name in EMBEDDED or name == ADM or is_hub_id(name):
            folder = model_folder(name, download=False)
            family = family_of(folder)
            if family and family.pipelines and cached_conditioning(family, folder, "") is None:
                text_encoder_folder(name, None, folder, family, download=False)
        else:
            unet_file(name, download=False)
    except WeightsError:
        return False
    return True

"""What a diffusers folder holds: configurations, and the files of weights."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from geomatch.errors import WeightsError
from geomatch.files import read_json, sha256_of, write_whole
from geomatch.weights.download import SUMS, check_file
from geomatch.weights.families import Family, find_family

STEM = "diffusion_pytorch_model"
FORMS = (("", "safetensors"), (".fp16", "safetensors"), ("", "bin"), (".fp16", "bin"))
"""Variants and suffixes of weights, best first: half precision if there is no other, .bin of old ones."""
PLACES = ("", "unet/", "transformer/", "vae/")
"""Folders in which there may be weights that are read, the autoencoder's last."""
CONFIGS = [f"{place}config.json" for place in PLACES]
SCHEDULES = ("scheduler_config.json", "scheduler/scheduler_config.json")
HEAD_FILES = {"patch": "head.safetensors", "dense": "dense-head.safetensors"}
"""Projection heads beside a model, by what it samples."""
SMALL = [*CONFIGS, "model_index.json", "scheduler_config.json", "scheduler/*", *HEAD_FILES.values()]
"""What is fetched of a model besides weights, as patterns."""

DENOISER, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
"""How names of tensors in single files begin that belong to the network, and to the autoencoder."""
ENCODERS = {
    "": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer."),
    "_2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
}
"""The same for text encoders, by the ending of their folder; ``model`` means OpenCLIP's names."""
WHOLE = "single-file"  # stem of the link to one in the folder of a text encoder
TEXT_STEMS = ("model", "pytorch_model", WHOLE)
"""Stems of files of weights of text encoders."""


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A diffusers configuration."""
    check_file(folder / name)
    return read_json(folder / name, "diffusers configuration", WeightsError, "get it again")


def weight_patterns(places: Sequence[str], stems: Sequence[str] = (STEM,)) -> list[list[str]]:
    """For each of `FORMS`, names of files of weights and of indices, and patterns of shards, in folders."""
    return [
        [f"{place}{name}" for place in places for stem in stems
         for name in (*_names(stem, variant, suffix), f"{stem}{variant}-*-of-*.{suffix}")]
        for variant, suffix in FORMS
    ]  # fmt: skip


def _names(stem: str, variant: str, suffix: str) -> tuple[str, str]:
    return f"{stem}{variant}.{suffix}", f"{stem}.{suffix}.index{variant}.json"


def find_weights(folder: Path, stems: Sequence[str] = (STEM,)) -> list[Path]:
    """The files of weights in ``folder``; of indices whose shards are not all there, what the first names."""
    partial: list[Path] = []
    for form, stem in product(FORMS, stems):
        whole, index = _names(stem, *form)
        if (folder / whole).is_file():
            return [folder / whole]
        if not (folder / index).is_file():
            continue
        named = read_config(folder, index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise WeightsError(f"{folder / index}: has no weight_map of names and files; get it again")
        shards = [folder / shard for shard in sorted(set(named.values()))]
        if shards and all(shard.is_file() for shard in shards):
            return shards
        partial = partial or shards
    return partial


def write_sums(folder: Path) -> None:
    """Record the checksums of a model's configurations and weights; heads have their own."""
    files = sorted(path for kind in ("*.json", "*.safetensors") for path in folder.glob(kind))
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in files if path.name not in HEAD_FILES.values()]
    write_whole(folder / SUMS, "".join(lines))


def network_folder(folder: Path) -> Path:
    """Where the denoiser is: in a folder of its own in pipelines, else in the diffusers folder itself."""
    for name in ("unet", "transformer"):
        if (folder / name).is_dir():
            return folder / name
    # flat repositories of DDPM have a model_index.json beside the UNet's own config.json
    indexed = (folder / "model_index.json").is_file() and not (folder / "config.json").is_file()
    return folder / "unet" if indexed else folder


def family_of(folder: Path) -> Family | None:
    """The family of the model in a diffusers folder; None for UNets in pixel space.

    Raises WeightsError for a network of a family that is not known, or without the rest of its pipeline.
    """
    network = network_folder(folder)
    family = find_family(read_config(network), network / "config.json")
    if family is not None and network == folder:
        raise WeightsError(f"{folder}: a network alone, without the vae folder of its pipeline beside it")
    return family


def missing_files(folder: Path, own_network: bool = True) -> list[str]:
    """What a diffusers folder lacks, in words; empty when it can be loaded."""
    network = network_folder(folder)
    if not (network / "config.json").is_file():
        return [f"no readable diffusers configuration at {network / 'config.json'}"]
    networks = [network] if own_network else []
    missing = []
    family = find_family(read_config(network), network / "config.json")
    if family is not None:
        networks.append(folder / "vae")
        if not (folder / "vae" / "config.json").is_file():
            missing.append("vae/config.json is missing (the autoencoder)")
        if not family.flow and not (folder / "scheduler" / "scheduler_config.json").is_file():
            missing.append("scheduler/scheduler_config.json is missing")
    for place in networks:
        found = find_weights(place)
        others = "" if found else " (nor is there an index of shards, .fp16.safetensors or .bin)"
        for path in found or [place / f"{STEM}.safetensors"]:
            if not path.is_file():
                missing.append(f"{path.relative_to(folder)} is missing{others}")
    return missing

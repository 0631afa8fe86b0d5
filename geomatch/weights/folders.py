"""What a diffusers folder holds: configurations, and the files of weights."""

from pathlib import Path
from typing import Any

from geomatch.errors import WeightsError
from geomatch.files import read_json, replacing, sha256_of
from geomatch.weights.download import SUMS, check_file
from geomatch.weights.families import Family, find_family

STEM = "diffusion_pytorch_model"
FILES = tuple(
    f"{STEM}{variant}"
    for variant in (
        ".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".safetensors.index.fp16.json",
        ".bin", ".bin.index.json", ".fp16.bin",
    )
)  # fmt: skip
"""Where weights are looked for in the folder of a network, in this order."""
NETWORKS = ("unet", "transformer")
"""Folders that the denoiser of a pipeline may lie in."""
CONFIGS = [f"{part}config.json" for part in ("", *(f"{network}/" for network in NETWORKS), "vae/")]
SCHEDULES = ("scheduler_config.json", "scheduler/scheduler_config.json")
HEAD_FILES = {"patch": "head.safetensors", "dense": "dense-head.safetensors"}
"""Projection heads beside a model, by what it samples."""

DENOISER, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
"""How names of tensors in single files begin that belong to the network, and to the autoencoder."""
ENCODERS = {
    "": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer."),
    "_2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
}
"""The same for text encoders, by the ending of their folder; ``model`` means OpenCLIP's names."""
WHOLE = "single-file"  # stem of the link to one in the folder of a text encoder


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A diffusers configuration."""
    check_file(folder / name)
    return read_json(folder / name, "diffusers configuration", WeightsError)


def find_weights(folder: Path) -> list[Path]:
    """The files with the weights of the network in ``folder``; empty if there are none."""
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        if "index" not in name:
            return [path]
        index = read_config(folder, name).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
            raise WeightsError(f"{path}: has no weight_map of names and files")
        shards = [folder / shard for shard in sorted(set(index.values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise WeightsError(f"{folder}: {', '.join(missing)} missing, named in {name}")
        return shards
    return []


def write_sums(folder: Path) -> None:
    """Record the checksums of a model's configurations and weights; heads have their own."""
    files = sorted(path for kind in ("*.json", "*.safetensors") for path in folder.glob(kind))
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in files if path.name not in HEAD_FILES.values()]
    with replacing(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def network_folder(folder: Path) -> Path:
    """Where the denoiser is: in a folder of its own in pipelines, else in the diffusers folder itself."""
    for name in NETWORKS:
        if (folder / name).is_dir():
            return folder / name
    # flat repositories of DDPM have a model_index.json beside the UNet's own config.json
    indexed = (folder / "model_index.json").is_file() and not (folder / "config.json").is_file()
    return folder / NETWORKS[0] if indexed else folder


def family_of(folder: Path) -> Family | None:
    """The family of the model in a diffusers folder; None for UNets in pixel space.

    Raises:
        WeightsError: for a network of a family that is not known, or without the rest of its pipeline.
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
        if not find_weights(place):
            name = place.relative_to(folder) / FILES[0]
            missing.append(f"{name} is missing (nor is there {', '.join(FILES[1:4])} or .bin)")
    return missing

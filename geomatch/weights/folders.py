"""What a diffusers folder holds: configurations, and the files of weights."""

from pathlib import Path
from typing import Any

from geomatch.errors import WeightsError
from geomatch.files import read_json, replacing, sha256_of
from geomatch.weights.download import SUMS, check_file

STEM = "diffusion_pytorch_model"
FILES = (f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.bin")
"""Where weights are looked for in the folder of a network, in this order."""
CONFIGS = [f"{part}config.json" for part in ("", "unet/", "vae/")]
SCHEDULES = ("scheduler_config.json", "scheduler/scheduler_config.json")
HEAD_FILES = {"patch": "head.safetensors", "dense": "dense-head.safetensors"}
"""Projection heads beside a model, by what it samples."""


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
        if not name.endswith(".index.json"):
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


def unet_folder(folder: Path) -> Path:
    """Where the UNet is in a diffusers folder: in ``unet`` of a pipeline, else in the folder itself."""
    # flat repositories of DDPM have a model_index.json beside the UNet's own config.json
    indexed = (folder / "model_index.json").is_file() and not (folder / "config.json").is_file()
    return folder / "unet" if (folder / "unet").is_dir() or indexed else folder


def missing_files(folder: Path, own_unet: bool = True) -> list[str]:
    """What a diffusers folder lacks, in words; empty when it can be loaded."""
    unet = unet_folder(folder)
    if not (unet / "config.json").is_file():
        return [f"no readable diffusers configuration at {unet / 'config.json'}"]
    networks = [unet] if own_unet else []
    missing = []
    if read_config(unet).get("_class_name") == "UNet2DConditionModel":
        networks.append(folder / "vae")
        if not (folder / "vae" / "config.json").is_file():
            missing.append("vae/config.json is missing (the autoencoder of Stable Diffusion)")
        if not (folder / "scheduler" / "scheduler_config.json").is_file():
            missing.append("scheduler/scheduler_config.json is missing")
    for network in networks:
        if not find_weights(network):
            name = network.relative_to(folder) / FILES[0]
            missing.append(f"{name} is missing (nor is there {', '.join(FILES[1:])})")
    return missing

"""What a diffusers folder holds: configurations, and the files of weights."""

from pathlib import Path
from typing import Any

from geomatch.errors import WeightsError
from geomatch.files import read_json

STEM = "diffusion_pytorch_model"
FILES = (f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.bin")
"""Where weights are looked for in the folder of a network, in this order."""
CONFIGS = [f"{part}config.json" for part in ("", "unet/", "vae/")]
SCHEDULES = ("scheduler_config.json", "scheduler/scheduler_config.json")
HEAD_FILE = "head.safetensors"


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A diffusers configuration."""
    return read_json(folder / name, "diffusers configuration", WeightsError)


def find_weights(folder: Path) -> list[Path]:
    """The files with the weights of the network in ``folder``; empty if there are none."""
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        index = read_config(folder, name).get("weight_map", {})
        shards = [folder / shard for shard in sorted(set(index.values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise WeightsError(f"{folder}: {', '.join(missing)} missing, named in {name}")
        return shards
    return []


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

"""Where the weights of a model are: with the package, at a path, in a cache, on the hub."""

import importlib.resources
import re
from pathlib import Path

from geomatch.dift.checkpoint import FILES, STEM, find_weights, read_config
from geomatch.dift.config import DIFTConfig
from geomatch.dift.hub import hub_folder, is_hub_id
from geomatch.dift.presets import ADM, MODELS
from geomatch.errors import WeightsError
from geomatch.files import sha256_of
from geomatch.weights import WeightsFile, cache_folder

EMBEDDED = ("dift-tiny",)
"""Models that come with the package."""
ADM_CHECKPOINT = WeightsFile(
    file_name="256x256_diffusion_uncond.pt",
    url=MODELS[ADM].source,
    licence=MODELS[ADM].licence,
    sha256=None,  # OpenAI publishes none
)
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+)")
_NETWORKS = ("", "unet/", "vae/")
_SMALL = ["*config.json", "model_index.json", "readout.safetensors"]
_SAFE = [
    f"{part}{STEM}{rest}"
    for part in _NETWORKS
    for rest in (".safetensors", "-*.safetensors", ".safetensors.index.json")
]
_PICKLED = [f"{part}{STEM}.bin" for part in _NETWORKS]
_TEXT = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/*"]


def model_folder(
    model: str, revision: str | None = None, own_unet: bool = True, download: bool = True
) -> Path:
    """The folder of a model, complete but for its text encoder.

    Looked for in this order: the models that come with the package, a folder
    of that path, the cache of geomatch, the cache of huggingface_hub, the hub.

    Args:
        model: see `DIFTConfig.model`.
        revision: of a model on the hub.
        own_unet: whether the UNet's own weights are wanted.
        download: whether the hub may be asked, if the user has not forbidden it.

    Raises:
        WeightsError: when it is nowhere, or files of it are missing, naming them.
    """
    if model in EMBEDDED:
        return Path(str(importlib.resources.files("geomatch.dift") / "weights" / model))
    path = Path(model).expanduser()
    if model and path.is_dir():
        missing = missing_files(path, own_unet)
        if missing:
            raise WeightsError(f"{path}: {missing[0]}")
        return path
    if model == ADM:
        folder = converted_folder(model)
        if missing_files(folder):
            raise WeightsError(
                f"{model}: not at {folder}; `geomatch models fetch {model}` downloads and converts it, or "
                f"give the folder that `geomatch models convert-adm {ADM_CHECKPOINT.file_name} FOLDER` made"
            )
        return folder
    if not is_hub_id(model):
        raise WeightsError(
            f"{model}: neither a known model ({', '.join((*EMBEDDED, ADM))}) nor a folder with a diffusers "
            "model nor an id on the hub (ORGANISATION/NAME)"
        )

    def complete(folder: Path) -> list[str]:
        return missing_files(folder, own_unet)

    unet = [] if own_unet else [f"unet/{STEM}*"]
    folder = hub_folder(model, revision, [*_SMALL, *_SAFE], unet, complete, download)
    if missing_files(folder, own_unet):  # old repositories have no safetensors
        folder = hub_folder(model, revision, [*_SMALL, *_PICKLED], unet, complete, download)
    missing = missing_files(folder, own_unet)
    if missing:
        raise WeightsError(f"{model}: not complete on the hub or in its cache: {missing[0]}")
    return folder


def text_encoder_folder(model: str, revision: str | None, folder: Path, download: bool = True) -> Path:
    """The folder with ``text_encoder`` and ``tokenizer``: ``folder``, after fetching them for a hub id."""
    if Path(model).expanduser().is_dir() or not is_hub_id(model):
        return folder

    def complete(found: Path) -> list[str]:
        words = [found / "tokenizer" / name for name in ("vocab.json", "tokenizer.json")]
        needed = {"text_encoder/model.safetensors": [found / "text_encoder" / "model.safetensors"]}
        needed["tokenizer/vocab.json"] = words
        return [f"{part} is missing" for part, any_of in needed.items() if not any(map(Path.is_file, any_of))]

    return hub_folder(model, revision, _TEXT, [], complete, download)


def weights_fingerprint(config: DIFTConfig) -> str:
    """SHA-256 over the UNet's weights, wherever they are."""
    if config.unet_file is not None:
        return sha256_of(unet_file(config.unet_file))
    folder = model_folder(config.model, config.revision)
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    return "-".join(sha256_of(path) for path in find_weights(unet))


def unet_file(name: str, revision: str | None = None, download: bool = True) -> Path:
    """A file of UNet weights, at a path or as ORG/REPO/FILE on the hub.

    Raises:
        WeightsError: when it is nowhere.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    found = _HUB_FILE.fullmatch(name)
    if found is None:
        raise WeightsError(f"{name}: no such file, and no ORGANISATION/REPOSITORY/FILE on the hub")
    repository, file = found[1], found[2]

    def complete(folder: Path) -> list[str]:
        return [] if (folder / file).is_file() else [f"{file} is missing"]

    return hub_folder(repository, revision, [file], [], complete, download) / file


def converted_folder(model: str) -> Path:
    """Where a converted model lies in the cache of geomatch."""
    return cache_folder() / "models" / model


def missing_files(folder: Path, own_unet: bool = True) -> list[str]:
    """What a diffusers folder lacks, in words; empty when it can be loaded."""
    pipeline = (folder / "unet").is_dir() or (folder / "model_index.json").is_file()
    unet = folder / "unet" if pipeline else folder
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

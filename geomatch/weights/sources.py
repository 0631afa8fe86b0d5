"""Where the weights of a model are: with the package, at a path, in a cache, on the hub."""

import importlib.resources
import re
from functools import partial
from pathlib import Path

from geomatch.errors import WeightsError
from geomatch.places import cached_path, user_path
from geomatch.weights.download import weights_at
from geomatch.weights.families import Family
from geomatch.weights.folders import PLACES, SMALL, TEXT_STEMS, missing_files, network_folder, weight_patterns
from geomatch.weights.hub import hub_folder, is_hub_id
from geomatch.weights.models import ADM, MODELS
from geomatch.weights.prompt import missing_parts, pipeline_of
from geomatch.weights.single_files import SUFFIXES, single_file_folder

EMBEDDED = ("dift-tiny",)  # models that come with the package
ADM_CHECKPOINT = weights_at(MODELS[ADM].source, MODELS[ADM].licence)
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+?)(?:@([\w./-]+))?")


def model_folder(
    model: str, revision: str | None = None, own_unet: bool = True, download: bool = True, fetch: str = ""
) -> Path:
    """The folder of a model, complete but for its text encoder, and the UNet's weights unless ``own_unet``.

    Looked for in this order: the models that come with the package, a folder or single file of that path,
    the cache of geomatch, the cache of huggingface_hub, the hub if ``download``. Errors advise to ``fetch``.
    """
    if model in EMBEDDED:
        return Path(str(importlib.resources.files("geomatch.weights") / model))
    path = user_path(model)
    if model and path.exists():
        path = _snapshot(path) if path.is_dir() else single_file_folder(path)
        missing = missing_files(path, own_unet)
        if missing:
            raise WeightsError(f"{path}: {missing[0]}; `geomatch models check {path}` says what there is")
        return path
    if model == ADM:
        folder = converted_folder(model)
        if missing_files(folder):
            raise WeightsError(
                f"{model}: not at {folder}; `geomatch models fetch {model}` downloads and converts it, or "
                f"--model FOLDER that `geomatch models convert-adm {ADM_CHECKPOINT.file_name} FOLDER` made"
            )
        return folder
    if not is_hub_id(model) or path.suffix.lower() in SUFFIXES:
        raise WeightsError(
            f"{model}: neither a known model ({', '.join((*EMBEDDED, ADM))}) nor a folder or file with a "
            "model nor an id on the hub (ORGANISATION/NAME)"
        )
    lacking = partial(missing_files, own_network=own_unet)
    kinds = [[*SMALL, *names] for names in weight_patterns(PLACES if own_unet else PLACES[-1:])]
    return hub_folder(model, revision, kinds, lacking, download, _way_out(fetch or model))


def _way_out(name: str, option: str = "--model FOLDER") -> str:
    return f"`geomatch models fetch {name}` where there is a network, or {option} of a copy"


def outline_folder(model: str, revision: str | None = None) -> Path:
    """A folder with at least the configurations of a model, which are all that is fetched from the hub."""
    path = user_path(model)
    if path.exists() or not is_hub_id(model):
        return _snapshot(path) if path.is_dir() else model_folder(model, revision)

    def missing(folder: Path) -> list[str]:
        config = network_folder(folder) / "config.json"
        return [] if config.is_file() else [f"{config.relative_to(folder)} is missing"]

    return hub_folder(model, revision, [SMALL], missing, way_out=_way_out(model))


def _snapshot(folder: Path) -> Path:
    """The snapshot in a repository's folder of the hub's cache; other folders are given back as they are."""
    if not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    every = [path.name for path in (folder / "snapshots").iterdir()]
    names = [main.read_text(encoding="utf-8").strip()] if main.is_file() else every
    if len(names) != 1:
        raise WeightsError(f"{folder}: no refs/main and {len(names)} snapshots; give the folder of one")
    return folder / "snapshots" / names[0]


def text_encoder_folder(
    model: str, revision: str | None, folder: Path, family: Family, download: bool = True
) -> Path:
    """The folder with text encoders and tokenizers: ``folder``, after fetching them for a hub id."""
    if user_path(model).exists() or not is_hub_id(model):
        return folder
    ends = pipeline_of(family, folder)[1]

    def missing(found: Path) -> list[str]:
        return [f"{part} is missing" for part in missing_parts(found, ends)]

    small = [name for end in ends for name in (f"text_encoder{end}/config.json", f"tokenizer{end}/*")]
    places = [f"text_encoder{end}/" for end in ends]
    kinds = [[*small, *names] for names in weight_patterns(places, TEXT_STEMS)]
    return hub_folder(model, revision, kinds, missing, download, _way_out(model))


def unet_file(name: str, download: bool = True) -> Path:
    """A file of UNet weights, at a path or as ORG/REPO/FILE or ORG/REPO/FILE@REVISION on the hub."""
    path = user_path(name)
    if path.is_file():
        return path
    found = _HUB_FILE.fullmatch(name)
    if found is None:
        raise WeightsError(f"{name}: no such file, and no ORGANISATION/REPOSITORY/FILE on the hub")
    repository, file, revision = found.groups()

    def missing(folder: Path) -> list[str]:
        return [] if (folder / file).is_file() else [f"{file} is missing"]

    way_out = _way_out(name, "--unet-file FILE")
    return hub_folder(repository, revision, [[file]], missing, download, way_out) / file


def converted_folder(model: str) -> Path:
    """Where a converted model lies in the cache of geomatch."""
    return cached_path(f"models/{model}")

"""Repositories on the Hugging Face hub: from its cache, else downloaded."""

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from geomatch.errors import WeightsError, first_line
from geomatch.files import fingerprint_of
from geomatch.places import hub_caches, user_path
from geomatch.weights.download import check_file, is_offline
from geomatch.weights.models import REMOVED

_TRANSFORMERS = ("config.json", "*.safetensors", "pytorch_model.bin")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(model: str) -> bool:
    """True if a name has the form ORGANISATION/NAME."""
    return _HUB_ID.fullmatch(model) is not None


def hub_folder(
    repository: str,
    revision: str | None,
    alternatives: Sequence[Sequence[str]],
    missing: Callable[[Path], list[str]],
    download: bool = True,
    way_out: str = "",
) -> Path:
    """A snapshot of a repository on the hub, from its cache if that is complete, else downloaded if allowed.

    Of lists of file patterns, the ``alternatives``, the next is tried when one leaves files ``missing``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    def snapshot(patterns: Sequence[str], cache: Path, local: bool) -> Path:
        found = snapshot_download(
            repository, revision=revision, cache_dir=cache, allow_patterns=[*patterns], local_files_only=local
        )
        return Path(found)

    wanted = f"{repository}{f' at {revision}' if revision else ''}"
    lacking: list[str] = []
    caches = hub_caches()
    for patterns, cache in product(alternatives, caches):
        try:
            cached = snapshot(patterns, cache, local=True)
        except FileNotFoundError as error:
            # the hub's own judgement of completeness counts files that are not needed here
            partial = getattr(error, "snapshot_path", None)
            if partial is None:
                continue
            cached = Path(partial)
        lacking = missing(cached)
        if not lacking:
            return cached
    advice = way_out or f"fetch {repository} where there is a network, or give the folder of a copy"
    if successor := REMOVED.get(repository):
        advice = f"the hub removed {repository}: use {successor}, or the folder of a copy that you have"
    if is_offline() or not download:
        reason = f": {lacking[0]}" if lacking else ""
        raise WeightsError(
            f"{wanted} is not in the cache of huggingface_hub{reason}, and downloads are off; {advice}"
        )
    try:
        for patterns in alternatives:
            folder = snapshot(patterns, caches[-1], local=False)
            lacking = missing(folder)
            if not lacking:
                for path in folder.rglob("*"):
                    check_file(path)
                return folder
    except GatedRepoError as error:
        raise WeightsError(
            f"{wanted}: accept its licence at https://huggingface.co/{repository} and log in: `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(f"{wanted}: the hub has no such model; {advice}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(f"{wanted}: cannot be downloaded ({first_line(error)}); {advice}") from error
    raise WeightsError(
        f"{wanted}: neither the hub (if it was reached) nor its cache has all files: {lacking[0]}; {advice}"
    )


def transformers_folder(model: str) -> Path:
    """The folder of a model of transformers: given, in the cache of the hub, or downloaded."""

    def missing(folder: Path) -> list[str]:
        if not (folder / "config.json").is_file():
            return ["config.json is missing"]
        weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
        return [] if weights else ["model.safetensors is missing"]

    folder = user_path(model)
    if not folder.is_dir() and is_hub_id(model):
        return hub_folder(model, None, [_TRANSFORMERS[:2], _TRANSFORMERS[::2]], missing)
    for lacking in missing(folder):
        raise WeightsError(f"{model}: no model of transformers, {lacking}")
    for path in folder.glob("*"):
        check_file(path)
    return folder


def transformers_fingerprint(model: str) -> str:
    """SHA-256 over all files of a model of transformers that decide its output."""
    folder = transformers_folder(model)
    return fingerprint_of(sorted(path for pattern in _TRANSFORMERS for path in folder.glob(pattern)))

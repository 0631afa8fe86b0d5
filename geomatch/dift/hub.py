"""Repositories on the Hugging Face hub: from its cache, else downloaded."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from geomatch.dift.presets import REMOVED
from geomatch.errors import WeightsError
from geomatch.weights import is_offline

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_UNUSED = ("*.fp16.*", "*non_ema*")


def is_hub_id(model: str) -> bool:
    """Whether a name has the form ORGANISATION/NAME."""
    return _HUB_ID.fullmatch(model) is not None


def hub_folder(
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    ignored: Sequence[str],
    missing: Callable[[Path], list[str]],
    download: bool = True,
) -> Path:
    """A snapshot of a repository on the hub, from its cache if that is complete, else downloaded.

    Downloads show their progress, go on where they were broken off and are
    checked by huggingface_hub.

    Raises:
        WeightsError: when it cannot be had, with the way out.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    def snapshot(local: bool) -> Path:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=[*_UNUSED, *ignored],
            local_files_only=local,
        )
        return Path(folder)

    wanted = f"{repository}{f' at {revision}' if revision else ''}"
    try:
        cached = snapshot(local=True)
        lacking = missing(cached)
        if not lacking:
            return cached
    except (LocalEntryNotFoundError, FileNotFoundError):
        lacking = []
    reason = f": {lacking[0]}" if lacking else ""
    successor = REMOVED.get(repository)
    advice = (
        f"the hub removed {repository}: use {successor}, or the folder of a copy that you have"
        if successor
        else f"fetch {repository} where there is a network, or give the folder of a copy"
    )
    if is_offline() or not download:
        raise WeightsError(
            f"{wanted} is not in the cache of huggingface_hub{reason}, and downloads are off; {advice}"
        )
    try:
        return snapshot(local=False)
    except RepositoryNotFoundError as error:
        raise WeightsError(f"{wanted}: the hub has no such model; {advice}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        words = str(error).strip().splitlines()[0]
        raise WeightsError(f"{wanted}: cannot be downloaded ({words}); {advice}") from error

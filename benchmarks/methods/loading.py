"""Networks of other authors from their published weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from geomatch.errors import WeightsError, first_line
from geomatch.weights.download import WeightsFile

XFEAT = "https://github.com/verlab/accelerated_features/raw/main/weights"


def weights_at(url: str, licence: str) -> WeightsFile:
    """A file of weights; no author publishes a checksum."""
    return WeightsFile(file_name=url.rpartition("/")[2], url=url, licence=licence, sha256=None)


def load_network(name: str, paths: Sequence[Path], build: Callable[[list[Any]], Any], device: str) -> Any:
    """The network that ``build`` makes of the files' contents, for inference on a device."""
    try:
        network = build([torch.load(path, map_location="cpu", weights_only=True) for path in paths])
    except Exception as error:  # unpickling and loading raise many types
        raise WeightsError(f"{paths[0]} does not hold weights of {name} ({first_line(error)})") from error
    return network.eval().to(device)

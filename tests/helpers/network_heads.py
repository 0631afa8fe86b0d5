"""Files of projection heads that are networks, as the package's own were written."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from geomatch.dift.head.projection import KINDS, NetworkHead
from geomatch.weights.folders import HEAD_FILES
from geomatch.weights.tensors import save_tensors

_PLAN = ("maps", "width", "widths", "dimension")  # what they are made of


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as float16; vectors are few, and variances may leave its range."""
    return {name: (t.half() if t.ndim > 1 else t).contiguous() for name, t in tensors.items()}


def save_network_head(head: NetworkHead, folder: Path) -> None:
    """Write it into a folder, convolutions as float16."""
    kind = next(kind for kind, network in KINDS.items() if isinstance(head.network, network))
    made = {name: getattr(head.network, name) for name in _PLAN if hasattr(head.network, name)}
    values = {"kind": {"kind": kind} | made, "settings": head.settings, "training": head.training}
    metadata = {name: json.dumps(dict(value)) for name, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HEAD_FILES[head.settings.get("sampling", "patch")]
    save_tensors(path, halved(head.network.state_dict()), metadata)

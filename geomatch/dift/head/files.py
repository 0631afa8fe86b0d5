"""The file of a projection head."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from geomatch.weights.folders import HEAD_FILE
from geomatch.weights.tensors import save_tensors


def save_head(
    folder: Path,
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
    kind: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write it into a folder, which is made; matrices become float16."""
    # vectors stay as they are: they are few, and variances may leave the range of float16
    halved = {name: t.half().contiguous() if t.ndim > 1 else t for name, t in tensors.items()}
    values = {"kind": kind, "settings": settings, "training": training}
    metadata = {name: json.dumps(dict(value)) for name, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / HEAD_FILE, halved, metadata)

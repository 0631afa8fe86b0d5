"""Checkpoints of a training, bound to its configuration."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geomatch.files import replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def save_checkpoint(
    path: Path, config: "DataclassInstance", parts: Mapping[str, Any], step: int, log: object
) -> None:
    """Write the state of every part, with the configuration, the steps done and the log."""
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        torch.save(state | {"config": asdict(config), "step": step, "log": log}, temporary)


def resume(
    path: Path, config: "DataclassInstance", parts: Mapping[str, Any], device: str = "cpu"
) -> tuple[int, list[Any]]:
    """Put the parts into the state of a checkpoint, if there is one; the steps done and the log.

    Raises:
        ValueError: when the checkpoint was made with another configuration.
    """
    if not path.exists():
        return 0, []
    saved = torch.load(path, map_location=device, weights_only=True)
    if saved["config"] != asdict(config):
        raise ValueError(
            f"{path} was made with {saved['config']}, not {asdict(config)}; "
            "train into another folder or delete it"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"], saved["log"]

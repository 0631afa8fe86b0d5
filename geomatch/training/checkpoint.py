"""The loop of a training, and its checkpoints, bound to its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from geomatch.files import replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def take_steps(
    path: Path,
    config: "DataclassInstance",
    parts: Mapping[str, Any],
    steps: int,
    take: Callable[[int], float],
    entry: Callable[[int, float], Any],
    every: int,
    what: str,
    progress: bool,
    device: str = "cpu",
) -> list[Any]:
    """Take the optimiser steps that a checkpoint leaves to take, with a new one now and then; the log.

    Args:
        path: of the checkpoint.
        config: it is bound to this.
        parts: whose state it holds.
        steps: in all.
        take: one step by its number, from 0; returns the loss.
        entry: of the log, from the steps done and the mean loss since the entry before.
        every: so many steps there is an entry and a checkpoint, and at the end.
        what: for the bar.
        progress: show it.
        device: of the parts.

    Raises:
        ValueError: when the checkpoint was made with another configuration.
    """
    start, log = resume(path, config, parts, device)
    recent: list[float] = []
    bar = tqdm(range(start, steps), initial=start, total=steps, unit="step", desc=what, disable=not progress)
    for step in bar:
        recent.append(take(step))
        if (step + 1) % every == 0 or step + 1 == steps:
            log.append(entry(step + 1, float(np.mean(recent))))
            bar.set_postfix_str(str(log[-1]))
            recent = []
            save_checkpoint(path, config, parts, step + 1, log)
    return log


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

"""The loop of a training, and its checkpoints, bound to its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from geomatch.errors import WeightsError, first_line, reading
from geomatch.files import replacing
from geomatch.weights.download import check_file

EVERY = 100  # steps between two checkpoints
Log = dict[str, float]


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """A training's state on disk: every part's ``state_dict``; with another configuration it is refused."""

    path: Path
    config: Any  # a dataclass
    parts: Mapping[str, Any]
    device: str = "cpu"

    def save(self, step: int, log: object) -> None:
        """Write the parts, with the configuration, the steps done and the log."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        with replacing(self.path) as temporary:
            torch.save(state | {"config": asdict(self.config), "step": step, "log": log}, temporary)

    def resume(self) -> tuple[int, list[Log]]:
        """Put the parts into the saved state, if there is one; the steps done and the log."""
        if not self.path.exists():
            return 0, []
        saved = read_checkpoint(self.path, self.device)
        with reading(self.path, "checkpoint of a training", WeightsError):
            if saved["config"] != asdict(self.config):
                raise WeightsError(
                    f"{self.path} was made with {saved['config']}, not {asdict(self.config)}; "
                    "train into another folder or delete it"
                )
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
            return int(saved["step"]), list(saved["log"])


def read_checkpoint(path: Path, device: str = "cpu") -> Any:
    """What `Checkpoint.save` wrote; raises `WeightsError` when it is damaged."""
    try:
        check_file(path)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch and pickle raise many types
        raise WeightsError(
            f"{path}: damaged checkpoint ({first_line(error)}); delete it to train from the start"
        ) from error


def take_steps(
    checkpoint: Checkpoint,
    loss: Callable[[int], Tensor],
    bar: str,
    watched: Callable[[], Log] = dict,
) -> list[Log]:
    """Take the configuration's ``steps`` that are left, with the checkpoint's optimiser and schedule.

    ``loss`` gives the loss of a step by its number, from 0. Returns the log: `EVERY` so many steps and at the
    end the steps done, the mean loss since the entry before, and what is ``watched``.
    """
    optimiser, schedule = checkpoint.parts["optimiser"], checkpoint.parts["schedule"]
    steps: int = checkpoint.config.steps
    start, log = checkpoint.resume()
    recent: list[float] = []
    shown = tqdm(range(start, steps), initial=start, total=steps, unit="step", desc=bar)
    for step in shown:
        found = loss(step)
        optimiser.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        recent.append(found.item())
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            log.append({"step": step + 1, "loss": round(float(np.mean(recent)), 4)} | watched())
            shown.set_postfix_str(str(log[-1]))
            recent = []
            checkpoint.save(step + 1, log)
    return log

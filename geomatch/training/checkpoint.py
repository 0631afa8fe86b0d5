"""The loop of every training, and its checkpoints, bound to its configuration."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from geomatch.errors import WeightsError, first_line, reading
from geomatch.files import replacing
from geomatch.isolation import isolated
from geomatch.stream import ahead
from geomatch.weights.download import check_file

EVERY = 100  # steps between two checkpoints
Log = dict[str, float]
Network = TypeVar("Network", bound=nn.Module)
Drawn = TypeVar("Drawn")


@torch.random.fork_rng(devices=[])
@isolated(gradients=True)
def train(
    new_network: Callable[[], Network],
    config: Any,
    path: Path,
    draw: Callable[[np.random.Generator], Drawn],
    loss: Callable[[Network, Drawn], Tensor],
    watched: Callable[[Network], Log] | None = None,
    warm: float = 0.1,
) -> tuple[Network, list[Log]]:
    """Take the ``steps`` of a configuration, or those that are left after the checkpoint ``path``.

    A step depends on its number and the ``seed`` of the configuration, a dataclass, alone, so that a training
    that was interrupted ends as if undisturbed; what a step sees is drawn ahead, in threads. The optimiser is
    AdamW, its ``learning_rate`` the peak of a one-cycle cosine schedule, at the share ``warm`` of the steps.
    Returns the network in evaluation mode, and the log: `EVERY` so many steps and at the end the steps done,
    the mean loss since the entry before, and what is ``watched``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.default_generator.manual_seed(config.seed)
    network = new_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=warm
    )
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser, "schedule": schedule}
    start, log = _resume(path, config, parts)
    recent: list[float] = []
    left = range(start, config.steps)
    with closing(ahead(lambda step: draw(np.random.default_rng([config.seed, step])), left)) as batches:
        shown = tqdm(batches, initial=start, total=config.steps, unit="step", desc=path.stem)
        for done, batch in enumerate(shown, start + 1):
            torch.default_generator.manual_seed(config.seed * 1_000_003 + done - 1)  # dropout
            found = loss(network.train(), batch)
            optimiser.zero_grad()
            found.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            recent.append(found.item())
            if done % EVERY == 0 or done == config.steps:
                also = watched(network.eval()) if watched else {}
                log.append({"step": done, "loss": round(float(np.mean(recent)), 4)} | also)
                shown.set_postfix_str(str(log[-1]))
                recent = []
                state = {name: part.state_dict() for name, part in parts.items()}
                with replacing(path) as temporary:
                    torch.save(state | {"config": asdict(config), "step": done, "log": log}, temporary)
    return network.eval(), log


def _resume(path: Path, config: Any, parts: Mapping[str, Any]) -> tuple[int, list[Log]]:
    """Put the parts into the saved state, if there is one; the steps done and the log."""
    if not path.exists():
        return 0, []
    saved = read_checkpoint(path, next(parts["network"].parameters()).device)
    with reading(path, "checkpoint of a training", WeightsError):
        if saved["config"] != asdict(config):
            raise WeightsError(
                f"{path} was made with {saved['config']}, not {asdict(config)}; "
                "train into another folder or delete it"
            )
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return int(saved["step"]), list(saved["log"])


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any:
    """What `train` wrote; raises `WeightsError` when it is damaged."""
    try:
        check_file(path)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch and pickle raise many types
        raise WeightsError(
            f"{path}: damaged checkpoint ({first_line(error)}); delete it to train from the start"
        ) from error

"""Train a network to describe both patches of a pair alike, and patches of other places otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from geomatch.isolation import isolated
from geomatch.training import linear_head
from geomatch.training.bank import Rows
from geomatch.training.checkpoint import Checkpoint, Log, take_steps

NEAR = 8.0  # pixels within which two keypoints of a view may be one place, and are no negatives of each other
Network = TypeVar("Network", bound=nn.Module)
DrawnBatch = TypeVar("DrawnBatch", bound="Batch")


class _Settings(Protocol):
    """The part of a training's settings, a dataclass, that the loop reads."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Pairs of patches that a step sees."""

    patches: NDArray[np.uint8]  # (2N, S, S, 3), those of the first views, then those of the second
    points: NDArray[np.float32]  # (N, 2, 2) pixels in both views
    views: NDArray[np.int64]  # (N,) numbers of the pairs of views


@torch.random.fork_rng(devices=[])
@isolated(gradients=True)
def train_on_pairs(
    new_network: Callable[[], Network],
    describe: Callable[[Network, NDArray[np.uint8]], Tensor],
    draw: Callable[[np.random.Generator], DrawnBatch],
    config: _Settings,
    path: Path,
    bar: str,
    validation: Sequence[Rows] = (),
    beside: Callable[[DrawnBatch, Tensor], Tensor] | None = None,
) -> Network:
    """Train on the pairs that ``draw`` gives, or go on from the checkpoint ``path``; in evaluation mode.

    The loss is the cross-entropy of finding the partner among the batch, both ways (InfoNCE; van den Oord
    et al., 2018), and ``beside``, if given, of the batch and the rows (2N, D) that ``describe`` gives for its
    patches. The rank-1 accuracy on the ``validation`` views is logged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.default_generator.manual_seed(config.seed)
    network = new_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser, "schedule": schedule}

    def loss(step: int) -> Tensor:
        torch.default_generator.manual_seed(config.seed * 1_000_003 + step)  # dropout
        batch = draw(np.random.default_rng([config.seed, step]))
        network.train()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache outlives a caller's steps
            found = describe(network, batch.patches).float()
        total = pair_loss(found, batch.points, batch.views, config.temperature)
        return total if beside is None else total + beside(batch, found)

    def watched() -> Log:
        network.eval()
        return {"rank1": round(rank1(lambda patches: describe(network, patches), validation), 4)}

    take_steps(Checkpoint(path, config, parts), loss, bar, watched if validation else dict)
    return network.eval()


def draw_batch(bank: Sequence[Rows], views: int, per_view: int, rng: np.random.Generator) -> Batch:
    """Up to ``per_view`` pairs from each of so many pairs of views, turned and mirrored alike at random."""
    rows, numbers = draw_rows([bank[k] for k in rng.permutation(len(bank))[:views]], per_view, rng)
    patches = augmented(rows["patches"], rng)
    return Batch(np.concatenate([patches[:, 0], patches[:, 1]]), rows["points"], numbers)


def patch_tensor(patches: NDArray[np.uint8]) -> Tensor:
    """(N, 3, S, S) float32 of values 0 to 255 from (N, S, S, 3)."""
    return torch.tensor(np.asarray(patches)).permute(0, 3, 1, 2).float()


def draw_rows(
    views: Sequence[Rows], per_view: int, rng: np.random.Generator
) -> tuple[Rows, NDArray[np.int64]]:
    """At most so many rows of each, and the place of the view that each row comes from."""
    drawn = [rows[np.sort(rng.permutation(len(rows))[:per_view])] for rows in views]
    return np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])


def pair_loss(
    descriptors: Tensor, points: NDArray[np.floating], views: NDArray[np.integer], temperature: float
) -> Tensor:
    """Cross-entropy of every descriptor's partner among all, the mean of both directions.

    ``descriptors`` (2N, D) are those of the first views, then of the second; ``points`` (N, 2, 2) pixels in
    both views, of which neighbours within `NEAR` do not compete; ``views`` (N,) the numbers of the pairs.
    """
    count = len(points)
    scores = descriptors[:count] @ descriptors[count:].T / temperature
    same = views[:, None] == views[None]
    near = (np.linalg.norm(points[:, None] - points[None], axis=-1) < NEAR).any(-1) & same
    np.fill_diagonal(near, False)
    scores = scores.masked_fill(torch.from_numpy(near), -1e4)
    target = torch.arange(count)
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


@isolated()
def rank1(describe: Callable[[NDArray[np.uint8]], Tensor], views: Sequence[Rows]) -> float:
    """Share of first-view patches whose nearest among their view pair's second patches is their partner.

    ``describe`` takes patches (N, S, S, 3) to rows (N, D).
    """
    parts = []
    for rows in views:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            first, second = (describe(rows["patches"][:, side]).float() for side in (0, 1))
        parts.append((first.numpy(), second.numpy(), np.zeros(len(rows), np.int64)))
    return linear_head.rank1(parts)


def augmented(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 2, S, S, 3) turned by quarter turns and mirrored, each pair alike."""
    turned = patches.copy()
    turns, mirrored = rng.integers(4, size=len(patches)), rng.random(len(patches)) < 0.5
    for turn in range(1, 4):
        turned[turns == turn] = np.rot90(patches[turns == turn], turn, axes=(2, 3))
    turned[mirrored] = turned[mirrored][:, :, :, ::-1]
    return turned

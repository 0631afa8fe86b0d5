"""Train the convolutional projection head on a bank of corresponding patches, resumable at any checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.projection import ConvolutionalHead, HeadNetwork
from geomatch.errors import GeomatchError
from geomatch.isolation import isolated
from geomatch.training import linear_head
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.checkpoint import Checkpoint, read_checkpoint, take_steps
from geomatch.training.linear_head import FittedHead

CHECKPOINT = "head.pt"
EVERY = 100  # steps between two checkpoints
HELD_OUT = 20  # one image in so many is not trained on
NEAR = 8.0  # pixels within which two keypoints of a view may be one place, and are no negatives of each other


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Everything that decides the head's weights, besides network and bank."""

    widths: tuple[int, ...] = (64, 128)  # channels after each halving
    dimension: int = 128
    views: int = 4  # pairs of views in a batch: negatives of the same view are those that matching meets
    per_view: int = 128  # corresponding keypoints taken of each at most
    steps: int = 2000
    learning_rate: float = 2e-3  # peak of the one-cycle cosine schedule
    temperature: float = 0.05
    seed: int = 0


def train_head(
    config: DIFTConfig,
    images: Sequence[BankImage],
    work: Path,
    settings: HeadConfig = HeadConfig(),
    patches: Path | None = None,
    workers: int = 2,
    progress: bool = True,
) -> FittedHead:
    """Make the bank and train the head of a model that describes patches; a second call goes on.

    ``work`` holds the checkpoint and, unless ``patches`` names a folder that trainings share, the bank, which
    ``workers`` processes make. Raises `GeomatchError` when the images give no pairs.
    """
    if config.sampling != "patch":
        raise ValueError("a head can be trained for sampling='patch' only; dense maps have the fitted one")
    bank = PatchBank(patches or work / "patches", config.patch_size, config.patch_scale)
    unreadable = make_bank(bank, images, workers, progress)
    images = [image for image in images if image not in unreadable]
    used, watched = split_images(images)
    views, watched_views = load_bank(bank, used), load_bank(bank, watched)
    if not views:
        raise GeomatchError(
            f"{len(used)} images gave no pairs of keypoints: give photographs with something to find"
        )
    extractor = DIFTExtractor(replace(config, head=False))
    network = train_network(extractor, views, settings, work, watched_views[:100], progress)
    log = read_checkpoint(work / CHECKPOINT)["log"]
    training = {
        "model": config.model,
        "images": [image.sha256 for image in used],
        "pairs": sum(len(rows) for rows in views),
        "head": asdict(settings),
        "log": log,
    }
    head = ConvolutionalHead(network, config.feature_settings(), training)
    skipped = {str(image.path): reason for image, reason in unreadable.items()}
    return FittedHead(head, len(used), skipped, training["pairs"], None, log[-1].get("rank1"))


def split_images(images: Sequence[BankImage]) -> tuple[list[BankImage], list[BankImage]]:
    """The images to train on, and one of `HELD_OUT` that is only watched."""
    watched = list(images[::HELD_OUT]) if len(images) >= HELD_OUT else []
    return [image for image in images if image not in watched], watched


@torch.random.fork_rng(devices=[])
@isolated(gradients=True)
def train_network(
    extractor: DIFTExtractor,
    bank: Sequence[Rows],
    config: HeadConfig,
    out: Path,
    validation: Sequence[Rows] = (),
    progress: bool = True,
) -> HeadNetwork:
    """Train on frozen activations of the bank's pairs of views, or go on from ``out/head.pt``.

    The loss is the cross-entropy of finding the partner among the batch, both ways (InfoNCE; van den Oord
    et al., 2018). The rank-1 accuracy on the ``validation`` views is logged.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.default_generator.manual_seed(config.seed)
    sides = [(layer.shape[1], layer.shape[2]) for layer in _maps(extractor, bank[0]["patches"][:1, 0])]
    network = HeadNetwork(sides, config.widths, config.dimension)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    parts: dict[str, Any] = {"head": network, "optimiser": optimiser, "schedule": schedule}

    def take(step: int) -> float:
        torch.default_generator.manual_seed(config.seed * 1_000_003 + step)  # dropout
        patches, points, views = draw_batch(bank, config, np.random.default_rng([config.seed, step]))
        network.train()
        maps = _maps(extractor, patches)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache outlives a caller's steps
            found = network(maps)
        loss = pair_loss(found.float(), points, views, config.temperature)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        return loss.item()

    def entry(done: int, loss: float) -> dict[str, float]:
        found: dict[str, float] = {"step": done, "loss": round(loss, 4)}
        if validation:
            network.eval()
            found["rank1"] = round(rank1(lambda p: network(_maps(extractor, p)), validation), 4)
        return found

    checkpoint = Checkpoint(out / CHECKPOINT, config, parts)
    take_steps(checkpoint, config.steps, take, entry, EVERY, "projection head" if progress else None)
    return network.eval()


class _Batch(Protocol):
    """The part of a training's settings that says what is drawn."""

    @property
    def views(self) -> int: ...
    @property
    def per_view(self) -> int: ...


def draw_batch(
    bank: Sequence[Rows], config: _Batch, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Patches (2N, S, S, 3), of first views, then of second; points and views as of `pair_loss`.

    Both patches of a pair are turned and mirrored alike at random.
    """
    chosen = [bank[k] for k in rng.permutation(len(bank))[: config.views]]
    drawn = [rows[np.sort(rng.permutation(len(rows))[: config.per_view])] for rows in chosen]
    rows, views = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
    patches = _augmented(rows["patches"], rng)
    return np.concatenate([patches[:, 0], patches[:, 1]]), rows["points"], views


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


def _maps(extractor: DIFTExtractor, patches: NDArray[np.uint8]) -> Sequence[Tensor]:
    tensor = torch.tensor(np.asarray(patches)).permute(0, 3, 1, 2).float()
    # copies, since tensors of inference mode cannot be differentiated through
    return [layer.float().clone() for layer in extractor.patch_maps(tensor)]


def _augmented(patches: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 2, S, S, 3) turned by quarter turns and mirrored, each pair alike."""
    turned = patches.copy()
    turns, mirrored = rng.integers(4, size=len(patches)), rng.random(len(patches)) < 0.5
    for turn in range(1, 4):
        turned[turns == turn] = np.rot90(patches[turns == turn], turn, axes=(2, 3))
    turned[mirrored] = turned[mirrored][:, :, :, ::-1]
    return turned

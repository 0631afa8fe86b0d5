"""Train the convolutional projection head on a bank of corresponding patches, resumable at any checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.projection import HeadNetwork, NetworkHead
from geomatch.errors import GeomatchError
from geomatch.files import digest_of
from geomatch.isolation import isolated
from geomatch.training import linear_head
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.checkpoint import Log, train
from geomatch.training.linear_head import FittedHead

CHECKPOINT = "head.pt"
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
) -> FittedHead:
    """Make the bank and train the head of a model that describes patches; a second call goes on.

    ``work`` holds the checkpoint and the bank. Raises `GeomatchError` when the images give no pairs.
    """
    if config.sampling != "patch":
        raise ValueError("a head can be trained for sampling='patch' only; maps have --dense")
    bank = PatchBank(work / "patches", config.patch_size, config.patch_scale)
    unreadable = make_bank(bank, images)
    images = [image for image in images if image not in unreadable]
    used, watched = split_images(images)
    views, watched_views = load_bank(bank, used), load_bank(bank, watched)
    if not views:
        raise GeomatchError(
            f"{len(used)} images gave no pairs of keypoints: give photographs with something to find"
        )
    extractor = DIFTExtractor(replace(config, head=False))
    place = checkpoint_folder(work, config, images)
    network, log = train_network(extractor, views, settings, place, watched_views[:100])
    return trained_head(network, config, settings, used, sum(map(len, views)), log, unreadable)


def checkpoint_folder(work: Path, config: DIFTConfig, images: Sequence[BankImage]) -> Path:
    """Where the training of these images for this model goes on; others have other folders."""
    seen = [[image.sha256, image.views] for image in images]
    folder = work / digest_of([config.model, config.feature_settings(), seen])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def trained_head(
    network: HeadNetwork | DenseNetwork,
    config: DIFTConfig,
    settings: Any,
    used: Sequence[BankImage],
    pairs: int,
    log: Sequence[Log],
    unreadable: Mapping[BankImage, str],
) -> FittedHead:
    """The head with its record, and what its training logged last; ``settings`` are a dataclass."""
    images = [image.sha256 for image in used]
    training = {
        "model": config.model, "images": images, "pairs": pairs, "head": asdict(settings), "log": log
    }  # fmt: skip
    head = NetworkHead(network, config.feature_settings(), training)
    skipped = {str(image.path): reason for image, reason in unreadable.items()}
    return FittedHead(head, len(used), skipped, pairs, None, log[-1].get("rank1"))


def split_images(images: Sequence[BankImage]) -> tuple[list[BankImage], list[BankImage]]:
    """The images to train on, and one of `HELD_OUT` that is only watched."""
    watched = list(images[::HELD_OUT]) if len(images) >= HELD_OUT else []
    return [image for image in images if image not in watched], watched


def train_network(
    extractor: DIFTExtractor,
    bank: Sequence[Rows],
    config: HeadConfig,
    out: Path,
    validation: Sequence[Rows] = (),
) -> tuple[HeadNetwork, list[Log]]:
    """Train on frozen activations of the bank's pairs of views, or go on from ``out/head.pt``."""

    def new_network() -> HeadNetwork:
        sides = [(layer.shape[1], layer.shape[2]) for layer in _maps(extractor, bank[0]["patches"][:1, 0])]
        return HeadNetwork(sides, config.widths, config.dimension)

    def loss(network: HeadNetwork, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache outlives a caller's steps
            found = network(_maps(extractor, batch.patches)).float()
        return pair_loss(found, batch.points, batch.views, config.temperature)

    def watched(network: HeadNetwork) -> Log:
        return {"rank1": round(rank1(lambda patches: network(_maps(extractor, patches)), validation), 4)}

    draw = partial(draw_batch, bank, config.views, config.per_view)
    return train(new_network, config, out / CHECKPOINT, draw, loss, watched if validation else None)


def _maps(extractor: DIFTExtractor, patches: NDArray[np.uint8]) -> Sequence[Tensor]:
    tensor = torch.tensor(np.asarray(patches)).permute(0, 3, 1, 2).float()
    # copies, since tensors of inference mode cannot be differentiated through
    return [layer.float().clone() for layer in extractor.patch_maps(tensor)]


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Pairs of patches that a step sees."""

    patches: NDArray[np.uint8]  # (2N, S, S, 3), those of the first views, then those of the second
    points: NDArray[np.float32]  # (N, 2, 2) pixels in both views
    views: NDArray[np.int64]  # (N,) numbers of the pairs of views


def draw_batch(bank: Sequence[Rows], views: int, per_view: int, rng: np.random.Generator) -> Batch:
    """Up to ``per_view`` pairs from each of so many pairs of views, turned and mirrored alike at random."""
    chosen = [bank[k] for k in rng.permutation(len(bank))[:views]]
    drawn = [rows[np.sort(rng.permutation(len(rows))[:per_view])] for rows in chosen]
    rows, numbers = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])
    patches = augmented(rows["patches"], rng)
    return Batch(np.concatenate([patches[:, 0], patches[:, 1]]), rows["points"], numbers)


def pair_loss(
    descriptors: Tensor, points: NDArray[np.floating], views: NDArray[np.integer], temperature: float
) -> Tensor:
    """Cross-entropy of every descriptor's partner among all, the mean of both directions.

    InfoNCE (van den Oord et al., 2018). ``descriptors`` (2N, D) are those of the first views, then of the
    second; ``points`` (N, 2, 2) pixels in both views, of which neighbours within `NEAR` do not compete;
    ``views`` (N,) the numbers of the pairs.
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

"""Train the convolutional projection head on a bank of corresponding patches, resumable at any checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.projection import HeadNetwork, NetworkHead
from geomatch.errors import GeomatchError
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.checkpoint import read_checkpoint
from geomatch.training.linear_head import FittedHead
from geomatch.training.pair_loop import draw_batch, patch_tensor, train_on_pairs

CHECKPOINT = "head.pt"
HELD_OUT = 20  # one image in so many is not trained on


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
    network = train_network(extractor, views, settings, work, watched_views[:100])
    log = read_checkpoint(work / CHECKPOINT)["log"]
    training = {
        "model": config.model,
        "images": [image.sha256 for image in used],
        "pairs": sum(len(rows) for rows in views),
        "head": asdict(settings),
        "log": log,
    }
    head = NetworkHead(network, config.feature_settings(), training)
    skipped = {str(image.path): reason for image, reason in unreadable.items()}
    return FittedHead(head, len(used), skipped, training["pairs"], None, log[-1].get("rank1"))


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
) -> HeadNetwork:
    """Train on frozen activations of the bank's pairs of views, or go on from ``out/head.pt``."""

    def new_network() -> HeadNetwork:
        sides = [(layer.shape[1], layer.shape[2]) for layer in _maps(extractor, bank[0]["patches"][:1, 0])]
        return HeadNetwork(sides, config.widths, config.dimension)

    def describe(network: HeadNetwork, patches: NDArray[np.uint8]) -> Tensor:
        return network(_maps(extractor, patches))  # type: ignore[no-any-return]

    draw = partial(draw_batch, bank, config.views, config.per_view)
    return train_on_pairs(
        new_network, describe, draw, config, out / CHECKPOINT, "projection head", validation
    )


def _maps(extractor: DIFTExtractor, patches: NDArray[np.uint8]) -> Sequence[Tensor]:
    # copies, since tensors of inference mode cannot be differentiated through
    return [layer.float().clone() for layer in extractor.patch_maps(patch_tensor(patches))]

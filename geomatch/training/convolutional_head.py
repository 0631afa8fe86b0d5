"""Train the convolutional projection head on a bank of corresponding patches, resumable at any checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.projection import HeadNetwork, NetworkHead
from geomatch.errors import GeomatchError
from geomatch.files import digest_of
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.checkpoint import Log, read_checkpoint
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
    place = checkpoint_folder(work, config, images)
    network = train_network(extractor, views, settings, place, watched_views[:100])
    log = read_checkpoint(place / CHECKPOINT)["log"]
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

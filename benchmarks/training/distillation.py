"""Train a small network over patches to give the descriptors of a diffusion model with its projection head.

The loss is that of the projection head, which makes partners find each other, and beside it the cosine
distance to what model and head say of the same patches (Hinton, Vinyals, Dean, 2015, with descriptors in
place of class probabilities). The network sees what the head was not trained on: planes from an oblique view,
and patches of which a part is another place, as at the edge of an object.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.distilled import LAST, UNSHUFFLE, PatchNetwork, convolutions
from geomatch.dift.head.projection import NetworkHead
from geomatch.dift.inputs import network_patches
from geomatch.synthetic import Motion
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.convolutional_head import (
    Batch,
    augmented,
    draw_rows,
    patch_tensor,
    split_images,
    train_on_pairs,
)

CHECKPOINT = "distilled.pt"


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """Everything that decides the small network's weights, besides model, head and bank."""

    widths: tuple[int, ...] = (32, 64, 128)  # channels of each level
    views: int = 6  # pairs of views in a batch
    per_view: int = 128  # corresponding keypoints taken of each at most
    tilted: float = 0.4  # share of the pairs of views with a tilted plane
    occluded: float = 0.25  # share of the patches of which a part is another's
    steps: int = 9000
    learning_rate: float = 1.5e-3  # peak of the one-cycle cosine schedule
    temperature: float = 0.05
    imitation: float = 1.0  # weight of the cosine distance to the descriptors that are imitated
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Patches(Batch):
    """A batch, and what it was made of."""

    plain: NDArray[np.uint8]  # (2N, S, S, 3) without occlusions
    turned: NDArray[np.bool_]  # (N,) True where patches were turned or mirrored


class Learner(nn.Module):
    """`PatchNetwork` with batch normalisation, which training needs, and dropout before the last layer."""

    def __init__(self, widths: Sequence[int], dimension: int) -> None:
        super().__init__()
        blocks = [(*shape, 3, 1) for shape in convolutions(widths)] + [(widths[-1], dimension, 1, LAST, 0)]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, side, stride, border, bias=False, dtype=torch.float32),
                nn.BatchNorm2d(outputs, affine=index + 1 < len(blocks), dtype=torch.float32),
            )
            for index, (inputs, outputs, stride, side, border) in enumerate(blocks)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """As `PatchNetwork.forward`."""
        x = functional.pixel_unshuffle(patches, UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        for block in self.blocks[:-1]:
            x = functional.relu(block(x))
        x = self.blocks[-1](functional.dropout(x, 0.1, self.training))
        return functional.normalize(x.flatten(1), dim=1)

    def folded(self, widths: Sequence[int], dimension: int) -> PatchNetwork:
        """The same in evaluation, with the normalisations in the weights."""
        network = PatchNetwork(widths, dimension).eval()
        fused = [fuse_conv_bn_eval(*block.eval()) for block in self.blocks]
        for layer, own in zip(network.layers, fused, strict=False):
            layer.load_state_dict(own.state_dict())
        rows = fused[-1].weight.permute(0, 2, 3, 1).flatten(1)  # the order that channels_last has
        network.last.load_state_dict({"weight": rows, "bias": fused[-1].bias})
        return network.requires_grad_(False)


def distilled(
    config: DIFTConfig,
    images: Sequence[BankImage],
    tilted: Sequence[BankImage],
    work: Path,
    settings: DistillationConfig,
) -> NetworkHead:
    """Distil a model that describes patches with a projection head; a second call goes on.

    ``images`` and ``tilted`` are the photographs with their numbers of views, plain and of tilted planes;
    ``work`` holds the checkpoint and the banks.
    """
    motions: tuple[tuple[Motion, ...], ...] = (("upright", "rotated"), ("tilted",))
    banks, validation = [], list[Rows]()
    for own, seen in zip((images, tilted), motions, strict=True):
        bank = PatchBank(work / "patches", config.patch_size, config.patch_scale, seen)
        make_bank(bank, own)
        used, watched = split_images(own)
        banks.append(load_bank(bank, used))
        validation += load_bank(bank, watched)[:50]
    return distil(DIFTExtractor(config), banks[0], banks[1], settings, work, validation)


def distil(
    extractor: DIFTExtractor,
    bank: Sequence[Rows],
    tilted: Sequence[Rows],
    config: DistillationConfig,
    out: Path,
    validation: Sequence[Rows] = (),
) -> NetworkHead:
    """Train on the banks' pairs of views, or go on from ``out/distilled.pt``.

    The ``extractor`` describes patches with its projection head. The rank-1 accuracy on the ``validation``
    views is logged.
    """
    dimension = extractor.dimension

    def new_network() -> Learner:
        return Learner(config.widths, dimension).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def describe(learner: Learner, patches: NDArray[np.uint8]) -> Tensor:
        return learner(network_patches(patch_tensor(patches)))  # type: ignore[no-any-return]

    def imitation(batch: Patches, found: Tensor) -> Tensor:
        """Both patches of a place should have the mean of the descriptors of both."""
        known = ~np.concatenate([batch.turned, batch.turned])  # the head knows what is upright best
        first, second = extractor.patch_rows(patch_tensor(batch.plain[known])).chunk(2)
        wanted = functional.normalize(first + second, dim=1).repeat(2, 1)
        return config.imitation * (1 - (found[torch.from_numpy(known)] * wanted).sum(1)).mean()

    draw = partial(draw_patches, bank, tilted, config)
    learner, log = train_on_pairs(
        new_network, describe, draw, config, out / CHECKPOINT, validation, imitation
    )
    training = {**(extractor.head.training if extractor.head else {}), "distillation": asdict(config)}
    training |= {"distillation_pairs": sum(map(len, (*bank, *tilted))), "distillation_log": log}
    network = learner.folded(config.widths, dimension)
    return NetworkHead(network, extractor.config.feature_settings(), training)


def draw_patches(
    bank: Sequence[Rows], tilted: Sequence[Rows], config: DistillationConfig, rng: np.random.Generator
) -> Patches:
    """A batch of both banks; half of the pairs are turned and mirrored alike at random."""
    banks = [tilted if rng.random() < config.tilted else bank for _ in range(config.views)]
    chosen = [views[rng.integers(len(views))] for views in banks]
    rows, views = draw_rows(chosen, config.per_view, rng)
    patches, turned = rows["patches"].copy(), rng.random(len(rows)) < 0.5
    patches[turned] = augmented(patches[turned], rng)
    plain = np.concatenate([patches[:, 0], patches[:, 1]])
    return Patches(occluded(plain, config.occluded, rng), rows["points"], views, plain, turned)


def occluded(patches: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Patches (N, S, S, 3), of which some show another patch beyond a line that misses the centre."""
    count, side = patches.shape[:2]
    other, hit = rng.permutation(count), rng.random(count) < share
    angle = rng.uniform(0, 2 * np.pi, count)[:, None, None]
    distance = side * rng.uniform(5 / 32, 15 / 32, count)[:, None, None]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    beyond = (np.cos(angle) * x + np.sin(angle) * y > distance) & hit[:, None, None]
    return np.where(beyond[..., None], patches[other], patches)

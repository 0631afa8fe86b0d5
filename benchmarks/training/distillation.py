"""Train a small network over patches to give the descriptors of a diffusion model with its projection head.

The loss is that of the projection head, which makes partners find each other, and beside it the cosine
distance to what model and head say of the same patches (Hinton, Vinyals, Dean, 2015, with descriptors in
place of class probabilities).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.distilled import LAST, UNSHUFFLE, DistilledHead, PatchNetwork, convolutions
from geomatch.dift.inputs import network_patches
from geomatch.isolation import isolated
from geomatch.training.bank import BankImage, PatchBank, Rows, load_bank, make_bank
from geomatch.training.checkpoint import Checkpoint, read_checkpoint, take_steps
from geomatch.training.convolutional_head import draw_batch, pair_loss, rank1, split_images

CHECKPOINT = "distilled.pt"
EVERY = 200  # steps between two checkpoints


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """Everything that decides the small network's weights, besides model, head and bank."""

    widths: tuple[int, ...] = (32, 64, 128)  # channels of each level
    views: int = 4  # pairs of views in a batch
    per_view: int = 128  # corresponding keypoints taken of each at most
    steps: int = 3000
    learning_rate: float = 2e-3  # peak of the one-cycle cosine schedule
    temperature: float = 0.05
    imitation: float = 4.0  # weight of the cosine distance to the descriptors that are imitated
    seed: int = 0


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
    config: DIFTConfig, images: Sequence[BankImage], work: Path, settings: DistillationConfig
) -> DistilledHead:
    """Distil a model that describes patches with a projection head; a second call goes on.

    ``work`` holds the checkpoint and the bank.
    """
    bank = PatchBank(work / "patches", config.patch_size, config.patch_scale)
    make_bank(bank, images)
    used, watched = (load_bank(bank, part) for part in split_images(images))
    return distil(DIFTExtractor(config), used, settings, work, watched[:100])


@torch.random.fork_rng(devices=[])
@isolated(gradients=True)
def distil(
    extractor: DIFTExtractor,
    bank: Sequence[Rows],
    config: DistillationConfig,
    out: Path,
    validation: Sequence[Rows] = (),
    progress: bool = True,
) -> DistilledHead:
    """Train on the bank's pairs of views, or go on from ``out/distilled.pt``.

    The ``extractor`` describes patches with its projection head. The rank-1 accuracy on the ``validation``
    views is logged.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.default_generator.manual_seed(config.seed)
    dimension = extractor.dimension
    learner = Learner(config.widths, dimension).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    parts: dict[str, Any] = {"learner": learner, "optimiser": optimiser, "schedule": schedule}

    def take(step: int) -> float:
        torch.default_generator.manual_seed(config.seed * 1_000_003 + step)  # dropout
        patches, points, views = draw_batch(bank, config, np.random.default_rng([config.seed, step]))
        given = _tensor(patches)
        wanted = extractor.patch_rows(given).clone()  # tensors of inference mode cannot be saved for backward
        learner.train()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            found = learner(network_patches(given)).float()
        loss = pair_loss(found, points, views, config.temperature)
        loss = loss + config.imitation * (1 - (found * wanted).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        return loss.item()

    def entry(done: int, loss: float) -> dict[str, float]:
        found: dict[str, float] = {"step": done, "loss": round(loss, 4)}
        if validation:
            learner.eval()
            found["rank1"] = round(rank1(lambda p: learner(network_patches(_tensor(p))), validation), 4)
        return found

    checkpoint = Checkpoint(out / CHECKPOINT, config, parts)
    take_steps(checkpoint, config.steps, take, entry, EVERY, "distillation" if progress else None)
    log = read_checkpoint(out / CHECKPOINT)["log"]
    training = {**(extractor.head.training if extractor.head else {}), "distillation": asdict(config)}
    training |= {"distillation_pairs": sum(len(rows) for rows in bank), "distillation_log": log}
    network = learner.folded(config.widths, dimension)
    return DistilledHead(network, extractor.config.feature_settings(), training)


def _tensor(patches: NDArray[np.uint8]) -> Tensor:
    """(N, 3, S, S) float32 of values 0 to 255 from (N, S, S, 3)."""
    return torch.tensor(np.asarray(patches)).permute(0, 3, 1, 2).float()

"""Train the projection head of dense maps on pairs of views, resumable at any checkpoint."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.devices import upload_pixels
from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.maps.feature_map import FeatureMap
from geomatch.geometry import warp_points
from geomatch.images import Image, load_image, reduce_image
from geomatch.isolation import isolated
from geomatch.synthetic import Motion
from geomatch.training.checkpoint import Checkpoint, Log, read_checkpoint, take_steps
from geomatch.training.pairs import make_views

CHECKPOINT = "dense-head.pt"
MOTIONS: tuple[Motion, ...] = ("upright", "rotated", "tilted", "upright", "rotated")
NEAR = 6.0
"""Pixels about a point's partner within which cells are neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """Everything that decides the head's weights, besides network and photographs."""

    width: int = 128  # channels of every level
    dimension: int = 128
    size: int = 256  # side of the views in pixels
    pairs: int = 8  # pairs of views in a step
    points: int = 384  # of a pair
    steps: int = 6000
    learning_rate: float = 2e-3  # peak of the one-cycle cosine schedule
    temperature: float = 0.05
    seed: int = 0


class ViewPair(NamedTuple):
    """Two views, and points of the first with their partners in the second."""

    pixels: NDArray[np.uint8]  # (2, S, S, 3)
    points: NDArray[np.float32]  # (K, 2, 2) pixels


def draw_pair(
    photographs: Sequence[NDArray[np.uint8]], config: DenseConfig, rng: np.random.Generator
) -> ViewPair:
    """A random photograph seen twice; half of the points are corners, the others anywhere."""
    photograph = photographs[rng.integers(len(photographs))]
    motion = MOTIONS[rng.integers(len(MOTIONS))]
    strength = float(rng.uniform(0.5, 1.6))
    size = (config.size, config.size)
    view0, view1, matrix = make_views(photograph, rng, motion, strength, size)
    grey = cv2.cvtColor(view0.pixels, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, config.points // 2, 0.01, 5)
    anywhere = rng.uniform(0, config.size - 1, (config.points, 2))
    found = np.zeros((0, 2)) if corners is None else corners[:, 0] + rng.uniform(-1, 1, (len(corners), 2))
    points0 = np.concatenate([found, anywhere])
    points1 = warp_points(matrix, points0)
    inside = ((points1 > 2) & (points1 < config.size - 3)).all(1) & (
        (points0 >= 0) & (points0 < config.size)
    ).all(1)
    points = np.stack([points0[inside], points1[inside]], 1)[: config.points]
    return ViewPair(np.stack([view0.pixels, view1.pixels]), points.astype(np.float32))


def dense_loss(maps: Tensor, pairs: Sequence[ViewPair], config: DenseConfig) -> Tensor:
    """Cross-entropy of every point's partner among all cells of the other view, the mean of both directions.

    The probabilistic matching of SiLK (Gleize et al., ICCV 2023). ``maps`` (2B, D, h, w) are those of the
    pairs' views, one after the other.
    """
    losses = []
    side = maps.shape[3]
    centres = (torch.arange(side, device=maps.device) + 0.5) * config.size / side - 0.5
    cells = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).flatten(0, 1)
    for number, pair in enumerate(pairs):
        if not len(pair.points):
            continue
        views = [FeatureMap((maps[2 * number + k],), (config.size, config.size)) for k in (0, 1)]
        points = [torch.tensor(pair.points[:, k], device=maps.device) for k in (0, 1)]
        rows = [view.sample_tensor(where) for view, where in zip(views, points, strict=True)]
        right = (rows[0] * rows[1]).sum(1, keepdim=True)
        for own, other in ((0, 1), (1, 0)):
            scores = rows[own].bfloat16() @ views[other].maps[0].flatten(1).bfloat16()
            near = torch.cdist(points[other], cells) < NEAR
            scores = torch.cat([right, scores.float().masked_fill(near, -1e4)], 1) / config.temperature
            losses.append(functional.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64)))
    return torch.stack(losses).mean()


@torch.random.fork_rng(devices=[])
@isolated(gradients=True)
def train_dense(
    extractor: DIFTExtractor,
    photographs: Sequence[NDArray[np.uint8]],
    held_out: Sequence[NDArray[np.uint8]],
    config: DenseConfig,
    out: Path,
) -> DenseNetwork:
    """Train on frozen activations, or go on from ``out/dense-head.pt``."""
    out.mkdir(parents=True, exist_ok=True)
    torch.default_generator.manual_seed(config.seed)
    probe = _activations(extractor, np.zeros((1, config.size, config.size, 3), np.uint8))
    network = DenseNetwork(
        [(layer.shape[1], config.size // layer.shape[3]) for layer in probe], config.width, config.dimension
    )
    network = network.to(probe[0].device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.05
    )
    device = probe[0].device.type

    def pairs_of(step: int) -> list[ViewPair]:
        rng = np.random.default_rng([config.seed, step])
        return [draw_pair(photographs, config, rng) for _ in range(config.pairs)]

    def described(pairs: Sequence[ViewPair]) -> Tensor:
        maps = _activations(extractor, np.concatenate([pair.pixels for pair in pairs]))
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            found: Tensor = network([layer.contiguous(memory_format=torch.channels_last) for layer in maps])
        return found.float()

    rng = np.random.default_rng([config.seed, 2**31])
    watched_pairs = [draw_pair(held_out, config, rng) for _ in range(32)] if len(held_out) else []

    def watched() -> Log:
        network.eval()
        with torch.no_grad():
            right = [hits(described([pair]), pair) for pair in watched_pairs]
        network.train()
        return {"rank1": round(float(np.mean(np.concatenate(right))), 4)}

    with ThreadPoolExecutor(1) as ahead:
        waiting: dict[int, Any] = {}

        def loss(step: int) -> Tensor:
            pairs = waiting.pop(step).result() if step in waiting else pairs_of(step)
            if step + 1 < config.steps:
                waiting[step + 1] = ahead.submit(pairs_of, step + 1)
            network.train()
            return dense_loss(described(pairs), pairs, config)

        parts: dict[str, Any] = {"network": network, "optimiser": optimiser, "schedule": schedule}
        take_steps(
            Checkpoint(out / CHECKPOINT, config, parts),
            loss,
            "dense head",
            watched if watched_pairs else dict,
        )
    return network.eval()


def hits(maps: Tensor, pair: ViewPair) -> NDArray[np.bool_]:
    """(K,) whether the most similar cell of the second view lies within `NEAR` of the partner."""
    side, size = maps.shape[3], pair.pixels.shape[1]
    rows = FeatureMap((maps[0],), (size, size)).sample_tensor(
        torch.tensor(pair.points[:, 0], device=maps.device)
    )
    best = (rows @ maps[1].flatten(1)).argmax(1).cpu().numpy()
    found = (np.stack([best % side, best // side], 1) + 0.5) * size / side - 0.5
    return np.asarray(np.linalg.norm(found - pair.points[:, 1], axis=1) < NEAR)


def _activations(extractor: DIFTExtractor, pixels: NDArray[np.uint8]) -> list[Tensor]:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(extractor.model.device).float() / 127.5 - 1
    return [layer.float().clone() for layer in extractor.activations(images)]

"""Training of the embedded detector on the labels of `adaptation`, resumable at any checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.benchmarks.training.adaptation import VIEW_SIZE
from geomatch.geometry import shift_homography, warp_points
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import new_network
from geomatch.synthetic import change_light, random_homography
from geomatch.training.checkpoint import one_cycle, train

CHECKPOINT = "detector.pt"
CELL = SuperPointNetwork.stride
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601 luma."""
NOTHING = 6.6
"""Logit of "no keypoint" at the start: with 64 others at 0, 92 % of the cells."""
LIGHTS = (1.0, 1.6)
"""Strengths of the change of light, alternating."""
Label = tuple[NDArray[np.uint8], NDArray[np.float64]]
"""A view (H, W, 3) of `VIEW_SIZE` and the stable points in it (N, 2)."""


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """Everything that decides the weights, besides the labels."""

    crop_size: tuple[int, int] = (192, 144)
    """(width, height) seen in each step, in pixels."""
    batch_size: int = 16
    steps: int = 3000
    learning_rate: float = 2e-3
    """Peak of the one-cycle cosine schedule."""
    seed: int = 0


def train_detector(
    labels: Sequence[Label],
    config: DetectorConfig,
    out: Path,
) -> SuperPointNetwork:
    """Train, or resume from ``out/detector.pt``; crops of step k depend on (seed, k) alone.

    The loss is SuperPoint's cross-entropy over the pixels of a cell and "no keypoint" (DeTone et al.,
    2018, section 3.4), with a point's share spread over the four pixels around it.
    """

    def parts_of(network: SuperPointNetwork) -> dict[str, Any]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # the last normalisation holds the logits near 0: from there "no keypoint", which most cells are,
        # would take thousands of steps
        named = dict(network.named_parameters())
        last = [named.pop(f"detector.1.bn.{name}") for name in ("weight", "bias")]
        torch.nn.init.constant_(last[1][-1:], NOTHING)
        groups = [{"params": [*named.values()]}, {"params": last, "lr": 10 * config.learning_rate}]
        return one_cycle(groups, config, 1e-4)

    def draw(rng: np.random.Generator) -> list[Tensor]:
        drawn = [
            seen_again(labels[int(rng.integers(len(labels)))], config.crop_size, rng, number)
            for number in range(config.batch_size)
        ]
        return [torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)]

    def loss(network: SuperPointNetwork, drawn: list[Tensor]) -> Tensor:
        crops, targets, weights = drawn
        with torch.autocast("cpu", torch.bfloat16):
            cells = network.cells(crops[:, None].contiguous(memory_format=torch.channels_last))
        found = functional.log_softmax(cells.float(), dim=1).permute(0, 2, 3, 1)
        return (-(targets * found).sum(-1) * weights).sum() / weights.sum()

    return train(new_network, parts_of, config, out / CHECKPOINT, draw, loss)[0]


def seen_again(
    label: Label, size: tuple[int, int], rng: np.random.Generator, number: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Render a view under another homography and light, with what the network should answer.

    The place ``number`` in the batch decides how far images rotate and how light changes. Given are grey
    values (h, w) in [0, 1] of a crop of ``size`` (w, h), the target (h/8, w/8, 65) of every cell, and weights
    (h/8, w/8), 0 for cells near the view's edge, which is no keypoint; beyond it is flat ground without any.
    """
    view, points = label
    motion = random_homography(rng, VIEW_SIZE, "rotated" if number % 2 else "upright")
    off = [-rng.uniform(0, whole - part) for whole, part in zip(VIEW_SIZE, size, strict=True)]
    matrix = shift_homography(*off) @ motion
    crop = np.asarray(cv2.warpPerspective(view, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    lit = change_light(rng, crop, LIGHTS[number // 2 % len(LIGHTS)])
    shown = cv2.warpPerspective(np.ones(view.shape[:2], np.uint8), matrix, size)
    around = np.ones((2 * CELL + 1, 2 * CELL + 1), np.uint8)
    clear = (cv2.erode(shown, around) == 1) | (cv2.dilate(shown, around) == 0)
    columns, rows = size[0] // CELL, size[1] // CELL
    weights = clear.reshape(rows, CELL, columns, CELL).all(axis=(1, 3)).astype(np.float32)
    moved = warp_points(matrix, points)
    target = cell_targets(moved[rng.permutation(len(moved))], size)
    return (lit @ GREY / 255).astype(np.float32), target, weights


def cell_targets(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h/8, w/8, 65): shares of the pixels of each cell row by row, and of "no keypoint".

    A point is shared by the four pixels around it, as far as they are in its cell; the first of several
    points in a cell counts.
    """
    width, height = size
    target = np.zeros((height // CELL, width // CELL, CELL**2 + 1), np.float32)
    inside = (points >= 1).all(1) & (points[:, 0] < width - 2) & (points[:, 1] < height - 2)
    for x, y in points[inside]:
        column, row = int(x + 0.5) // CELL, int(y + 0.5) // CELL
        cell = target[row, column]
        if cell.any():
            continue
        for i in (int(x), int(x) + 1):
            for j in (int(y), int(y) + 1):
                u, v = i - CELL * column, j - CELL * row
                if 0 <= u < CELL and 0 <= v < CELL:
                    cell[v * CELL + u] = (1 - abs(x - i)) * (1 - abs(y - j))
        cell /= cell.sum()
    target[..., -1] = 1 - target[..., :-1].sum(-1)
    return target

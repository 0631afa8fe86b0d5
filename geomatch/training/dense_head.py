"""Train the projection head of maps of whole images on pairs of views, resumable at any checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.dense import STRIDE, DenseNetwork
from geomatch.dift.head.projection import NetworkHead
from geomatch.dift.maps.feature_map import FeatureMap, cell_centres
from geomatch.errors import GeomatchError, ImageError
from geomatch.files import digest_of, replacing, sha256_of
from geomatch.geometry import warp_points
from geomatch.images import load_image, reduce_image
from geomatch.synthetic import Motion
from geomatch.training.checkpoint import Log, train
from geomatch.training.linear_head import FittedHead
from geomatch.training.views import make_views

CHECKPOINT = "dense-head.pt"
SIDE = 560  # longest side in pixels of the photographs that are kept
HELD_OUT = 20  # one photograph in so many is not trained on
WATCHED = 32  # pairs of views of the photographs held out
MOTIONS: tuple[Motion, ...] = ("upright", "rotated", "tilted", "upright", "rotated")
RIGHT, NEAR = 3.0, 6.0
"""Pixels about a point's partner within which cells are right, one at least, and beyond which wrong."""


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


def train_dense_head(
    config: DIFTConfig, images: Sequence[Path], work: Path, settings: DenseConfig = DenseConfig()
) -> FittedHead:
    """Train the head of a model that samples maps of whole images.

    ``work`` holds the photographs, reduced, and the checkpoint, from which a second call goes on. Raises
    `GeomatchError` when none can be read.
    """
    if config.sampling != "dense":
        raise ValueError("--dense is for sampling='dense'; heads of patches are fitted in closed form")
    kept, skipped = _keep(images, work / "photographs")
    watched_digests = list(kept)[::HELD_OUT] if len(kept) >= HELD_OUT else []
    used = [digest for digest in kept if digest not in watched_digests]
    if not used:
        raise GeomatchError("none of the images can be read: give photographs")
    extractor = DIFTExtractor(replace(config, head=False))
    watched = draw_watched([kept[digest] for digest in watched_digests], settings)
    place = checkpoint_folder(work, config, list(kept))
    network, log = train_network(extractor, [kept[digest] for digest in used], settings, place, watched)
    before = [found_right(extractor.dense_many(pair.pixels), pair) for pair in watched]
    pairs = settings.steps * settings.pairs
    training = {"model": config.model, "images": used, "pairs": pairs, "head": asdict(settings), "log": log}
    head = NetworkHead(network, config.feature_settings(), training)
    gain = float(np.concatenate(before).mean()) if before else None
    return FittedHead(head, len(used), skipped, pairs, gain, log[-1].get("rank1"))


def _keep(images: Sequence[Path], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Photographs as arrays, reduced, by the checksum of their file, and those left out, with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path in tqdm(images, desc="photographs", unit="image"):
        digest = sha256_of(path)
        file = folder / f"{digest}.npy"
        if digest in kept:
            skipped[str(path)] = "the same as one before it"
            continue
        try:
            if not file.is_file():
                pixels = reduce_image(load_image(path), SIDE).pixels
                with replacing(file) as temporary:
                    np.save(temporary, pixels)
            kept[digest] = file
        except ImageError as error:
            skipped[str(path)] = str(error).removeprefix(f"{path}: ")
    return kept, skipped


def checkpoint_folder(work: Path, config: DIFTConfig, digests: Sequence[str]) -> Path:
    """Where the training of these images for this model goes on; others have other folders."""
    folder = work / digest_of([config.model, config.feature_settings(), list(digests)])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def train_network(
    extractor: DIFTExtractor,
    photographs: Sequence[Path],
    config: DenseConfig,
    out: Path,
    watched: Sequence[ViewPair] = (),
) -> tuple[DenseNetwork, list[Log]]:
    """Train on frozen activations of views of arrays (H, W, 3), or go on from ``out/dense-head.pt``.

    The network that is given back is on the CPU, in evaluation mode.
    """

    def new_network() -> DenseNetwork:
        probe = _activations(extractor, np.zeros((1, config.size, config.size, 3), np.uint8))
        maps = [(layer.shape[1], config.size // layer.shape[3]) for layer in probe]
        network = DenseNetwork(maps, config.width, config.dimension).to(probe[0].device)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def described(network: DenseNetwork, pairs: Sequence[ViewPair]) -> Tensor:
        layers = _activations(extractor, np.concatenate([pair.pixels for pair in pairs]))
        with torch.autocast(layers[0].device.type, torch.bfloat16, cache_enabled=False):
            found: Tensor = network([layer.contiguous(memory_format=torch.channels_last) for layer in layers])
        return found.float()

    def log(network: DenseNetwork) -> Log:
        with torch.no_grad():
            right = [found_right(_views(described(network, [pair]), config.size), pair) for pair in watched]
        return {"rank1": round(float(np.concatenate(right).mean()), 4)}

    network, entries = train(
        new_network, config, out / CHECKPOINT,
        lambda rng: [draw_pair(photographs, config, rng) for _ in range(config.pairs)],
        lambda network, pairs: dense_loss(described(network, pairs), pairs, config), log if watched else None,
        warm=0.05,
    )  # fmt: skip
    return network.cpu(), entries


def draw_watched(photographs: Sequence[Path], config: DenseConfig) -> list[ViewPair]:
    """The pairs that are never trained on; none without photographs."""
    rng = np.random.default_rng([config.seed, 2**31])
    return [draw_pair(photographs, config, rng) for _ in range(WATCHED if photographs else 0)]


def draw_pair(photographs: Sequence[Path], config: DenseConfig, rng: np.random.Generator) -> ViewPair:
    """A random photograph seen twice; half of the points are corners, the others anywhere.

    The second view's content is moved, and enters opposite: where it lies would tell the partner, since a
    network knows its distance from the border.
    """
    photograph = np.load(photographs[int(rng.integers(len(photographs)))])
    motion, strength = MOTIONS[rng.integers(len(MOTIONS))], float(rng.uniform(0.5, 1.6))
    view0, view1, matrix = make_views(photograph, rng, motion, strength, (config.size, config.size))
    grey = cv2.cvtColor(view0.pixels, cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(grey, config.points // 2, 0.01, 5)
    found = np.zeros((0, 2)) if corners is None else corners[:, 0] + rng.uniform(-1, 1, (len(corners), 2))
    points0 = np.concatenate([found, rng.uniform(0, config.size - 1, (config.points, 2))])
    points = np.stack([points0, warp_points(matrix, points0)], axis=1)
    offset = rng.integers(config.size, size=2)
    seen = ((points >= 0) & (points <= config.size - 1)).all((1, 2))
    points[:, 1] = (points[:, 1] + offset) % config.size
    inside = seen & ((points > 2) & (points < config.size - 3)).all((1, 2))
    points = points[inside][: config.points].astype(np.float32)
    pixels = np.stack([view0.pixels, np.roll(view1.pixels, offset[::-1], axis=(0, 1))])
    return ViewPair(pixels, points) if len(points) else draw_pair(photographs, config, rng)


def dense_loss(maps: Tensor, pairs: Sequence[ViewPair], config: DenseConfig) -> Tensor:
    """Cross-entropy of the cells at every point's partner among all of the other view, in both directions.

    The probabilistic matching of SiLK (Gleize et al., ICCV 2023). The descriptor at the partner's exact place
    does not do for them: beside it the similarity fell off, and rank-1 with it. ``maps`` (2B, D, h, w) are
    those of the pairs' views, one after the other.
    """
    losses = []
    cells = cell_centres((maps.shape[3], maps.shape[2]), (config.size, config.size), maps)
    for two, pair in zip(torch.split(maps, 2), pairs, strict=True):
        views, points = _views(two, config.size), torch.tensor(pair.points, device=maps.device).unbind(1)
        for own, other in ((0, 1), (1, 0)):
            rows = views[own].sample_tensor(points[own])
            scores = (rows.bfloat16() @ two[other].flatten(1).bfloat16()).float() / config.temperature
            distances = torch.cdist(points[other], cells)
            wrong = distances >= RIGHT
            scores = scores.masked_fill(wrong & (distances < NEAR), -1e4)
            losses.append((scores.logsumexp(1) - scores.masked_fill(wrong, -1e4).logsumexp(1)).mean())
    return torch.stack(losses).mean()


def found_right(views: Sequence[FeatureMap], pair: ViewPair) -> NDArray[np.bool_]:
    """(K,) True where the most similar cell of the second view lies within `NEAR` of a point's partner."""
    view0, view1 = views
    points = view0.upload(pair.points[:, 0])
    width, height = view1.image_size
    cells = cell_centres((width // STRIDE, height // STRIDE), view1.image_size, view1.maps[0])
    best = (view0.sample_tensor(points) @ view1.sample_tensor(cells).T).argmax(1)
    distances = np.linalg.norm(cells[best].numpy(force=True) - pair.points[:, 1], axis=1)
    return np.asarray(distances < NEAR)


def _views(maps: Tensor, size: int) -> list[FeatureMap]:
    return [FeatureMap((layer,), (size, size)) for layer in maps]


def _activations(extractor: DIFTExtractor, pixels: NDArray[np.uint8]) -> list[Tensor]:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(extractor.model.device).float() / 127.5 - 1
    # copies, since tensors of inference mode cannot be differentiated through
    return [layer.clone() for layer in extractor.activations(images)]

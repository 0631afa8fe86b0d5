"""Correspondences without labels: one image seen twice, through a known homography and another light.

Patches of such are cut once per image into a bank, which convolutional heads are trained on.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.devices import upload_pixels
from geomatch.engine.worker import set_threads
from geomatch.errors import ImageError
from geomatch.files import digest_of, replacing
from geomatch.geometry import warp_points
from geomatch.images import Image, load_image
from geomatch.keypoints import OpenCVDetector
from geomatch.patches import cut_patches
from geomatch.synthetic import Motion, change_light, random_homography, render_view
from geomatch.tensors import upload_features
from geomatch.types import Features

VIEW_SIZE = (640, 480)  # (width, height) of the synthetic views
OVERSAMPLING = 3  # samples along each side of a pixel of a tilted view
PER_VIEW = 160  # corresponding keypoints taken of a pair of views, drawn at random
STRENGTHS = (1.0, 1.6)  # strengths of the changes of light, one after the other
Rows = NDArray[Any]  # (n,) records of `row_type`


@dataclass(frozen=True, slots=True)
class BankImage:
    """A photograph, the checksum of its file, which decides its views, and their number of pairs."""

    path: Path
    sha256: str
    views: int


@dataclass(frozen=True, slots=True)
class PatchBank:
    """Where the patches are, and how they are cut, as `DIFTConfig` says."""

    folder: Path
    patch_size: int = 32
    patch_scale: float = 11.0

    def file(self, image: BankImage) -> Path:
        """The patches of one image; the name tells the settings."""
        settings = [image.sha256, image.views, self.patch_size, self.patch_scale, PER_VIEW, STRENGTHS]
        return self.folder / f"{digest_of(settings)}.npy"


def row_type(patch_size: int) -> np.dtype[Any]:
    """One place in two views: RGB patches, pixels of the keypoints, number of the pair of views."""
    patches = (2, patch_size, patch_size, 3)
    return np.dtype([("patches", np.uint8, patches), ("points", np.float32, (2, 2)), ("view", np.int32)])


def make_bank(bank: PatchBank, images: Sequence[BankImage], workers: int = 2) -> dict[BankImage, str]:
    """Write one file per image, unless it is there; return the images that cannot be read, and why."""
    return make_files(partial(_make_one, bank), bank.file, images, workers, "patches")


def make_files(
    make: Callable[[BankImage], None],
    file: Callable[[BankImage], Path],
    images: Sequence[BankImage],
    workers: int,
    what: str,
) -> dict[BankImage, str]:
    """Call ``make`` for every image that has no file yet; return those that cannot be read, and why."""
    for folder in {file(image).parent for image in images}:
        folder.mkdir(parents=True, exist_ok=True)
    todo = [image for image in images if not file(image).is_file()]
    ordered = sorted(todo, key=lambda image: -image.views)  # the longest first
    attempt = partial(_reason, make)
    spawn = multiprocessing.get_context("spawn")  # not forked: torch may hold threads
    pool = ProcessPoolExecutor(workers, spawn, set_threads, (1,)) if workers > 1 else None
    with pool or nullcontext():
        reasons = pool.map(attempt, ordered) if pool else map(attempt, ordered)
        shown = tqdm(reasons, total=len(ordered), desc=what, unit="image")
        return {image: reason for image, reason in zip(ordered, shown, strict=True) if reason}


def _reason(make: Callable[[BankImage], None], image: BankImage) -> str:
    """Why the image cannot be read; empty if it can."""
    try:
        make(image)
    except ImageError as error:
        return str(error).removeprefix(f"{image.path}: ")
    return ""


def load_bank(bank: PatchBank, images: Sequence[BankImage]) -> list[Rows]:
    """The rows of every pair of views, read from disk when used."""
    views: list[Rows] = []
    for image in images:
        rows = np.load(bank.file(image), mmap_mode="r")
        changes = np.flatnonzero(np.diff(rows["view"]))
        views += [part for part in np.split(rows, changes + 1) if len(part)]
    return views


def _make_one(bank: PatchBank, image: BankImage) -> None:
    seed = int(image.sha256[:8], 16)
    parts = [np.zeros(0, row_type(bank.patch_size))]
    pairs = view_pairs(image.path, image.views, seed, 1000, STRENGTHS, per_view=PER_VIEW)
    for number, (view0, view1, features0, features1) in enumerate(pairs):
        rows = np.zeros(len(features0), row_type(bank.patch_size))
        rows["patches"] = np.stack([_cut(bank, view0, features0), _cut(bank, view1, features1)], axis=1)
        rows["points"] = np.stack([features0.keypoints, features1.keypoints], axis=1)
        rows["view"] = number
        parts.append(rows)
    with replacing(bank.file(image)) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(parts))


def _cut(bank: PatchBank, view: Image, features: Features) -> NDArray[np.uint8]:
    found = upload_features(features, "cpu")
    if found.scales is None or found.orientations is None:
        raise ValueError("the keypoints need scale and orientation")
    pixels, sides = upload_pixels(view.pixels, "cpu"), found.scales * bank.patch_scale
    cut = cut_patches(pixels, found.keypoints, sides, found.orientations, bank.patch_size)
    return torch.cat(list(cut)).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


def make_views(
    pixels: NDArray[np.uint8],
    rng: np.random.Generator,
    motion: Motion,
    strength: float = 1.0,
    size: tuple[int, int] = VIEW_SIZE,
) -> tuple[Image, Image, NDArray[np.float64]]:
    """A random part of the photograph, a second view of that part, and the homography between them."""
    first = _random_part(pixels, rng, size)
    motion_matrix = random_homography(rng, size, motion)
    view0 = change_light(rng, render_view(pixels, first, size), strength)
    oversampling = OVERSAMPLING if motion == "tilted" else 1
    second = render_view(pixels, motion_matrix @ first, size, oversampling)
    view1 = change_light(rng, second, strength)
    return Image(view0, "view 0"), Image(view1, "view 1"), motion_matrix


def _random_part(
    pixels: NDArray[np.uint8], rng: np.random.Generator, size: tuple[int, int]
) -> NDArray[np.float64]:
    """(3, 3) from the photograph to a (width, height) view of a part, enlarged only if it is smaller."""
    width, height = size
    rows, columns = pixels.shape[:2]
    largest = min(columns / width, rows / height)
    zoom = np.exp(rng.uniform(min(0.0, np.log(largest)), np.log(max(1.0, largest))))
    zoom = min(zoom, largest)
    left = rng.uniform(0, max(0.0, columns - width * zoom))  # rounding may leave less than nothing
    top = rng.uniform(0, max(0.0, rows - height * zoom))
    return np.array([[1 / zoom, 0, -left / zoom], [0, 1 / zoom, -top / zoom], [0, 0, 1]])


def true_pairs(features0: Features, features1: Features, matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """(P, 2) indices of keypoints with scale and orientation that a homography maps onto each other.

    Within 2.5 px, a factor 1.6 in scale and 25 degrees in orientation; one-to-one, nearest first.
    """
    if not len(features0) or not len(features1):
        return np.zeros((0, 2), np.int64)
    scales0, scales1 = features0.scales, features1.scales
    angles0, angles1 = features0.orientations, features1.orientations
    if scales0 is None or scales1 is None or angles0 is None or angles1 is None:
        raise ValueError("the keypoints need scale and orientation")
    ahead = np.stack([np.cos(angles0), np.sin(angles0)], axis=1)
    here = warp_points(matrix, features0.keypoints)
    side = warp_points(matrix, features0.keypoints + np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)) - here
    front = warp_points(matrix, features0.keypoints + ahead) - here
    growth = np.sqrt(np.abs(front[:, 0] * side[:, 1] - front[:, 1] * side[:, 0]))
    angle = np.arctan2(front[:, 1], front[:, 0])
    distance = np.linalg.norm(here[:, None] - features1.keypoints[None], axis=2)
    with np.errstate(divide="ignore"):
        ratio = np.abs(np.log(scales0 * growth)[:, None] - np.log(scales1)[None])
    turn = np.abs(np.angle(np.exp(1j * (angle[:, None] - angles1[None]))))
    cost = np.where((distance < 2.5) & (ratio < np.log(1.6)) & (turn < np.radians(25)), distance, np.inf)
    rows = np.flatnonzero(np.isfinite(cost).any(1))
    partner = cost[rows].argmin(1)
    mutual = cost[:, partner].argmin(0) == rows
    return np.stack([rows[mutual], partner[mutual]], axis=1).astype(np.int64)


def view_pairs(
    path: Path,
    views: int,
    seed: int,
    max_keypoints: int = 400,
    strengths: Sequence[float] = (1.0,),
    motions: Sequence[Motion] = ("upright", "rotated"),
    per_view: int | None = None,
) -> Iterator[tuple[Image, Image, Features, Features]]:
    """Pairs of views of one image, with SIFT keypoints that correspond row by row, ``per_view`` at random.

    Motions take turns, and after each round of them the strengths of the change of light. Pairs without a
    common keypoint are left out.
    """
    found = 0
    detector = OpenCVDetector("sift", max_keypoints=max_keypoints)
    pixels = load_image(path).pixels
    for view in range(views):
        rng = np.random.default_rng([seed, 0, view])
        strength = strengths[view // len(motions) % len(strengths)]
        view0, view1, matrix = make_views(pixels, rng, motions[view % len(motions)], strength)
        features0, features1 = detector.detect(view0), detector.detect(view1)
        pairs = true_pairs(features0, features1, matrix)
        if len(pairs):
            if per_view is not None:
                pairs = pairs[np.random.default_rng([seed, found]).permutation(len(pairs))[:per_view]]
            found += 1
            yield view0, view1, features0[pairs[:, 0]], features1[pairs[:, 1]]

"""A bank of corresponding patches, cut once per image, that convolutional heads are trained on."""

import multiprocessing
from collections.abc import Callable, Sequence
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
from geomatch.images import Image
from geomatch.patches import cut_patches
from geomatch.synthetic import Motion
from geomatch.tensors import upload_features
from geomatch.training.pairs import view_pairs
from geomatch.types import Features

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
    motions: tuple[Motion, ...] = ("upright", "rotated")  # of the second views, one after the other

    def file(self, image: BankImage) -> Path:
        """The patches of one image; the name tells the settings."""
        settings = [
            image.sha256, image.views, self.patch_size, self.patch_scale, PER_VIEW, STRENGTHS, self.motions
        ]  # fmt: skip
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
    pairs = view_pairs(image.path, image.views, seed, 1000, STRENGTHS, bank.motions, PER_VIEW)
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

"""Fit a projection head for any DIFT model from synthetic views of photographs; interrupted fits go on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.head.projection import LinearHead
from geomatch.errors import GeomatchError, ImageError
from geomatch.files import digest_of, pack_arrays, sha256_of, unpack_arrays
from geomatch.geometry import warp_points
from geomatch.images import Image, load_image
from geomatch.isolation import isolated
from geomatch.keypoints import OpenCVDetector
from geomatch.progress import progress_bar
from geomatch.provenance import cache_key
from geomatch.store import Store
from geomatch.synthetic import Motion, change_light, random_homography, render_view
from geomatch.types import Features

VIEW_SIZE = (640, 480)  # (width, height) of the synthetic views
MAX_KEYPOINTS = 400  # of a view
PER_VIEW = 40  # keypoints of a pair of views: few points of many views, since variety of views counts
MAX_PAIRS = 40_000
"""Corresponding keypoints that a fit uses at most; memory is 8 bytes per pair and activation."""
HELD_OUT = 10  # one image in so many is held out of the fit, to measure it on
RIDGE = 0.1  # added to the within-pair covariance, in units of its mean eigenvalue
KIND = "activations"  # of what the store caches
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A projection head, and what is known of it."""

    head: LinearHead
    images: int  # number of images that it was fitted on
    skipped: dict[str, str]  # images that could not be used, and why
    pairs: int  # number of corresponding keypoints that it was fitted on
    rank1: tuple[float, float] | None
    """Rank-1 accuracy without and with it, in the held-out images: share of keypoints whose nearest
    neighbour, among the corresponding ones of the other view, is right. None when it was not measured."""


def fit_on_images(
    config: DIFTConfig,
    images: Sequence[Path],
    work: Path,
    dimension: int = 128,
    views: int = 8,
    seed: int = 0,
) -> FittedHead:
    """Fit the closed-form projection head of a DIFT model; the folder ``work`` caches activations per image.

    Every image is seen in ``views`` pairs of views related by known homographies and changed in light; what
    SIFT finds in both views at one place is a pair. For models that see the whole image views stay
    upright. Raises `GeomatchError` when the images give too few pairs.
    """
    extractor = DIFTExtractor(replace(config, head=False))
    motions: tuple[Motion, ...] = ("upright",) if config.sampling == "dense" else ("upright", "rotated")
    settings = [cache_key(extractor), views, seed, motions, PER_VIEW]
    store = Store.at(work)
    hashes: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path in images:
        digest = sha256_of(path)
        if (first_path := hashes.setdefault(digest, path)) is not path:
            skipped[str(path)] = f"the same as {first_path}"
    fitted: list[tuple[Rows, Rows]] = []
    held_out: list[tuple[Rows, Rows, NDArray[np.int64]]] = []
    used: list[str] = []
    unpack = partial(unpack_arrays, kind=KIND, needed=("first", "second", "view"))
    shown = progress_bar(hashes.items(), "activations", "image")
    for number, (digest, path) in enumerate(shown):
        key, given = digest_of([digest, settings]), (path, views, motions, seed + int(digest[:8], 16))

        def make(_: list[int], given: Any = given) -> list[dict[str, NDArray[Any]]]:
            return [view_activations(extractor, *given)]

        try:
            (saved,) = store.cached(KIND, [key], make, partial(pack_arrays, KIND), unpack)
        except ImageError as error:
            skipped[str(path)] = str(error).removeprefix(f"{path}: ")
            continue
        if not len(saved["view"]):
            skipped[str(path)] = "no common keypoints in its views"
            continue
        first, second = saved["first"].astype(np.float32), saved["second"].astype(np.float32)
        if number % HELD_OUT == 1:
            held_out.append((first, second, saved["view"]))
        elif sum(len(part[0]) for part in fitted) < MAX_PAIRS:
            fitted.append((first, second))
            used.append(digest)
    count = sum(len(part[0]) for part in fitted)
    if count < 2 * dimension:
        raise GeomatchError(
            f"{len(used)} images gave {count} pairs of keypoints, a head of {dimension} dimensions "
            f"needs at least {2 * dimension}: give more photographs, or a smaller dimension"
        )
    first, second = (np.concatenate([part[side] for part in fitted]) for side in (0, 1))
    head = fit_head(first, second, dimension, config.feature_settings())
    training = {"model": config.model, "images": used, "pairs": count, "views": views, "seed": seed}
    head = replace(head, training=training)
    projected = [(head.apply(a), head.apply(b), view) for a, b, view in held_out]
    measured = (rank1(held_out), rank1(projected)) if held_out else None
    return FittedHead(head, len(used), skipped, count, measured)


@isolated()
def fit_head(first: Rows, second: Rows, dimension: int, settings: dict[str, Any]) -> LinearHead:
    """Fit the directions in which different places differ most, measured by how much one place changes.

    Linear discriminant analysis with one class per pair of rows (N, D): with C the covariance of all
    activations and W half that of the differences of partners, the projection holds the leading solutions v
    of C v = m W v, scaled so that v' W v = 1. The solution is unique up to signs, which are fixed.
    """
    width = first.shape[1]
    if not 1 <= dimension <= width:
        raise ValueError(f"dimension must lie in 1..{width}, got {dimension}")
    mean = (first.mean(0, dtype=np.float64) + second.mean(0, dtype=np.float64)) / 2
    a = torch.from_numpy((first - mean).astype(np.float32))
    b = torch.from_numpy((second - mean).astype(np.float32))
    total = ((a.T @ a + b.T @ b) / (2 * len(a))).double()
    change = a - b
    within = (change.T @ change / (2 * len(a))).double()
    within += RIDGE * within.trace() / width * torch.eye(width, dtype=torch.float64)
    lower = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(lower, total, upper=False)
    symmetric = torch.linalg.solve_triangular(lower, half.T, upper=False)
    _, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    leading = vectors.flip(1)[:, :dimension]
    projection = torch.linalg.solve_triangular(lower.T, leading, upper=True)
    largest = projection.gather(0, projection.abs().argmax(0, keepdim=True))
    projection = projection * largest.sign()
    return LinearHead(mean.astype(np.float32), projection.numpy().astype(np.float32), settings)


def rank1(parts: Sequence[tuple[Rows, Rows, NDArray[np.int64]]]) -> float:
    """Share of first rows whose most similar second row of the same view, by cosine, is their partner."""
    right = total = 0
    for first, second, view in parts:
        a, b = (rows / np.maximum(np.linalg.norm(rows, axis=1)[:, None], 1e-12) for rows in (first, second))
        for number in np.unique(view):
            own = view == number
            right += int(((a[own] @ b[own].T).argmax(1) == np.arange(own.sum())).sum())
            total += int(own.sum())
    return right / total


def make_views(
    pixels: NDArray[np.uint8], rng: np.random.Generator, motion: Motion
) -> tuple[Image, Image, NDArray[np.float64]]:
    """A random part of the photograph, a second view of that part, and the homography between them."""
    first = _random_part(pixels, rng)
    motion_matrix = random_homography(rng, VIEW_SIZE, motion)
    view0 = change_light(rng, render_view(pixels, first, VIEW_SIZE))
    view1 = change_light(rng, render_view(pixels, motion_matrix @ first, VIEW_SIZE))
    return Image(view0, "view 0"), Image(view1, "view 1"), motion_matrix


def _random_part(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) from the photograph to a view of a part, enlarged only if it is smaller."""
    width, height = VIEW_SIZE
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
        raise ValueError("the keypoints need scale and orientation: detect with mixed or sift")
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


def view_activations(
    extractor: DIFTExtractor, path: Path, views: int, motions: Sequence[Motion], seed: int
) -> dict[str, NDArray[Any]]:
    """Rows of activations at partners in pairs of views of one image, and the number of their pair of views.

    Partners are `PER_VIEW` of SIFT's keypoints at random. Pairs of views without any are left out.
    """
    found: dict[str, list[Any]] = {"first": [], "second": [], "view": []}
    detector = OpenCVDetector("sift", max_keypoints=MAX_KEYPOINTS)
    pixels, number = load_image(path).pixels, 0
    for view in range(views):
        rng = np.random.default_rng([seed, 0, view])
        view0, view1, matrix = make_views(pixels, rng, motions[view % len(motions)])
        features0, features1 = detector.detect(view0), detector.detect(view1)
        pairs = true_pairs(features0, features1, matrix)
        if len(pairs):
            pairs = pairs[np.random.default_rng([seed, number]).permutation(len(pairs))[:PER_VIEW]]
            found["first"].append(extractor.describe(view0, features0[pairs[:, 0]]).descriptors)
            found["second"].append(extractor.describe(view1, features1[pairs[:, 1]]).descriptors)
            found["view"].append(np.full(len(pairs), number))
            number += 1
    return {name: np.concatenate(parts or [np.zeros(0)]) for name, parts in found.items()}

"""Correspondences without labels: one image seen twice, through a known homography and another light."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import warp_points
from geomatch.images import Image, load_image
from geomatch.keypoints import OpenCVDetector
from geomatch.synthetic import Motion, change_light, random_homography, render_view
from geomatch.types import Features

VIEW_SIZE = (640, 480)  # (width, height) of the synthetic views
OVERSAMPLING = 3  # samples along each side of a pixel of a tilted view
MAX_KEYPOINTS = 400  # of a view


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
    path: Path, views: int, seed: int, motions: Sequence[Motion], per_view: int
) -> Iterator[tuple[Image, Image, Features, Features]]:
    """Pairs of views of one image, with SIFT keypoints that correspond row by row, ``per_view`` at random.

    Motions take turns. Pairs without a common keypoint are left out.
    """
    found = 0
    detector = OpenCVDetector("sift", max_keypoints=MAX_KEYPOINTS)
    pixels = load_image(path).pixels
    for view in range(views):
        rng = np.random.default_rng([seed, 0, view])
        view0, view1, matrix = make_views(pixels, rng, motions[view % len(motions)])
        features0, features1 = detector.detect(view0), detector.detect(view1)
        pairs = true_pairs(features0, features1, matrix)
        if len(pairs):
            pairs = pairs[np.random.default_rng([seed, found]).permutation(len(pairs))[:per_view]]
            found += 1
            yield view0, view1, features0[pairs[:, 0]], features1[pairs[:, 1]]

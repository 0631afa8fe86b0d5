"""One transform for each of many images, by links between any two: a chain of neighbours would drift."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import require
from geomatch.estimators.planes import PLANES
from geomatch.geometry import image_corners, warp_points

Matrix = NDArray[np.float64]
Places = dict[int, Matrix]  # by image
_POINTS = 100  # of a link; more cost time and tell little
_SCALE = 1.0  # pixels from which on a difference counts linearly
_WRONG, _LEAST = 5.0, 3.0  # a link contradicts the rest if off by so many times the usual, and pixels
_JUMPS = (1, 2, 5)  # and ten times these, and so on


@dataclass(frozen=True, eq=False, slots=True)
class Link:
    """Two images of a sequence that were registered with each other."""

    i: int
    j: int
    matrix: Matrix  # (3, 3), from pixels of image i to those of image j; of the model, or of a simpler one
    points_i: NDArray[np.floating]  # (K, 2) inlier matches in pixels of image i
    points_j: NDArray[np.floating]  # (K, 2) their partners in image j


def pairs_of(count: int, reach: int = 20) -> list[tuple[int, int]]:
    """Which images of a sequence to link: neighbours, jumps of 2, 5, 10, 20, ... up to ``reach``, the first.

    >>> pairs_of(5, 2)
    [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
    """
    jumps = [step * 10**power for power in range(6) for step in _JUMPS if step * 10**power <= max(1, reach)]
    pairs = {(i, i + jump) for i in range(count) for jump in jumps if i + jump < count}
    return sorted(pairs | {(0, j) for j in range(1, count)})


def closures(
    matrices: Sequence[Matrix | None],
    sizes: Sequence[tuple[int, int]],
    tried: Collection[tuple[int, int]] = (),
    least: float = 0.2,
) -> list[tuple[int, int]]:
    """Pairs beyond those ``tried`` that overlap where they lie, most first: links that close a loop.

    ``matrices`` as `adjust` gives them, ``sizes`` (width, height); ``least`` is a share of the smaller image.
    """
    import cv2

    known = {n: matrix for n, matrix in enumerate(matrices) if matrix is not None}
    corners = {n: warp_points(known[n], image_corners(sizes[n])).astype(np.float32) for n in known}
    shares = {}
    for i, j in {*combinations(known, 2)} - {(min(pair), max(pair)) for pair in tried}:
        smaller = min(cv2.contourArea(corners[i]), cv2.contourArea(corners[j]))
        shares[i, j] = cv2.intersectConvexConvex(corners[i], corners[j])[0] / max(smaller, 1e-9)
    return sorted((pair for pair in shares if shares[pair] >= least), key=lambda pair: (-shares[pair], pair))


def adjust(
    count: int, links: Sequence[Link], model: str = "homography", reference: int = 0
) -> list[Matrix | None]:
    """Fit the transforms of ``count`` images to all links at once, with scipy's `least_squares`.

    What is made small, with a robust loss, are differences in pixels of image j: between its points and those
    of image i, sent to the reference and back. The fit starts from matrices chained along the links with most
    points. The link that contradicts the others most is dropped, and the fit repeated, until none does.

    Returns for each image (3, 3), from its pixels to those of the reference; None where no link leads to it
    that agrees with the others. Raises `MissingDependencyError` without scipy, and ValueError for an unknown
    model.
    """
    if model not in PLANES:
        raise ValueError(f"unknown model {model!r}; choose one of: {', '.join(PLANES)}")
    kept = [_thinned(link) for link in links]
    while True:
        places = _chained(kept, reference)
        kept = [link for link in kept if link.i in places]
        if not kept:
            break
        places = _fitted(places, kept, model, reference)
        errors = [_error(link, places) for link in kept]
        if max(errors) <= max(_LEAST, _WRONG * np.median(errors)):
            break
        del kept[errors.index(max(errors))]
    return [places.get(i) for i in range(count)]


def _thinned(link: Link) -> Link:
    """At most so many points, spread over the image: from each cell of a grid in turn."""
    points = np.asarray(link.points_i, np.float64)
    low, extent = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-9)
    cells = np.minimum((points - low) / extent * 10, 9).astype(int) @ (10, 1)
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], cells[order])
    chosen = order[np.argsort(np.arange(len(order)) - starts, kind="stable")[:_POINTS]]
    return replace(link, points_i=points[chosen], points_j=np.asarray(link.points_j, np.float64)[chosen])


def _chained(links: Sequence[Link], reference: int) -> Places:
    """Matrices to the reference; next always along the link with most points."""
    places, left = {reference: np.eye(3)}, sorted(links, key=lambda link: -len(link.points_i))
    while link := next((k for k in left if (k.i in places) != (k.j in places)), None):
        if link.i in places:
            places[link.j] = places[link.i] @ np.linalg.inv(link.matrix)
        else:
            places[link.i] = places[link.j] @ link.matrix
    return places


def _motions(model: str, values: Matrix) -> Matrix:
    """(N, 3, 3) motions near the identity, of parameters (N, P)."""
    made = np.tile(np.eye(3), (len(values), 1, 1))
    made.reshape(-1, 9)[:, :8] += values @ PLANES[model].tangent(np.eye(3)).T
    if model == "euclidean":
        made[:, :2, :2] /= np.sqrt(np.linalg.det(made[:, :2, :2]))[:, None, None]
    return made


def _fitted(places: Places, links: Sequence[Link], model: str, reference: int) -> Places:
    optimize: Any = require("scipy.optimize", "register", "the adjustment of a sequence")
    sparse: Any = require("scipy.sparse", "register", "the adjustment of a sequence")
    free = [i for i in places if i != reference]
    order = [reference, *free]
    row = {i: n for n, i in enumerate(order)}
    first, second = np.array([(row[link.i], row[link.j]) for link in links]).T
    owner = np.repeat(np.arange(len(links)), [len(link.points_i) for link in links])
    points = np.concatenate([link.points_i for link in links])
    targets = np.concatenate([link.points_j for link in links])
    scale = np.ptp(points, axis=0).max() / 2
    unit = np.array([[1, 0, -points[:, 0].mean()], [0, 1, -points[:, 1].mean()], [0, 0, scale]]) / scale
    before = np.array([places[i] for i in order])
    count = PLANES[model].freedom

    def placed(values: Matrix) -> Matrix:
        motions = _motions(model, np.concatenate([np.zeros(count), values]).reshape(-1, count))
        return np.asarray(before @ np.linalg.inv(unit) @ motions @ unit)

    def differences(values: Matrix) -> Matrix:
        now = placed(values)
        between = (np.linalg.inv(now)[second] @ now[first])[owner]
        sent = np.einsum("nij,nj->ni", between[:, :, :2], points) + between[:, :, 2]
        return np.asarray((sent[:, :2] / sent[:, 2:] - targets).ravel())

    touched = np.zeros((len(links), len(order)), bool)
    touched[np.arange(len(links)), first] = touched[np.arange(len(links)), second] = True
    pattern = sparse.csr_matrix(np.repeat(touched[:, 1:], count, axis=1))[np.repeat(owner, 2)]
    start, loss = np.zeros(count * len(free)), {"loss": "soft_l1", "f_scale": _SCALE}
    found = optimize.least_squares(differences, start, jac_sparsity=pattern, **loss)
    return {i: matrix / matrix[2, 2] for i, matrix in zip(order, placed(found.x), strict=True)}


def _error(link: Link, places: Places) -> float:
    """Median difference in pixels of image j."""
    between = np.linalg.inv(places[link.j]) @ places[link.i]
    return float(np.median(np.linalg.norm(warp_points(between, link.points_i) - link.points_j, axis=1)))

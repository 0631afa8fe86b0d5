"""WxBS v1.1 (Mishkin et al., BMVC 2015) from its folder, and what its protocols measure of a pair.

``CATEGORY/NAME/01.png`` and ``02.png`` (or ``.jpg``), and ``corrs.txt`` with lines ``x0 y0 x1 y1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, check_split, find_image
from geomatch.benchmarks.harness.task import Row
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.evaluation import ImagePair, PairScene
from geomatch.benchmarks.tasks.pairs.matches import limited, matched_points
from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.dift.maps.transfer import transfer_points
from geomatch.errors import GeomatchError, reading
from geomatch.images import load_image

Points = NDArray[np.float64]
WHOLE = {"test": 32, "validation": 2, "all": 34}
_VALIDATION = ("kyiv_dolltheater2", "petrzin")
THRESHOLDS = np.arange(20)
"""Pixels at which the share of right correspondences is taken (wxbs-benchmark 0.0.4)."""
_LEVEL = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""LoMa's F for a failure: epipolar lines are level, and points of the same height agree with it."""


@dataclass(frozen=True, slots=True)
class WxBSProtocol:
    """One way to evaluate; the images are looked at in their own size, pairs count alike."""

    name: str
    version: int
    source: str
    kind: Literal["F", "points"]
    """``F``: distances of the marked points from the epipolar lines of an estimated fundamental matrix, the
    root of the sum of both squares. ``points``: distances of partners found for the marked points, both ways."""
    headline: str  # mAA@T is the mean over t = 0 ... T of the share of points within t pixels
    stand_in: bool = (
        False  # True if LoMa's matrix takes the place of an estimate that failed, else all is wrong
    )
    max_keypoints: int = 4096
    max_matches: int | None = None


_PACKAGE = "wxbs-benchmark 0.0.4"
PROTOCOLS = {
    p.name: p
    for p in (
        WxBSProtocol("wxbs-f", 1, f"{_PACKAGE}, evaluate_Fs; failures are wrong", "F", "mAA@19"),
        WxBSProtocol("wxbs-f-loma", 1, "LoMa, benchmarks/wxbs.py", "F", "mAA@10", stand_in=True),
        WxBSProtocol("wxbs-pck", 1, f"{_PACKAGE}, evaluate_corrs, as RoMa v2 uses it", "points", "mAA@10"),
    )
}


def read_wxbs(folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """The pairs of a split, ``test`` unless given, by category and name; broken ones with the reason."""
    split = split or "test"
    check_split(split, WHOLE)
    root = folder / "v1.1" if (folder / "v1.1").is_dir() else folder
    scenes, broken = [], {}
    for place in sorted(path for path in root.glob("*/*/") if path.is_dir()):
        name = f"{place.parent.name}/{place.name}"
        if split != "all" and (place.name in _VALIDATION) != (split == "validation"):
            continue
        try:
            paths, marked = (find_image(place / "01"), find_image(place / "02")), place / "corrs.txt"
            with reading(marked, "list of correspondences"):
                points = np.loadtxt(marked, ndmin=2)
            if points.shape[1] != 4 or not len(points) or not np.isfinite(points).all():
                raise GeomatchError(f"{marked}: expected lines x0 y0 x1 y1, got shape {points.shape}")
        except GeomatchError as error:
            broken[name] = str(error)
            continue
        pair = ImagePair(f"{name} 1-2", place.parent.name, paths, points)
        scenes.append(PairScene(name, (pair,), (*paths, marked)))
    if not scenes:
        why = next(iter(broken.values()), "expected CATEGORY/NAME/01.png, 02.png and corrs.txt")
        raise GeomatchError(f"{folder}: no usable pair of WxBS; {why}")
    return DataSet(folder, scenes, broken, not broken and len(scenes) == WHOLE[split], split)


def measured(protocol: WxBSProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair) -> Row:
    """A row with the error of every marked point, in pixels."""
    if protocol.kind == "points":
        apart = _partners(method, pair) - np.vstack([pair.truth[:, 2:], pair.truth[:, :2]])
        return {"matches": len(apart), "reason": None, "errors": _listed(np.linalg.norm(apart, axis=1))}
    match = None if method.pair_matcher else method.match
    features = (limited(own, protocol) for own in (framed[0].features0, framed[0].features1))
    points0, points1, _ = matched_points(protocol, next(features), next(features), match)
    found = _fundamental(points0, points1)
    reason = None if found is not None else f"no fundamental matrix among {len(points0)} matches"
    if found is None and protocol.stand_in:
        found = _LEVEL
    errors = [None] * len(pair.truth) if found is None else _listed(line_distances(found, pair.truth))
    return {"matches": len(points0), "reason": reason, "errors": errors}


def failed(protocol: WxBSProtocol, reason: str) -> Row:
    """The row of a pair that cannot be evaluated: it counts as the worst result."""
    return {"matches": 0, "reason": reason, "errors": [None]}


def undefined(protocol: WxBSProtocol, method: Method) -> str | None:
    """Why a protocol has no meaning for a method."""
    if protocol.kind == "F":
        return f"{method.estimator} estimates no fundamental matrix" if method.estimator else None
    dense = hasattr(method.descriptor, "dense_many") and (method.dift is None or method.samples)
    if dense or hasattr(method.pair_matcher, "match_points"):
        return None
    return "it finds no partner for a point that is given, as dense descriptors and match_points do"


def line_distances(matrix: NDArray[np.float64], points: Points) -> Points:
    """(N,) root of the sum of squared distances of x0 y0 x1 y1 (N, 4) from each other's epipolar line.

    Hartley and Zisserman, 2nd ed., eq. 11.10, not squared, as wxbs-benchmark has it.
    """
    ones = np.ones((len(points), 1))
    homogeneous0, homogeneous1 = np.hstack([points[:, :2], ones]), np.hstack([points[:, 2:], ones])
    lines1, lines0 = homogeneous0 @ matrix.T, homogeneous1 @ matrix
    residual = np.abs((homogeneous1 * lines1).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = sum(1 / (lines[:, :2] ** 2).sum(1) for lines in (lines0, lines1))
        return np.asarray(residual * np.sqrt(inverse), np.float64)


def _fundamental(points0: Points, points1: Points) -> NDArray[np.float64] | None:
    try:
        found, _ = cv2.findFundamentalMat(points0, points1, cv2.USAC_MAGSAC, 0.25, 0.999, 100_000)
    except cv2.error:  # raised for too few matches
        return None
    return found if found is not None and found.shape == (3, 3) else None


def _partners(method: Method, pair: ImagePair) -> Points:
    """(2 N, 2) partners of the marked points: of those of image 0 in image 1, then the other way."""
    images = [load_image(path) for path in pair.paths]
    given = [
        np.clip(points, 0, np.array(image.size) - 1)
        for points, image in zip(np.split(pair.truth, 2, axis=1), images, strict=True)
    ]
    own: Any = method.pair_matcher
    if own is not None:
        return np.vstack([own.match_points(*images, given[0]), own.match_points(*images[::-1], given[1])])
    maps = method.maps(images)
    there = transfer_points(maps[0], maps[1], given[0], method.metric).points
    return np.vstack([there, transfer_points(maps[1], maps[0], given[1], method.metric).points])


def _listed(distances: Points) -> list[float | None]:
    return [float(one) if np.isfinite(one) else None for one in distances]

"""WxBS v1.1 (Mishkin et al., BMVC 2015) as a task: pairs, measures, and what reports show."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, chosen_split, find_image, read_matrix
from geomatch.benchmarks.harness.measures import with_failures
from geomatch.benchmarks.harness.task import Axes, Curve, Row, Task, Values, Words, by_name, threshold_of
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.tasks.pairs.evaluation import (
    ImagePair,
    PairEvaluation,
    PairScene,
    limited,
    line_distances,
    matched_points,
)
from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.dift.maps.transfer import transfer_points
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.images import load_image

Points = NDArray[np.float64]
WHOLE = {"test": 32, "validation": 2, "all": 34}
_VALIDATION = ("kyiv_dolltheater2", "petrzin")
THRESHOLDS = np.arange(20)
"""Pixels at which the share of right points is taken (wxbs-benchmark 0.0.4)."""
_LEVEL = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""LoMa's F for a failure: epipolar lines are level, and points of the same height agree with it."""


@dataclass(frozen=True, slots=True)
class WxBSProtocol:
    """One way to evaluate; images have their own size, pairs count alike, failures have no point right."""

    name: str
    version: int
    source: str
    headline: str  # mAA@T is the mean over t = 0 ... T of the share of points within t pixels
    partners: bool = False
    """True if errors are the distances of partners found for the marked points, both ways; else those of the
    points from the epipolar lines of an estimated fundamental matrix."""
    stand_in: bool = False  # True if LoMa's matrix takes the place of a failed estimate
    max_keypoints: int = 4096
    max_matches: int | None = None


PROTOCOLS: dict[str, WxBSProtocol] = by_name(
    WxBSProtocol("wxbs-f", 1, "wxbs-benchmark 0.0.4, evaluate_Fs", "mAA@19"),
    WxBSProtocol("wxbs-f-loma", 1, "LoMa, benchmarks/wxbs.py", "mAA@10", stand_in=True),
    WxBSProtocol("wxbs-pck", 1, "wxbs-benchmark's evaluate_corrs, as RoMa v2 uses it", "mAA@10", True),
)


def read_wxbs(folder: Path, split: str | None = None) -> DataSet[PairScene]:
    """The pairs ``CATEGORY/NAME`` of a split, ``test`` unless given; broken ones with the reason.

    Each is a folder with ``01.png`` and ``02.png`` (or jpg) and ``corrs.txt``, lines ``x0 y0 x1 y1``.
    """
    split = chosen_split("wxbs", split, WHOLE)
    root = folder / "v1.1" if (folder / "v1.1").is_dir() else folder
    scenes, broken = [], {}
    for place in sorted(path for path in root.glob("*/*") if path.is_dir()):
        name, marked = f"{place.parent.name}/{place.name}", place / "corrs.txt"
        if split != "all" and (place.name in _VALIDATION) != (split == "validation"):
            continue
        try:
            paths = find_image(place / "01"), find_image(place / "02")
            points = read_matrix(marked, "list of marked points", 4)
            pair = ImagePair(f"{name} 1-2", place.parent.name, paths, points)
            scenes.append(PairScene(name, (pair,), (*paths, marked)))
        except GeomatchError as error:
            broken[name] = str(error)
    if not scenes:
        why = next(iter(broken.values()), "expected CATEGORY/NAME/01.png, 02.png and corrs.txt")
        raise GeomatchError(f"{folder}: no usable pair of WxBS; {why}")
    return DataSet(folder, scenes, broken, not broken and len(scenes) == WHOLE[split], split)


def _measured(protocol: WxBSProtocol, method: Method, framed: Sequence[FramedPair], pair: ImagePair) -> Row:
    if protocol.partners:
        apart = _partners(method, pair) - np.vstack([pair.truth[:, 2:], pair.truth[:, :2]])
        return _row(len(apart), None, np.linalg.norm(apart, axis=1))
    match = None if method.pair_matcher else method.match
    own = limited(framed[0], protocol.max_keypoints)
    points0, points1, _ = matched_points(protocol.max_matches, own, match)
    try:
        found, _ = cv2.findFundamentalMat(points0, points1, cv2.USAC_MAGSAC, 0.25, 0.999, 100_000)
    except cv2.error:  # raised for too few matches
        found = None
    reason = f"no fundamental matrix among {len(points0)} matches" if found is None else None
    if found is None and not protocol.stand_in:
        return _row(len(points0), reason, np.full(len(pair.truth), np.inf))
    matrix = _LEVEL if found is None else np.asarray(found, np.float64)
    return _row(len(points0), reason, line_distances(matrix, pair.truth))


def _row(matches: int, reason: str | None, distances: NDArray[np.floating]) -> Row:
    errors = [float(one) if np.isfinite(one) else None for one in distances]
    return {"matches": matches, "reason": reason, "errors": errors}


def _partners(method: Method, pair: ImagePair) -> NDArray[np.floating]:
    """(2 N, 2) partners of the marked points: of those of image 0 in image 1, then the other way."""
    images, found = [load_image(path) for path in pair.paths], []
    matcher: Any = method.pair_matcher
    maps = [] if matcher else method.maps(images)
    for side, points in enumerate(np.split(pair.truth, 2, axis=1)):
        inside = np.clip(points, 0, np.array(images[side].size) - 1)
        if matcher:
            partners = np.asarray(matcher.match_points(images[side], images[1 - side], inside), np.float64)
            if partners.shape != inside.shape:
                raise FeaturesError(f"match_points returned shape {partners.shape}, not {inside.shape}")
            found.append(partners)
        else:
            found.append(transfer_points(maps[side], maps[1 - side], inside, method.metric).points)
    return np.vstack(found)


def _undefined(protocol: WxBSProtocol, method: Method) -> str | None:
    if not protocol.partners:
        return f"{method.estimator} estimates no fundamental matrix" if method.estimator else None
    dense = hasattr(method.descriptor, "dense_many") and (method.dift is None or method.samples)
    if dense or hasattr(method.pair_matcher, "match_points"):
        return None
    return "it finds no partners of given points, as dense descriptors and a pair_matcher's match_points do"


def _notes(protocol: WxBSProtocol) -> Words:
    measure = ("mAA@T", "mean over t = 0 ... T px of the share of points within t")
    if protocol.partners:
        return [measure, ("distances", "of the partners found for the marked points, both ways")]
    failures = "take the matrix of level lines" if protocol.stand_in else "have no point right"
    return [
        measure,
        ("distances", "from the epipolar lines in both images, the root of the sum of squares"),
        ("estimator", f"USAC_MAGSAC, 0.25 px, confidence 0.999, 100000 iterations; failures {failures}"),
    ]


def _values(protocol: WxBSProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, 20) share of points within `THRESHOLDS`."""
    return np.array([(with_failures(row["errors"])[:, None] <= THRESHOLDS).mean(0) for row in rows])


def _mean_to(threshold: float, found: Values) -> float:
    return 100 * float(found[:, threshold >= THRESHOLDS].mean())


def _worst(protocol: WxBSProtocol, row: Row) -> Words:
    value = _mean_to(threshold_of(protocol.headline), _values(protocol, [row]))
    return [(protocol.headline, f"{value:.1f}"), ("matches", str(row["matches"]))]


def curve(protocol: WxBSProtocol, rows: Sequence[Row]) -> Curve:
    """Thresholds in pixels, and the percentage of points within, each pair counting alike."""
    return THRESHOLDS.astype(np.float64), 100 * _values(protocol, rows).mean(0)


TASKS = {
    "wxbs": Task(
        "wxbs", "WxBS", ("pair", "pairs"), "pairs", WHOLE, read_wxbs, PROTOCOLS,
        partial(PairEvaluation, measured=_measured,
                frames=lambda protocol: [] if protocol.partners else ["original"]),
        lambda protocol, rows: {f"mAA@{t}": _mean_to(t, _values(protocol, rows)) for t in (10, 19)}, _values,
        statistic=lambda protocol, found: _mean_to(threshold_of(protocol.headline), found),
        severity=lambda protocol, found: -found.mean(1),
        worst=_worst, curve=curve, dense=False, undefined=_undefined, notes=_notes,
        axes=lambda protocol: Axes("Marked points within a distance", "threshold, px", "points within it, %"),
    )
}  # fmt: skip

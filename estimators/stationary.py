"""Matches that do not move and lie in a strip: the caption or watermark of two pictures, not their scene."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.evidence import Points
from geomatch.types import EstimationFailure, HomographyEstimate, RelativePose, TwoViewGeometry

_Model = TypeVar("_Model", HomographyEstimate, TwoViewGeometry, RelativePose)
Chosen = NDArray[np.bool_]
_MAX_AT_REST = 0.8  # share of the inliers that may lie in a strip at rest
_STILL = 2 / 3  # of the threshold: what has not moved; 2 px at 3 px
_LEAST = 6  # matches at rest, as Gate.min_inliers
_BORDER = 1 / 8  # of each side: where captions and frames lie
_BORDER_SHARE = 0.95
_COMPACT = 0.2  # of the image: a logo within it
_TRIMMED = 5  # per cent at either end of the matches at rest, which chance puts elsewhere


def watermark(p0: Points, p1: Points, threshold: float, size: tuple[float, float] | None) -> Chosen | None:
    """(M,) matches at rest, if they lie in a strip along the border of image 0 or in a small part of it.

    None where too few are at rest, or in too much of the image: a camera on a tripod moves nothing either.
    COLMAP marks such pairs as WATERMARK by the border alone (``TwoViewGeometryOptions``).
    """
    still = np.asarray(np.linalg.norm(p1 - p0, axis=1) <= _STILL * threshold)
    if still.sum() < _LEAST or size is None:
        return None
    places = p0[still] / (np.array(size) - 1)
    at_border = ((places < _BORDER) | (places > 1 - _BORDER)).any(axis=1)
    if at_border.mean() >= _BORDER_SHARE:
        return still
    low, high = np.percentile(places, [_TRIMMED, 100 - _TRIMMED], axis=0)
    others = p0[~still] / (np.array(size) - 1)
    inside = ((others >= low) & (others <= high)).all(axis=1)
    compact = float(np.prod(high - low)) <= _COMPACT
    return still if compact and len(others) >= _LEAST and inside.mean() < 0.5 else None


def beside_watermark(
    estimate: Callable[[Chosen], _Model | EstimationFailure],
    p0: Points,
    p1: Points,
    usable: Chosen,
    threshold: float,
    size: tuple[float, float] | None,
) -> _Model | EstimationFailure:
    """Estimate from usable matches that `watermark` does not set aside, from all where those say nothing.

    ``estimate`` takes (M,) which matches to use; its answer has inliers among them, the one returned among
    all M. That of all usable ones is an answer unless its inliers are the ones at rest.
    """

    def estimated(used: Chosen) -> _Model | EstimationFailure:
        found, inliers = estimate(used), used.copy()
        if not found:
            return found
        inliers[used] = found.inliers
        return replace(found, inliers=inliers)

    strip = watermark(p0[usable], p1[usable], threshold, size)
    if strip is None:
        return estimated(usable)
    at_rest = usable.copy()
    at_rest[usable] = strip
    found = estimated(usable & ~at_rest)
    if found:
        return replace(found, watermark=at_rest)
    with_all = estimated(usable)
    if with_all and (with_all.inliers & at_rest).sum() <= _MAX_AT_REST * with_all.num_inliers:
        return with_all
    return EstimationFailure(
        f"{int(at_rest.sum())} of {int(usable.sum())} matches do not move and lie in a small part of the "
        f"image, as a caption or watermark does; without them: {found.reason}",
        watermark=bool(with_all),
    )

"""A picture painted on one photograph, carried to others of the same thing (Tang et al., NeurIPS 2023).

A homography is estimated from points below the edit alone; the photographs need the same plane only there.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_parts, prepare_part
from geomatch.describers import as_dense, traits_of
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import transfer_points
from geomatch.editing.blending import EditLike, blend_edit, load_edit, painted_box
from geomatch.errors import ImageError
from geomatch.geometry import image_corners, normalize_homography, shift_homography, warp_points
from geomatch.images import Image, ImageLike, load_image
from geomatch.pipeline import Pipeline
from geomatch.tensors import FeatureTensors, detect_features
from geomatch.types import EstimationFailure, HomographyEstimate

DENSE_THRESHOLD = 5.0
"""Largest error in pixels of the target of an inlier among pixels, as in the paper."""
GROWTH = 0.5
"""Keypoints count as below the edit up to this far beside it, in units of the square root of its area: few
lie below small edits, and those beside them hold the corners."""
STEADY, SPLITS = 0.05, 7
"""Largest distance at which two halves of the matches may place the corners, in units of the edit's size, and
how often they are drawn. Right homographies of HPatches had at most 0.01, a wrong one that passed the
estimator's checks 0.06."""
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, eq=False, slots=True)
class PreparedEdit:
    """An edit and what is below it: all that `carry_edit` needs of the source, made once."""

    pixels: NDArray[np.uint8]
    """(H, W, 4) RGBA, not premultiplied."""
    source: Image
    """The photograph it was painted on, masked but for what is below the edit or near it."""
    pipeline: Pipeline
    """For source and targets."""
    keypoints: FeatureTensors
    """Those below the edit, with descriptors unless pixels are looked for."""
    places: NDArray[np.float64]
    """(N, 2) pixels below the edit that are looked for; none where keypoints are."""
    feature_map: FeatureMap | None
    """The source's, for pixels; None for keypoints."""


@dataclass(frozen=True, eq=False, slots=True)
class EditResult:
    """A target with the edit, or why there is none; false when there is none."""

    picture: NDArray[np.uint8] | None
    """(H, W, 3) RGB of the target's size; None when it failed."""
    homography: HomographyEstimate | EstimationFailure
    """From source to target, or the reason."""
    points0: NDArray[np.float64]
    """(M, 2) matched pixels of the source, best match first."""
    points1: NDArray[np.float64]
    """(M, 2) their partners in the target."""

    def __bool__(self) -> bool:
        return self.picture is not None


def prepare_edit(
    edit: EditLike,
    source: ImageLike,
    pipeline: Pipeline | None = None,
    max_points: int = 1000,
    seed: int = 0,
) -> PreparedEdit:
    """Choose and describe what is below an edit, a picture with transparency of the source's size.

    A pipeline with a dense descriptor takes at most ``max_points`` pixels below the edit, drawn at random by
    ``seed``, as the paper does, which takes 1000, with a threshold of 5; any other one the best keypoints
    (see `GROWTH`). By default it is that of `geomatch.match`.

    Raises ImageError when an image cannot be used, or the sizes differ, WeightsError when a model cannot be
    loaded, ValueError for options that make no sense.
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    pipeline = pipeline or Pipeline()
    pipeline.check_plane()
    pixels, photo = load_edit(edit), load_image(source)
    size = pixels.shape[1], pixels.shape[0]
    if size != photo.size:
        raise ImageError(
            f"the edit has {size[0]}x{size[1]} pixels, {photo.name} has {photo.size[0]}x{photo.size[1]}: "
            "give an edit painted on this photograph in its full size"
        )
    painted = pixels[:, :, 3] > 0
    away = cv2.distanceTransform((~painted).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = replace(photo, mask=away <= GROWTH * np.sqrt(painted.sum()))
    describer = pipeline.parts.describer
    dense = None if describer is None else as_dense(describer)
    if dense is None:
        keypoints = pipeline.describe([near])[0].features[:max_points]
        return PreparedEdit(pixels, near, pipeline, keypoints, np.zeros((0, 2)), None)
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(painted))[:max_points]
    places = np.stack(np.divmod(drawn, size[0])[::-1], axis=1).astype(np.float64)
    keypoints = detect_features(pipeline.parts.detector, near)[:max_points]
    return PreparedEdit(pixels, near, pipeline, keypoints, places, dense.dense(photo))


def carry_edit(prepared: PreparedEdit, target: ImageLike) -> EditResult:
    """Find in a target what is below the edit, and blend the edit in.

    Pixels are matched with the most similar pixel of the target, keypoints with its keypoints. The homography
    must be plausible over the edit's bounding box. A target that cannot be read is an `ImageError`.
    """
    photo, pipeline = load_image(target), prepared.pipeline
    points0, points1 = _matched(prepared, photo)
    # pixels are counted from the box, so that the estimator judges there, and not over all of the source
    left, top, width, height = box = painted_box(prepared.pixels)
    first, size, estimator = np.array([left, top]), (width, height), pipeline.parts.estimator
    found = estimator.estimate(points0 - first, points1, size)
    if pipeline.refine_homography and found:
        # pixels drawn are followed, too: few keypoints lie below small edits
        followed = np.concatenate([prepared.places, prepared.keypoints.keypoints.numpy(force=True)]) - first
        parts = [(prepare_part(prepared.source, photo, (-left, -top)), followed)]
        found = align_parts(parts, size, points0 - first, points1, found, estimator, pipeline.threshold)
    if not found:
        return EditResult(None, found, points0, points1)
    matrix = normalize_homography(found.matrix @ shift_homography(-left, -top))
    apart = _halves_apart(points0[found.inliers], points1[found.inliers], box)
    picture, reason = None, "the homography sends the edit to a place outside the target"
    if matrix is None:
        reason = "the homography sends the first pixel of the source to infinity"
    elif apart > STEADY:
        reason = f"two halves of its matches place the edit {100 * apart:.0f} % of its size apart"
    else:
        try:
            picture = blend_edit(prepared.pixels, matrix, photo.pixels)
        except ValueError as error:  # the estimator checked the box alone
            reason = str(error)
    if matrix is None or picture is None:
        return EditResult(None, EstimationFailure(reason), points0, points1)
    return EditResult(picture, replace(found, matrix=matrix), points0, points1)


def _halves_apart(points0: NDArray[np.float64], points1: NDArray[np.float64], box: Box) -> float:
    """How far random halves of the matches move the corners of a box apart, in units of its diagonal there.

    The median over `SPLITS`. Matches of neighbouring pixels agree with each other whatever is true, so that
    their number alone says little about a corner that none of them is near.
    """
    left, top, width, height = box
    corners = image_corners((width, height)) + np.array([left, top])
    rng, found = np.random.default_rng(0), []
    for _ in range(SPLITS):
        order = rng.permutation(len(points0))
        fits = [cv2.findHomography(points0[half], points1[half], 0)[0] for half in np.array_split(order, 2)]
        if any(fit is None for fit in fits):
            return np.inf
        places = [warp_points(np.asarray(fit, np.float64), corners) for fit in fits]
        diagonal = np.linalg.norm(np.ptp(places[0], axis=0))
        found.append(np.linalg.norm(places[0] - places[1], axis=1).mean() / max(float(diagonal), 1e-9))
    return float(np.median(found))


def _matched(prepared: PreparedEdit, target: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(M, 2) pixels of the source and (M, 2) of the target, best match first."""
    pipeline, describer = prepared.pipeline, prepared.pipeline.parts.describer
    if prepared.feature_map is not None and describer is not None and (dense := as_dense(describer)):
        target_map, metric = dense.dense(target), pipeline.metric or traits_of(describer).metric
        moved = transfer_points(prepared.feature_map, target_map, prepared.places, metric)
        order = np.argsort(-moved.similarity, kind="stable")
        return prepared.places[order], moved.points[order]
    (there,) = pipeline.describe([target])
    matches = pipeline.matches_of(prepared.keypoints, there.features, there.describer)
    sides = zip((prepared.keypoints, there.features), matches.indices.T, strict=True)
    first, second = (own.keypoints.numpy(force=True)[rows].astype(np.float64) for own, rows in sides)
    return first, second

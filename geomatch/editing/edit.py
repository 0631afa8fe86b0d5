"""A picture painted on one photograph, carried to others of the same thing.

The application of Tang et al. (NeurIPS 2023): points below the edit are found in the target by their
features, a homography is estimated from them alone, and the edit is warped by it and blended in. What the
photographs show need be plane, and the same, only below the edit.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_homography
from geomatch.describers import Describer, create_describer
from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap
from geomatch.dift.maps.transfer import transfer_points
from geomatch.editing.blending import EditLike, load_edit, painted_box, shift_homography, warp_edit
from geomatch.errors import ImageError
from geomatch.estimators import Estimator, create_estimator
from geomatch.geometry import image_corners, normalize_homography, warp_points
from geomatch.images import Image, ImageLike, load_image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.matching import match_mutual
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Metric

MAX_POINTS = 1000
"""Points below an edit that are looked for (the paper's number of pixels)."""
THRESHOLD, DENSE_THRESHOLD = 3.0, 5.0
"""Pixels of the target that an inlier may lie off: a keypoint as in `match`, a pixel as in the paper."""
KEYPOINTS = 3000
"""Keypoints detected in each image, as in `match`."""
GROWTH = 0.5
"""Keypoints count as below the edit up to this far beside it, in units of the square root of its area: few
lie below small edits, and those beside them hold the corners."""
STEADY, SPLITS = 0.05, 7
"""Largest distance at which two halves of the matches may place the corners, in units of the edit's size, and
how often they are drawn. Right homographies of HPatches had at most 0.01, a wrong one that the estimator's
gate let pass 0.06."""


@dataclass(frozen=True, eq=False, slots=True)
class PreparedEdit:
    """An edit and what is below it: all that `carry_edit` needs of the source, made once."""

    pixels: NDArray[np.uint8]
    """(H, W, 4) RGBA, not premultiplied."""
    source: Image
    """The photograph it was painted on."""
    describer: Describer
    """Of source and targets."""
    points: Features
    """What is looked for: keypoints with descriptors, or pixels below the edit without."""
    feature_map: FeatureMap | None
    """Of the source, for pixels; None for keypoints."""
    windows: NDArray[np.float32]
    """(K, 2) pixels of the source worth following when the homography is aligned: keypoints below the edit,
    and the pixels drawn, without which there are too few below small edits."""


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


@dataclass(frozen=True, slots=True)
class _Within:
    """An estimator whose homography must make sense over a box of image 0, not over all of it."""

    estimator: Estimator
    origin: tuple[int, int]
    """First pixel of the box."""
    size: tuple[int, int]
    """(width, height) of the box."""

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """See `Estimator`; ``image_size`` is that of the box."""
        found = self.estimator.estimate(points0 - np.array(self.origin, np.float64), points1, self.size)
        if not found:
            return found
        matrix = normalize_homography(found.matrix @ shift_homography(-self.origin[0], -self.origin[1]))
        if matrix is None:
            return EstimationFailure("the homography sends the first pixel of the source to infinity")
        return replace(found, matrix=matrix)


def propagate_edit(
    edit: EditLike,
    source: ImageLike,
    target: ImageLike,
    *,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
    estimator: str | Estimator = "usac_magsac",
    threshold: float | None = None,
    max_points: int = MAX_POINTS,
    seed: int = 0,
    refine_homography: bool = True,
) -> EditResult:
    """Carry an edit from the photograph it was painted on to another; see `prepare_edit` and `carry_edit`.

    Raises:
        ImageError: when an image cannot be used, or the edit has another size than the source.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense.
    """
    prepared = prepare_edit(edit, source, descriptor, max_points, seed)
    return carry_edit(prepared, target, estimator, threshold, refine_homography)


def prepare_edit(
    edit: EditLike,
    source: ImageLike,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
    max_points: int = MAX_POINTS,
    seed: int = 0,
) -> PreparedEdit:
    """Choose and describe what is below an edit.

    A dense DIFT descriptor takes pixels below the edit, drawn at random, as the paper does; any other one
    keypoints (see `GROWTH`), best first.

    Args:
        edit: a picture with transparency of the source's size, see `load_edit`.
        source: the photograph below it.
        descriptor: a preset, a diffusers model, a `DIFTConfig`, or an object with a ``describe`` method.
        max_points: pixels or keypoints at most.
        seed: of the draw.

    Raises:
        ImageError: when an image cannot be used, or the sizes differ.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense.
    """
    if max_points < 1:
        raise ValueError(f"max_points must be at least 1, got {max_points}")
    describer = create_describer(descriptor)
    dense = _dense(describer)
    if dense and (dense.config.head or dense.config.rotations * dense.config.scales > 1):
        raise ValueError("pixels are compared by one map as it is: leave out head, rotations and scales")
    pixels, photo = load_edit(edit), load_image(source)
    size = pixels.shape[1], pixels.shape[0]
    if size != photo.size:
        raise ImageError(
            f"the edit has {size[0]}x{size[1]} pixels, {photo.name} has {photo.size[0]}x{photo.size[1]}: "
            "give an edit painted on this photograph in its full size"
        )
    mask = pixels[:, :, 3] > 0
    below = _keypoints_below(mask, photo, max_points)
    if dense:
        chosen = np.random.default_rng(seed).permutation(np.flatnonzero(mask))[:max_points]
        rows, columns = np.divmod(chosen, size[0])
        places = np.stack([columns, rows], axis=1).astype(np.float32)
        drawn = Features(places, np.ones(len(places), np.float32), size)
        windows = np.concatenate([places, below.keypoints])
        return PreparedEdit(pixels, photo, dense, drawn, dense.dense(photo), windows)
    described = describer.describe(photo, below) if len(below) else below
    return PreparedEdit(pixels, photo, describer, described, None, below.keypoints)


def carry_edit(
    prepared: PreparedEdit,
    target: ImageLike,
    estimator: str | Estimator = "usac_magsac",
    threshold: float | None = None,
    refine_homography: bool = True,
) -> EditResult:
    """Find in a target what is below the edit, and blend the edit in.

    Pixels are matched with the most similar pixel of the target, keypoints with its keypoints by mutual
    nearest neighbours. The homography must make sense over the edit's bounding box.

    Args:
        prepared: see `prepare_edit`.
        target: another photograph.
        estimator: a name (`geomatch.estimators.estimators`) or an object.
        threshold: largest error of an inlier in pixels of the target, when the estimator is given by name;
            None takes `THRESHOLD` for keypoints, `DENSE_THRESHOLD` for pixels.
        refine_homography: estimate again from windows laid over the target to a fraction of a pixel, see
            `geomatch.alignment`.

    Raises:
        ImageError: when the target cannot be read.
        ValueError: for options that make no sense.
    """
    if threshold is None:
        threshold = default_threshold(prepared.describer)
    solver = create_estimator(estimator, threshold) if isinstance(estimator, str) else estimator
    photo = load_image(target)
    points0, points1 = _matched(prepared, photo)
    left, top, width, height = painted_box(prepared.pixels)
    within = _Within(solver, (left, top), (width, height))
    found = within.estimate(points0, points1)
    if refine_homography and found:
        found = align_homography(
            prepared.source, photo, prepared.windows, points0, points1, found, within, threshold
        )
    if not found:
        return EditResult(None, found, points0, points1)
    apart = _halves_apart(points0[found.inliers], points1[found.inliers], painted_box(prepared.pixels))
    if apart > STEADY:
        reason = f"two halves of its matches place the edit {100 * apart:.0f} % of its size apart"
        return EditResult(None, EstimationFailure(reason), points0, points1)
    try:
        layer = warp_edit(prepared.pixels, found.matrix, photo.size)
    except ValueError as error:  # the gate looked at the box alone, interpolation reaches a pixel further
        return EditResult(None, EstimationFailure(str(error)), points0, points1)
    if layer.empty:
        outside = EstimationFailure("the homography sends the edit to a place outside the target")
        return EditResult(None, outside, points0, points1)
    return EditResult(layer.over(photo.pixels), found, points0, points1)


def default_threshold(describer: Describer) -> float:
    """`DENSE_THRESHOLD` for what matches pixels, `THRESHOLD` for what matches keypoints."""
    return THRESHOLD if _dense(describer) is None else DENSE_THRESHOLD


def _dense(describer: Describer) -> DIFTExtractor | None:
    """The describer, if it is one whose feature maps are compared pixel by pixel."""
    if isinstance(describer, DIFTExtractor) and describer.config.sampling == "dense":
        return describer
    return None


def _keypoints_below(mask: NDArray[np.bool_], photo: Image, most: int) -> Features:
    """The best keypoints under a mask (H, W) or near it, see `GROWTH`."""
    found = create_detector(DEFAULT_DETECTOR, KEYPOINTS).detect(photo)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    columns, rows = np.clip(np.round(found.keypoints).astype(int), 0, np.array(photo.size) - 1).T
    near = np.flatnonzero(away[rows, columns] <= GROWTH * np.sqrt(mask.sum()))
    return found[near[np.argsort(-found.scores[near], kind="stable")[:most]]]


def _halves_apart(
    points0: NDArray[np.float64], points1: NDArray[np.float64], box: tuple[int, int, int, int]
) -> float:
    """How far random halves of matches move the corners of a box apart, in units of its diagonal there.

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
    points, describer = prepared.points, prepared.describer
    metric: Metric = describer.config.metric if isinstance(describer, DIFTExtractor) else "cosine"
    places = points.keypoints.astype(np.float64)
    dense = _dense(describer)
    if prepared.feature_map is not None and dense:
        moved = transfer_points(prepared.feature_map, dense.dense(target), places, metric)
        order = np.argsort(-moved.similarity, kind="stable")
        return places[order], moved.points[order]
    found = create_detector(DEFAULT_DETECTOR, KEYPOINTS).detect(target)
    if not len(points) or not len(found):
        return np.zeros((0, 2)), np.zeros((0, 2))
    found = describer.describe(target, found)
    if points.descriptors is None or found.descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    first, second = match_mutual(points.descriptors, found.descriptors, metric).indices.T
    return places[first], found.keypoints[second].astype(np.float64)

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
from geomatch.describers import Describer, as_dense, create_describer, describe_images, traits_of
from geomatch.dift import DIFTConfig, FeatureMap
from geomatch.dift.maps.transfer import transfer_points
from geomatch.editing.blending import EditLike, blend_edit, load_edit, painted_box
from geomatch.errors import ImageError
from geomatch.estimators import Estimator, create_estimator, threshold_of
from geomatch.geometry import image_corners, normalize_homography, shift_homography, warp_points
from geomatch.images import Image, ImageLike, load_image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.matching import match_mutual
from geomatch.types import EstimationFailure, Features, HomographyEstimate

THRESHOLD, DENSE_THRESHOLD = 3.0, 5.0
"""Largest error of an inlier in pixels of the target: of a keypoint as in `match`, of a pixel as in the
paper."""
KEYPOINTS = 3000
"""Keypoints detected in each image, as in `match`."""
GROWTH = 0.5
"""Keypoints count as below the edit up to this far beside it, in units of the square root of its area: few
lie below small edits, and those beside them hold the corners."""
STEADY, SPLITS = 0.05, 7
"""Largest distance at which two halves of the matches may place the corners, in units of the edit's size, and
how often they are drawn. Right homographies of HPatches had at most 0.01, a wrong one that passed the
estimator's checks 0.06."""
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, slots=True)
class EditOptions:
    """How the place of an edit is found in another photograph; `ValueError` for what makes no sense."""

    estimator: str | Estimator = "usac_magsac"
    """A name (`geomatch.estimators.estimators`), or an object, which has its own threshold."""
    threshold: float | None = None
    """Largest error of an inlier in pixels of the target, for an estimator given by name; None takes 3 for
    keypoints, as `geomatch.match`, and 5 for pixels, as the paper."""
    max_points: int = 1000
    """Keypoints or pixels below the edit, at most (the paper's number of pixels)."""
    refine_homography: bool = True
    """Refine by Lucas-Kanade to a fraction of a pixel, see `geomatch.alignment`."""
    seed: int = 0
    """Random seed of the pixels drawn."""

    def __post_init__(self) -> None:
        if self.max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {self.max_points}")


@dataclass(frozen=True, eq=False, slots=True)
class PreparedEdit:
    """An edit and what is below it: all that `carry_edit` needs of the source, made once."""

    pixels: NDArray[np.uint8]
    """(H, W, 4) RGBA, not premultiplied."""
    source: Image
    """The photograph it was painted on."""
    describer: Describer
    """For source and targets."""
    points: Features
    """What is looked for: keypoints with descriptors, or pixels below the edit without."""
    feature_map: FeatureMap | None
    """The source's, for pixels; None for keypoints."""
    followed: NDArray[np.float32]
    """(K, 2) pixels of the source that Lucas-Kanade follows: keypoints below the edit, and the pixels drawn,
    without which there are too few below small edits."""
    estimator: Estimator
    refine_homography: bool


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
    """An estimator whose homography must be plausible over a box of image 0, not over all of it."""

    estimator: Estimator
    box: Box

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """As `Estimator.estimate`, but with the box for ``image_size``."""
        left, top, width, height = self.box
        found = self.estimator.estimate(points0 - np.array([left, top], np.float64), points1, (width, height))
        if not found:
            return found
        matrix = normalize_homography(found.matrix @ shift_homography(-left, -top))
        if matrix is None:
            return EstimationFailure("the homography sends the first pixel of the source to infinity")
        return replace(found, matrix=matrix)


def propagate_edit(
    edit: EditLike,
    source: ImageLike,
    target: ImageLike,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
    options: EditOptions | None = None,
) -> EditResult:
    """Carry an edit from the photograph it was painted on to another: `prepare_edit`, then `carry_edit`."""
    return carry_edit(prepare_edit(edit, source, descriptor, options), target)


def prepare_edit(
    edit: EditLike,
    source: ImageLike,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
    options: EditOptions | None = None,
) -> PreparedEdit:
    """Choose and describe what is below an edit, a picture with transparency of the source's size.

    A dense descriptor takes pixels below the edit, drawn at random, as the paper does; any other one
    keypoints (see `GROWTH`), best first. It is a preset, a diffusers model, a `DIFTConfig` or a describer.

    Raises ImageError when an image cannot be used, or the sizes differ, WeightsError when a model cannot be
    loaded, ValueError for options that make no sense.
    """
    options, describer = options or EditOptions(), create_describer(descriptor)
    dense, estimator = as_dense(describer), options.estimator
    if isinstance(estimator, str):
        usual = THRESHOLD if dense is None else DENSE_THRESHOLD
        estimator = create_estimator(estimator, usual if options.threshold is None else options.threshold)
    pixels, photo = load_edit(edit), load_image(source)
    size = pixels.shape[1], pixels.shape[0]
    if size != photo.size:
        raise ImageError(
            f"the edit has {size[0]}x{size[1]} pixels, {photo.name} has {photo.size[0]}x{photo.size[1]}: "
            "give an edit painted on this photograph in its full size"
        )
    mask = pixels[:, :, 3] > 0
    device = traits_of(describer).device
    below = _keypoints_below(mask, photo, options.max_points, device)
    points, followed, feature_map = below, below.keypoints, None
    if dense is None:
        points = describe_images(describer, [photo], [below])[0]
    else:
        rng = np.random.default_rng(options.seed)
        rows, columns = np.divmod(rng.permutation(np.flatnonzero(mask))[: options.max_points], size[0])
        places = np.stack([columns, rows], axis=1).astype(np.float32)
        points = Features(places, np.ones(len(places), np.float32), size)
        followed, feature_map = np.concatenate([places, followed]), dense.dense(photo)
    return PreparedEdit(
        pixels, photo, describer, points, feature_map, followed, estimator, options.refine_homography
    )


def carry_edit(prepared: PreparedEdit, target: ImageLike) -> EditResult:
    """Find in a target what is below the edit, and blend the edit in.

    Pixels are matched with the most similar pixel of the target, keypoints with its keypoints by mutual
    nearest neighbours. The homography must be plausible over the edit's bounding box. A target that cannot be
    read is an `ImageError`.
    """
    photo = load_image(target)
    points0, points1 = _matched(prepared, photo)
    box = painted_box(prepared.pixels)
    within = _Within(prepared.estimator, box)
    found = within.estimate(points0, points1)
    if prepared.refine_homography and found:
        found = align_homography(
            prepared.source, photo, prepared.followed, points0, points1, found, within,
            threshold_of(prepared.estimator, THRESHOLD),
        )  # fmt: skip
    if not found:
        return EditResult(None, found, points0, points1)
    apart = _halves_apart(points0[found.inliers], points1[found.inliers], box)
    picture, reason = None, "the homography sends the edit to a place outside the target"
    if apart > STEADY:
        reason = f"two halves of its matches place the edit {100 * apart:.0f} % of its size apart"
    else:
        try:
            picture = blend_edit(prepared.pixels, found.matrix, photo.pixels)
        except ValueError as error:  # the estimator checked the box alone
            reason = str(error)
    return EditResult(picture, EstimationFailure(reason) if picture is None else found, points0, points1)


def _keypoints_below(mask: NDArray[np.bool_], photo: Image, most: int, device: str) -> Features:
    """The best keypoints under a mask (H, W) or near it, see `GROWTH`."""
    found = create_detector(DEFAULT_DETECTOR, KEYPOINTS, device).detect(photo)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    columns, rows = np.clip(np.round(found.keypoints).astype(int), 0, np.array(photo.size) - 1).T
    near = np.flatnonzero(away[rows, columns] <= GROWTH * np.sqrt(mask.sum()))
    return found[near[np.argsort(-found.scores[near], kind="stable")[:most]]]


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
    points, metric = prepared.points, traits_of(prepared.describer).metric
    places, dense = points.keypoints.astype(np.float64), as_dense(prepared.describer)
    if prepared.feature_map is not None and dense:
        moved = transfer_points(prepared.feature_map, dense.dense(target), places, metric)
        order = np.argsort(-moved.similarity, kind="stable")
        return places[order], moved.points[order]
    device = traits_of(prepared.describer).device
    found = create_detector(DEFAULT_DETECTOR, KEYPOINTS, device).detect(target)
    if not len(points) or not len(found):
        return np.zeros((0, 2)), np.zeros((0, 2))
    (found,) = describe_images(prepared.describer, [target], [found])
    if points.descriptors is None or found.descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    first, second = match_mutual(points.descriptors, found.descriptors, metric).indices.T
    return places[first], found.keypoints[second].astype(np.float64)

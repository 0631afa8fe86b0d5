"""From two images to a homography: detect, describe, match, refine, estimate."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_homography
from geomatch.content import check_content
from geomatch.describers import (
    DenseDescriber,
    Describer,
    as_dense,
    choose_parts,
    create_describer,
    default_config,
    describe_tensors,
    traits_of,
)
from geomatch.dift import DIFTConfig
from geomatch.dift.maps.feature_map import FeatureMap
from geomatch.dift.maps.refine import refine_matches
from geomatch.estimators import Estimator, Gate, create_estimator, threshold_of
from geomatch.estimators.models import EXIF, MODELS, Model, create_model
from geomatch.images import CONVERSION, Conversion, Image, ImageLike, load_image
from geomatch.keypoints import Detector, GridDetector
from geomatch.matchers import Matcher, match_features
from geomatch.matching import check_options, check_rows, mutual_nearest
from geomatch.parallel import side_by_side
from geomatch.provenance import record, versions
from geomatch.stream import clocked
from geomatch.tensors import FeatureTensors, detect_features, upload_features
from geomatch.types import EstimationFailure, Features, Geometry, HomographyEstimate, Matches, Metric
from geomatch.views.features import SIDE, FramedFeatures, view_features
from geomatch.views.matching import learned_pairs, nearest_elsewhere
from geomatch.views.search import (
    Effort,
    check_effort,
    has_views,
    is_weak,
    relate_plane,
    search_views,
    seen_together,
    stages_of,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class MatchResult:
    """What `match` found, and how."""

    image0: Image
    image1: Image
    features0: Features
    """Keypoints of image 0, with descriptors if both images have keypoints."""
    features1: Features
    """Keypoints of image 1; a refined keypoint has the descriptor that it was matched by."""
    matches: Matches
    """Best first."""
    geometry: Geometry
    """What was asked for as ``model``, from image 0 to image 1; false, with a reason, when there is none."""
    seconds: dict[str, float]
    """Wall time per stage: read, load_model, detect, describe, match, refine_keypoints (of a grid), estimate,
    check_mirrored (after a failure, but for large models), search_views (where `effort` asks for it),
    refine_homography, check_content (of features that see more than patches)."""
    settings: dict[str, Any]
    """Images, detector, descriptor, matching, refinement and estimator as used, as JSON can hold them."""

    @property
    def homography(self) -> HomographyEstimate | EstimationFailure:
        """The ``geometry`` where it is a homography; false, with a reason, when there is none."""
        if isinstance(self.geometry, HomographyEstimate | EstimationFailure):
            return self.geometry
        return EstimationFailure("another model was asked for")

    @property
    def points0(self) -> NDArray[np.float32]:
        """(M, 2) matched pixels of image 0, best match first."""
        return self.features0.keypoints[self.matches.indices[:, 0]]

    @property
    def points1(self) -> NDArray[np.float32]:
        """(M, 2) their partners in image 1."""
        return self.features1.keypoints[self.matches.indices[:, 1]]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        found = self.geometry
        return {
            **_described(found, self.settings["model"]["type"]),
            "reason": None if found else found.reason,
            "remarks": list(found.remarks) if found else [],
            "num_keypoints": [len(self.features0), len(self.features1)],
            "num_matches": len(self.matches),
            "num_inliers": found.num_inliers,
            "seconds": {stage: round(spent, 4) for stage, spent in self.seconds.items()},
            "settings": self.settings,
            "versions": versions(),
        }


def _described(found: Geometry, model: str) -> dict[str, Any]:
    """What ``result.json`` says of a geometry: each entry is None without one."""
    if model == "Homography":
        names = {"homography": "matrix", "corner_deviations": "corner_deviations"}
    elif model == "Essential":
        own = ("rotation", "translation", "rotation_deviation", "translation_deviation", "second")
        names = {name: name for name in own}
    else:
        names = {"fundamental": "matrix"}
    values = {name: getattr(found, attribute, None) for name, attribute in names.items()}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else None if value == np.inf else value
        for name, value in values.items()
    }


def match(
    image0: ImageLike,
    image1: ImageLike,
    *,
    detector: str | Detector | None = None,
    descriptor: str | DIFTConfig | Describer | None = None,
    matcher: str | Matcher | None = None,
    estimator: str | Estimator = "usac_magsac",
    model: str | Model = "homography",
    metric: Metric | None = None,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
    max_keypoints: int = 3000,
    threshold: float = 3.0,
    refine_keypoints: bool | None = None,
    refine_homography: bool = True,
    effort: Effort = "normal",
    apply_exif: bool = True,
    conversion: Conversion = CONVERSION,
) -> MatchResult:
    """Register two photographs.

    Args:
        image0: path, RGB array or PIL image; see `geomatch.load_image`.
        image1: the other image.
        detector: a name (`geomatch.keypoints.detectors`) or an object; by default SIFT's keypoints and those
            of the embedded network, interleaved (`MixedDetector`).
        descriptor: a preset (`geomatch.dift.PRESETS`), a diffusers folder, a single file or a hub id, a
            `DIFTConfig` or an object (`geomatch.describers.Describer`). By default the embedded model:
            ``dift-tiny`` where keypoints have scale and orientation, ``dift-tiny-dense`` where not. ``own``
            takes what the detector brings.
        matcher: ``mnn``, mutual nearest neighbours, by default; a learned one (`geomatch.matchers.LEARNED`),
            which brings detector and descriptor; or an object (`geomatch.matchers.Matcher`).
        estimator: a name (`geomatch.estimators.estimators`) or an object.
        model: ``homography``; ``fundamental``; ``essential``, with focal lengths of EXIF data; or an object,
            ``Fundamental()`` or ``Essential(camera0, camera1)``, which brings its threshold.
        metric: of ``mnn``: ``cosine`` or ``l2``, see `match_mutual`; by default the descriptor's own.
        min_similarity: least similarity of a match; of other matchers the least confidence.
        max_ratio: of ``mnn``: Lowe's ratio test.
        max_keypoints: per image, when the detector is given by name.
        threshold: largest error of an inlier in pixels of image 1, when the estimator, or another model, is
            given by name; an object brings its own (`Estimator`).
        refine_keypoints: move each matched keypoint of image 1 to where its features agree best with its
            partner's, see `geomatch.dift.maps.refine`; those of image 0 stay. None does so for a grid
            described densely; keypoints of other detectors are placed more exactly than feature maps tell.
        refine_homography: refine a homography by Lucas-Kanade, see `geomatch.alignment`; the keypoints stay.
        effort: where the matches tell nothing certain, tilted views of both images are matched
            (`geomatch.views`): with ``normal`` tilts of 2 and 4, with ``high`` more keypoints and tilts up to
            6, with ``fast`` none; learned matchers do without the last. Not for grids, and for large networks
            with ``high`` only.
        apply_exif: turn the images as their EXIF orientation says.
        conversion: how images of more than 8 bits, or more than three bands, become RGB.

    Returns:
        Everything found; ``result.geometry`` is false when there is none, which is no error; a homography is
        ``result.homography``, too. With features that see more than patches it follows the content, not the
        frame (`geomatch.content`).

    Raises:
        ImageError: when an image cannot be read.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense, such as ``refine_keypoints`` for anything but a grid
            described densely.
    """
    check_effort(effort)
    check_options(metric, min_similarity, max_ratio, matcher in (None, "mnn"))
    seconds: dict[str, float] = {}
    if estimator != "usac_magsac" and model != "homography":
        raise ValueError("an estimator is for homographies; other models bring their own")
    estimate = create_estimator(estimator, threshold) if isinstance(estimator, str) else estimator
    if isinstance(model, str) and model not in MODELS:
        raise ValueError(f"unknown model {model!r}; choose one of: {', '.join(MODELS)}, or give an object")
    learned, detect, describer = choose_parts(matcher, detector, descriptor, max_keypoints)
    read = partial(load_image, apply_exif=apply_exif, conversion=conversion)
    with _timed(seconds, "read"):
        images = [read(image) for image in (image0, image1)]  # both may be one object of Pillow
    sources = [image if isinstance(image, str | PathLike) else None for image in (image0, image1)]
    other = None if model == "homography" else create_model(model, threshold, sources, images)
    with _timed(seconds, "detect"):
        detected, together = partial(detect_features, detect), getattr(detect, "reentrant", False)
        found = side_by_side(detected, images) if together else list(map(detected, images))
    if describer is None:
        oriented = all(f.scales is not None and f.orientations is not None for f in found if len(f))
        describer = create_describer(default_config(oriented and not isinstance(detect, GridDetector)))
    refining = _refining(refine_keypoints, detect, describer)
    if metric is None and learned is None:
        metric = traits_of(describer).metric
    rules: Any = {"metric": metric, "min_similarity": min_similarity, "max_ratio": max_ratio}
    matched = partial(_match, matcher=learned, **rules)
    describable = all(len(features) for features in found)
    with _timed(seconds, "load_model"):
        if describable and hasattr(describer, "load_networks"):  # so that its time is not the description's
            describer.load_networks()
    maps: list[FeatureMap] = []
    with _timed(seconds, "describe"):
        if describable and refining is not None:
            maps = refining.dense_many(images)
            arrays = [features.to_features() for features in found]
            described = [refining.describe_map(*pair) for pair in zip(maps, arrays, strict=True)]
            found = [upload_features(features, "cpu") for features in described]
        elif describable:
            found = _describe(describer, images, found)
    with _timed(seconds, "match"):
        matches = matched(features0=found[0], features1=found[1])
    features0, features1 = (features.to_features() for features in found)
    if maps:
        with _timed(seconds, "refine_keypoints"):
            step = detect.spacing(images[1].size) if isinstance(detect, GridDetector) else 0
            moved = refine_matches(maps[0], maps[1], features0, features1, matches, step)
            features1 = replace(features1, keypoints=moved)
    plain0, limit = features0, threshold_of(estimate, threshold)
    i, j = matches.indices.T
    points0, points1 = features0.keypoints[i], features1.keypoints[j]

    def related(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Geometry:
        if other is not None:
            return other.estimate(points0, points1, images[0].size, images[1].size)
        return estimate.estimate(points0, points1, images[0].size)

    def in_frames(matches: Matches, framed0: FramedFeatures, framed1: FramedFeatures) -> Geometry:
        i, j = matches.indices.T
        return related(framed0.points[i], framed1.points[j])

    def again(features: Features) -> Geometry:
        matches = matched(features0=found[0], features1=upload_features(features, "cpu"))
        i, j = matches.indices.T
        return related(plain0.keypoints[i], features.keypoints[j])

    with _timed(seconds, "estimate"):
        empty = [index for index, features in enumerate(found) if not len(features)]
        geometry = (
            EstimationFailure(f"no keypoints in image {empty[0]}") if empty else related(points0, points1)
        )
    mirrored = False
    if not geometry and describable and not traits_of(describer).large:
        with _timed(seconds, "check_mirrored"):
            turned = Image(np.ascontiguousarray(images[1].pixels[:, ::-1]), images[1].name)
            own = detect.detect(turned)
            agreeing = again(describer.describe(turned, own)) if len(own) else geometry
            # a symmetric plane's few say nothing where most agreed, but gave no epipolar geometry
            mirrored = bool(agreeing) and (other is None or agreeing.num_inliers > len(matches) / 4)
            if mirrored:
                geometry = EstimationFailure(
                    f"one image is mirrored: with image 1 turned over, left to right, {agreeing.num_inliers} "
                    "matches agree; turn one of them over first"
                )
    searched = None
    if describable and not mirrored and has_views(detect, describer, effort) and is_weak(geometry):
        with _timed(seconds, "search_views"):
            gate = getattr(estimate, "gate", None) if other is None and learned is None else None
            gate = gate if isinstance(gate, Gate) else None
            coarse = max(1.0, max(images[1].size) / SIDE)  # views of larger images are reduced
            relate = in_frames if gate is None else relate_plane(gate, limit * coarse, images[0].size)
            see = partial(view_features, detector=detect, describer=describer)
            stages = stages_of(effort, describer, learned is not None)
            if learned is None:
                tentative = nearest_elsewhere(metric or "cosine", min_similarity, max_ratio)
            else:
                tentative = learned_pairs(learned, min_similarity)
            together = seen_together(detect, describer)
            searched = search_views(images, found, see, tentative, stages, relate, together)
    if searched is not None and searched.geometry.num_inliers > geometry.num_inliers:
        (features0, features1), matches, geometry = searched.features, searched.matches, searched.geometry
        points0, points1 = (own.keypoints[: len(matches)] for own in (features0, features1))
    if refine_homography and isinstance(geometry, HomographyEstimate):
        with _timed(seconds, "refine_homography"):
            geometry = align_homography(
                images[0], images[1], features0.keypoints, points0, points1, geometry, estimate, threshold
            )
    if geometry and not traits_of(describer).local:
        with _timed(seconds, "check_content"):
            geometry = check_content(
                images[0], images[1], features0, features1, geometry, describer, again, limit
            )
    settings = {
        **{
            f"image{n}": {"name": image.name, "size": list(image.size), "note": image.note}
            for n, image in enumerate(images)
        },
        "apply_exif": apply_exif,
        "conversion": asdict(conversion),
        "detector": record(detect),
        "descriptor": record(describer),
        "remark": getattr(describer, "remark", None) if describable else None,
        "matching": {"matcher": record(learned or "mnn"), **rules},
        "refine_keypoints": refining is not None,
        "refine_homography": refine_homography,
        "effort": effort,
        "tilts": [] if searched is None else list(searched.tilts),
        "model": {"type": "Homography"} if other is None else record(other),
        "cameras": EXIF if model == "essential" else None,
        "estimator": record(estimate) if other is None else None,
    }
    return MatchResult(images[0], images[1], features0, features1, matches, geometry, seconds, settings)


def _refining(
    refine_keypoints: bool | None, detector: Detector, describer: Describer
) -> DenseDescriber | None:
    """The describer in whose maps keypoints are refined; None for no refinement."""
    dense = as_dense(describer)
    if isinstance(detector, GridDetector) and dense is not None:
        return None if refine_keypoints is False else dense
    if refine_keypoints:
        wrong = (
            "the descriptor samples no map of the whole image" if dense is None else "the detector is no grid"
        )
        raise ValueError(f"refine_keypoints=True is for a grid described densely, but {wrong}")
    return None


def _describe(
    describer: Describer, images: Sequence[Image], found: Sequence[FeatureTensors]
) -> list[FeatureTensors]:
    """Side by side where the describer allows; large networks want all cores, or both images in one pass."""
    traits = traits_of(describer)
    if traits.large or not traits.reentrant:
        return describe_tensors(describer, images, found)
    pairs = list(zip(images, found, strict=True))
    return side_by_side(lambda pair: describe_tensors(describer, [pair[0]], [pair[1]])[0], pairs)


def _match(
    features0: FeatureTensors,
    features1: FeatureTensors,
    matcher: Matcher | None,
    metric: Metric | None,
    min_similarity: float | None,
    max_ratio: float | None,
) -> Matches:
    if matcher is not None:
        return match_features(matcher, features0.to_features(), features1.to_features(), min_similarity)
    if not len(features0) or not len(features1):
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    a, b = features0.descriptors, features1.descriptors
    if a is None or b is None:
        raise ValueError("the descriptor returned features without descriptors")
    for rows in (a, b):
        check_rows(rows)
    found = mutual_nearest(a, b.to(a.device), metric or "cosine", min_similarity, max_ratio)
    return Matches(*(part.numpy(force=True) for part in found))


_DOING = {
    "detect": "detecting keypoints",
    "describe": "describing keypoints",
    "match": "matching",
    "search_views": "searching tilted views",
    "refine_homography": "refining the homography",
}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    if stage in _DOING:
        _log.info("%s", _DOING[stage])
    with clocked(seconds, stage):
        yield

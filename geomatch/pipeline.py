"""Everything that is chosen between images and what relates them, and the first half of it: description."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

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
from geomatch.estimators import Estimator, create_estimator
from geomatch.estimators.models import MODELS, PLANE_MODELS, Model, create_model
from geomatch.images import Image
from geomatch.keypoints import Detector, GridDetector
from geomatch.matchers import Matcher, match_features
from geomatch.matching import check_options, check_rows, match_many
from geomatch.parallel import side_by_side
from geomatch.provenance import settings_key
from geomatch.stream import clocked
from geomatch.tensors import FeatureTensors, detect_features, upload_features
from geomatch.types import Features, Matches, Metric
from geomatch.views.search import STAGES, Effort

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Described:
    """An image and its described keypoints, to be matched with others."""

    image: Image
    features: FeatureTensors
    """Without descriptors where the image has no keypoints, or its partner has none."""
    describer: Describer
    feature_map: FeatureMap | None = None
    """Where keypoints are refined, see `Pipeline.refine_keypoints`."""


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """What names stand for."""

    matcher: Matcher | None
    """None for mutual nearest neighbours."""
    detector: Detector
    describer: Describer | None
    """None for that which suits the keypoints."""
    estimator: Estimator
    """That of planes."""


@dataclass(frozen=True, eq=False, slots=True)
class Pipeline:
    """Everything between images and what relates them, made once for many; ValueError for wrong options."""

    detector: str | Detector | None = None
    """A name (`geomatch.keypoints.detectors`) or an object; by default SIFT's keypoints and those of the
    embedded network, interleaved (`MixedDetector`)."""
    descriptor: str | DIFTConfig | Describer | None = None
    """A preset (`geomatch.dift.PRESETS`), a diffusers folder, a single file or a hub id, a `DIFTConfig` or an
    object (`geomatch.describers.Describer`). By default the embedded model: ``dift-tiny`` where keypoints
    have scale and orientation, ``dift-tiny-dense`` where not. ``own`` takes what the detector brings."""
    matcher: str | Matcher | None = None
    """``mnn``, mutual nearest neighbours, by default; a learned one (`geomatch.matchers.LEARNED`), which
    brings detector and descriptor; or an object (`geomatch.matchers.Matcher`)."""
    estimator: str | Estimator = "usac_magsac"
    """A name (`geomatch.estimators.estimators`) or an object."""
    model: str | Model = "homography"
    """``homography``, ``affine``, ``similarity``, ``euclidean``, ``translation``, or ``auto``, the simplest
    of these that explains the matches; ``fundamental``; ``essential``, with focal lengths of EXIF data; or an
    object, ``Fundamental()`` or ``Essential(camera0, camera1)``, which brings its threshold."""
    metric: Metric | None = None
    """For ``mnn``: ``cosine`` or ``l2``, see `match_mutual`; by default the descriptor's own."""
    min_similarity: float | None = None
    """Least similarity of a match; of other matchers the least confidence."""
    max_ratio: float | None = None
    """For ``mnn``: Lowe's ratio test."""
    max_keypoints: int = 3000
    """Per image, when the detector is given by name."""
    threshold: float = 3.0
    """Largest error of an inlier in pixels of image 1, when the estimator, or another model, is given by
    name; an object brings its own (`Estimator`)."""
    refine_keypoints: bool | None = None
    """Move each matched keypoint of image 1 to where its features agree best with its partner's, see
    `geomatch.dift.maps.refine`; those of image 0 stay. None does so for a grid described densely; keypoints
    of other detectors are placed more exactly than feature maps tell."""
    refine_homography: bool = True
    """Refine a homography by Lucas-Kanade, see `geomatch.alignment`; the keypoints stay."""
    effort: Effort = "normal"
    """Where the matches tell nothing certain, tilted views of both images are matched (`geomatch.views`):
    with ``normal`` tilts of 2 and 4, with ``high`` more keypoints and tilts up to 6, with ``fast`` none;
    learned matchers do without the last. Not for grids, and for large networks with ``high`` only."""
    device: str = "auto"
    """Where networks run that are given by name."""
    parts: Parts = field(init=False, repr=False)
    """The same as objects."""

    def __post_init__(self) -> None:
        if self.effort not in STAGES:
            raise ValueError(f"effort must be one of: {', '.join(STAGES)}, got {self.effort!r}")
        check_options(self.metric, self.min_similarity, self.max_ratio, self.matcher in (None, "mnn"))
        plane = self.model in PLANE_MODELS
        if not plane and self.estimator != "usac_magsac":
            raise ValueError("an estimator is for planes; other models bring their own")
        if not isinstance(self.estimator, str) and self.model != "homography":
            raise ValueError("an estimator that is an object brings its own model")
        if isinstance(self.model, str) and self.model not in MODELS:
            known = ", ".join(MODELS)
            raise ValueError(f"unknown model {self.model!r}; choose one of: {known}, or give an object")
        estimator = self.estimator
        if isinstance(estimator, str):
            name = str(self.model) if plane else "homography"
            estimator = create_estimator(estimator, self.threshold, name)
        given = self.matcher, self.detector, self.descriptor, self.max_keypoints, self.device
        object.__setattr__(self, "parts", Parts(*choose_parts(*given), estimator))

    def cache_key(self) -> Any:
        """All that decides the results: weights of parts given by name, too."""
        names = ("matcher", "detector", "descriptor", "estimator", "device")
        return [settings_key(self, leave_out=names), settings_key(self.parts)]

    def model_of(self, images: Sequence[Image]) -> Model | None:
        """The model of these two images, None for a homography; `GeomatchError` where it lacks cameras."""
        return None if self.model in PLANE_MODELS else create_model(self.model, self.threshold, images)

    def check_plane(self) -> None:
        """Raise ValueError unless a plane model is asked for."""
        if self.model not in PLANE_MODELS:
            raise ValueError(f"images are warped by a plane: choose one of: {', '.join(PLANE_MODELS)}")

    def describe(self, images: Sequence[Image], seconds: dict[str, float] | None = None) -> list[Described]:
        """Detect and describe images that will be matched; ``seconds`` gets the wall time of each stage."""
        seconds = {} if seconds is None else seconds
        detector: Any = self.parts.detector
        with timed(seconds, "detect"):
            detected, together = partial(detect_features, detector), getattr(detector, "reentrant", False)
            found = side_by_side(detected, images) if together else list(map(detected, images))
        describer: Any = self.parts.describer
        if describer is None:
            oriented = all(f.scales is not None and f.orientations is not None for f in found if len(f))
            patches = oriented and not isinstance(detector, GridDetector)
            describer = create_describer(default_config(patches), self.device)
        refining = _refining(self.refine_keypoints, detector, describer)
        if not all(len(features) for features in found):
            return [Described(*pair, describer) for pair in zip(images, found, strict=True)]
        with timed(seconds, "load_model"):
            if hasattr(describer, "load_networks"):  # so that its time is not the description's
                describer.load_networks()
        maps: Sequence[FeatureMap | None] = [None] * len(images)
        with timed(seconds, "describe"):
            if refining is not None:
                maps = refining.dense_many(images)
                arrays = [features.to_features() for features in found]
                described = [refining.describe_map(*pair) for pair in zip(maps, arrays, strict=True)]
                found = [upload_features(features, "cpu") for features in described]
            else:
                found = _describe(describer, images, found)
        rows = zip(images, found, maps, strict=True)
        return [Described(image, features, describer, own) for image, features, own in rows]

    def rules(self, describer: Describer) -> dict[str, Any]:
        """Metric, similarity and ratio by which descriptors are matched."""
        metric = self.metric
        if metric is None and self.parts.matcher is None:
            metric = traits_of(describer).metric
        return {"metric": metric, "min_similarity": self.min_similarity, "max_ratio": self.max_ratio}

    def matches_of(
        self, features0: FeatureTensors, features1: FeatureTensors, describer: Describer
    ) -> Matches:
        """Match described keypoints, on the device where they are."""
        if self.parts.matcher is not None:
            arrays = features0.to_features(), features1.to_features()
            return match_features(self.parts.matcher, *arrays, self.min_similarity)
        if not len(features0) or not len(features1):
            return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
        a, b = features0.descriptors, features1.descriptors
        if a is None or b is None:
            raise ValueError("the descriptor returned features without descriptors")
        for rows in (a, b):
            check_rows(rows)
        ((every, distinct),) = match_many([a, b.to(a.device)], [(0, 1)], **self.rules(describer))
        return every[distinct]

    def match(
        self, one: Described, two: Described, seconds: dict[str, float]
    ) -> tuple[Features, Features, Matches]:
        """Match two described images; a grid's keypoints of the second are then refined."""
        with timed(seconds, "match"):
            matches = self.matches_of(one.features, two.features, one.describer)
        features0, features1 = (own.features.to_features() for own in (one, two))
        if one.feature_map is not None and two.feature_map is not None:
            with timed(seconds, "refine_keypoints"):
                detector = self.parts.detector
                step = detector.spacing(two.image.size) if isinstance(detector, GridDetector) else 0
                maps = one.feature_map, two.feature_map
                moved = refine_matches(*maps, features0, features1, matches, step)
                features1 = replace(features1, keypoints=moved)
        return features0, features1, matches


def _refining(wanted: bool | None, detector: Detector, describer: Describer) -> DenseDescriber | None:
    """The describer in whose maps keypoints are refined; None for no refinement."""
    dense = as_dense(describer)
    if isinstance(detector, GridDetector) and dense is not None:
        return None if wanted is False else dense
    if wanted:
        wrong = "the detector is no grid" if dense else "the descriptor samples no map of the whole image"
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


def timed(seconds: dict[str, float], stage: str) -> AbstractContextManager[None]:
    """Add the wall time of the block to its stage, and log which it is."""
    _log.info("%s", stage.replace("_", " "))
    return clocked(seconds, stage)

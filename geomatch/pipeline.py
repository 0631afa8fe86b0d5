"""From two images to a homography: detect, describe, match, refine, estimate."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_homography
from geomatch.describers import (
    DEFAULT_DETECTOR,
    DenseDescriber,
    Describer,
    as_dense,
    cached_extractor,
    create_describer,
    default_config,
    is_oriented,
    traits_of,
)
from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap
from geomatch.dift.maps.refine import refine_matches
from geomatch.estimators import Estimator, create_estimator
from geomatch.images import Image, ImageLike, load_image
from geomatch.keypoints import Detector, GridDetector, create_detector
from geomatch.matching import check_options, match_mutual
from geomatch.provenance import record, versions
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches, Metric


@dataclass(frozen=True, eq=False, slots=True)
class MatchResult:
    """What `match` found, and how."""

    image0: Image
    """As read."""
    image1: Image
    """As read."""
    features0: Features
    """Of image 0, with descriptors if both images have keypoints."""
    features1: Features
    """Of image 1; a refined keypoint has the descriptor that it was matched by."""
    matches: Matches
    """Best first."""
    homography: HomographyEstimate | EstimationFailure
    """From image 0 to image 1; false, with a reason, when there is none."""
    seconds: dict[str, float]
    """Wall time per stage: read, load_model, detect, describe, match, refine (of a grid), estimate."""
    settings: dict[str, Any]
    """Images, detector, descriptor, matching, refinement and estimator as used, as JSON can hold them."""

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
        found = self.homography
        return {
            "homography": found.matrix.tolist() if found else None,
            "reason": None if found else found.reason,
            "num_keypoints": [len(self.features0), len(self.features1)],
            "num_matches": len(self.matches),
            "num_inliers": found.num_inliers,
            "seconds": {stage: round(spent, 4) for stage, spent in self.seconds.items()},
            "settings": self.settings,
            "versions": versions(),
        }


def match(
    image0: ImageLike,
    image1: ImageLike,
    *,
    detector: str | Detector | None = None,
    descriptor: str | DIFTConfig | Describer | None = None,
    estimator: str | Estimator = "usac_magsac",
    metric: Metric | None = None,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
    max_keypoints: int = 3000,
    threshold: float = 3.0,
    refine_keypoints: bool | None = None,
    refine_homography: bool = True,
    apply_exif: bool = True,
) -> MatchResult:
    """Register two photographs.

    Args:
        image0: path, RGB array or PIL image; see `geomatch.load_image`.
        image1: likewise.
        detector: a name (`geomatch.keypoints.detectors`) or an object; by default SIFT's
            keypoints and those of the embedded network by turns (`MixedDetector`).
        descriptor: a preset (`geomatch.dift.PRESETS`), the path of a diffusers
            folder or its id on the hub, a `DIFTConfig` or an object. By default
            the embedded model: ``dift-tiny`` where keypoints have scale and
            orientation, ``dift-tiny-dense`` where not.
        estimator: a name (`geomatch.estimators.estimators`) or an object.
        metric: see `match_mutual`, as are the next two; by default that of the DIFT
            descriptor's settings, for other descriptors the cosine.
        min_similarity: least similarity of a match.
        max_ratio: Lowe's ratio test.
        max_keypoints: per image, when the detector is given by name.
        threshold: largest error of an inlier in pixels of image 1, when the
            estimator is given by name.
        refine_keypoints: move each matched keypoint of image 1 to where its features agree best with
            its partner's, see `geomatch.dift.maps.refine`; those of image 0 stay. None does so for
            a grid described densely by DIFT; keypoints of other detectors lie more exactly
            than feature maps tell.
        refine_homography: estimate the homography again from windows about the keypoints of image 0, laid
        over image 1 to a fraction of a pixel, see `geomatch.alignment`; the keypoints stay.
        apply_exif: turn the images as their EXIF orientation says.

    Returns:
        Everything found; ``result.homography`` is false when there is no
        homography, which is no error.

    Raises:
        ImageError: when an image cannot be read.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense, such as ``refine`` for anything but a
            grid described densely by DIFT.
    """
    check_options(metric or "cosine", min_similarity, max_ratio)
    seconds: dict[str, float] = {}
    estimate = create_estimator(estimator, threshold) if isinstance(estimator, str) else estimator
    describer = create_describer(descriptor) if descriptor is not None else None
    detect = detector if detector is not None else DEFAULT_DETECTOR
    if isinstance(detect, str):
        detect = create_detector(detect, max_keypoints)
    with _timed(seconds, "read"):
        first, second = load_image(image0, apply_exif=apply_exif), load_image(image1, apply_exif=apply_exif)
    with _timed(seconds, "detect"):
        features0, features1 = detect.detect(first), detect.detect(second)
    if describer is None:
        framed = all(not len(f) or is_oriented(f) for f in (features0, features1))
        describer = cached_extractor(default_config(framed and not isinstance(detect, GridDetector)))
    refining = _refining(refine_keypoints, detect, describer)
    if metric is None:
        metric = traits_of(describer).metric
    describable = len(features0) > 0 and len(features1) > 0
    with _timed(seconds, "load_model"):
        if describable and isinstance(describer, DIFTExtractor):  # so that its time is not the description's
            _ = describer.model, describer.head
    with _timed(seconds, "describe"):
        maps: list[FeatureMap] = []
        if describable and refining:
            maps = [refining.dense(first), refining.dense(second)]
            features0 = refining.describe_map(maps[0], features0)
            features1 = refining.describe_map(maps[1], features1)
        elif describable:
            features0, features1 = describer.describe(first, features0), describer.describe(second, features1)
    with _timed(seconds, "match"):
        matches = _match(features0, features1, metric, min_similarity, max_ratio)
    if maps:
        with _timed(seconds, "refine_keypoints"):
            step = detect.spacing(second.size) if isinstance(detect, GridDetector) else 0
            moved = refine_matches(maps[0], maps[1], features0, features1, matches, step)
            features1 = replace(features1, keypoints=moved)
    with _timed(seconds, "estimate"):
        homography = _estimate(estimate, features0, features1, matches)
    if refine_homography and homography:
        with _timed(seconds, "refine_homography"):
            i, j = matches.indices.T
            points = features0.keypoints, features0.keypoints[i], features1.keypoints[j]
            homography = align_homography(first, second, *points, homography, estimate, threshold)
    settings = {
        "image0": {"name": first.name, "size": list(first.size)},
        "image1": {"name": second.name, "size": list(second.size)},
        "apply_exif": apply_exif,
        "detector": record(detect),
        "descriptor": record(describer),
        "matching": {"metric": metric, "min_similarity": min_similarity, "max_ratio": max_ratio},
        "refine_keypoints": refining is not None,
        "refine_homography": refine_homography,
        "estimator": record(estimate),
    }
    return MatchResult(first, second, features0, features1, matches, homography, seconds, settings)


def _refining(
    refine_keypoints: bool | None, detector: Detector, describer: Describer
) -> DenseDescriber | None:
    """The describer in whose maps keypoints are refined; None for no refinement."""
    if refine_keypoints is False:
        return None
    dense = as_dense(describer)
    if isinstance(detector, GridDetector) and dense is not None:
        return dense
    if refine_keypoints:
        wrong = (
            "the descriptor samples no map of the whole image" if dense is None else "the detector is no grid"
        )
        raise ValueError(f"refine_keypoints=True is for a grid described densely, but {wrong}")
    return None


def _match(
    features0: Features,
    features1: Features,
    metric: Metric,
    min_similarity: float | None,
    max_ratio: float | None,
) -> Matches:
    if not len(features0) or not len(features1):
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    if features0.descriptors is None or features1.descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    return match_mutual(features0.descriptors, features1.descriptors, metric, min_similarity, max_ratio)


def _estimate(
    estimator: Estimator, features0: Features, features1: Features, matches: Matches
) -> HomographyEstimate | EstimationFailure:
    for index, features in enumerate((features0, features1)):
        if not len(features):
            return EstimationFailure(f"no keypoints in image {index}")
    return estimator.estimate(
        features0.keypoints[matches.indices[:, 0]],
        features1.keypoints[matches.indices[:, 1]],
        features0.image_size,
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start

"""From two images to what relates them: described, matched, estimated, refined."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_parts, prepare_part
from geomatch.content import check_content
from geomatch.describers import traits_of
from geomatch.estimators import Gate, threshold_of
from geomatch.estimators.models import EXIF
from geomatch.pipeline import Described, Pipeline, timed
from geomatch.provenance import record
from geomatch.results import MatchResult
from geomatch.tensors import detect_features, upload_features
from geomatch.types import EstimationFailure, Features, Geometry, HomographyEstimate, Matches
from geomatch.views.features import SIDE, FramedFeatures
from geomatch.views.matching import Tentative, learned_pairs, nearest_elsewhere
from geomatch.views.search import Relate, is_weak, relate_plane, search_views, stages_of


def relate(
    pipeline: Pipeline, one: Described, two: Described, seconds: dict[str, float] | None = None
) -> MatchResult:
    """Match two described images, and estimate what relates them; ``seconds`` has the time spent before."""
    seconds = {} if seconds is None else seconds
    images, found = (one.image, two.image), (one.features, two.features)
    parts, describer = pipeline.parts, one.describer
    detector, estimator, learned = parts.detector, parts.estimator, parts.matcher
    other, limit = pipeline.model_of(images), threshold_of(estimator, pipeline.threshold)

    def related(matches: Matches, points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Geometry:
        i, j = matches.indices.T
        if other is not None:
            return other.estimate(points0[i], points1[j], images[0].size, images[1].size)
        return estimator.estimate(points0[i], points1[j], images[0].size)

    features0, features1, matches = pipeline.match(one, two, seconds)
    plain0 = features0.keypoints

    def again(features: Features) -> Geometry:
        matches = pipeline.matches_of(found[0], upload_features(features, "cpu"), describer)
        return related(matches, plain0, features.keypoints)

    def in_views(matches: Matches, framed0: FramedFeatures, framed1: FramedFeatures) -> Geometry:
        return related(matches, framed0.points, framed1.points)

    empty = [index for index, features in enumerate(found) if not len(features)]
    with timed(seconds, "estimate"):
        if empty:
            geometry: Geometry = EstimationFailure(f"no keypoints in image {empty[0]}")
        else:
            geometry = related(matches, plain0, features1.keypoints)
    mirrored = False
    if not geometry and not empty and not traits_of(describer).large:
        with timed(seconds, "check_mirrored"):
            turned = images[1].mirrored()
            own = detect_features(detector, turned).to_features()
            agreeing = again(describer.describe(turned, own)) if len(own) else geometry
            # a symmetric plane's few say nothing where most agreed, but gave no epipolar geometry
            mirrored = bool(agreeing) and (other is None or agreeing.num_inliers > len(matches) / 4)
            if mirrored:
                geometry = EstimationFailure(
                    f"one image is mirrored: with image 1 turned over, left to right, {agreeing.num_inliers} "
                    "matches agree; turn one of them over first"
                )
    stages = stages_of(pipeline.effort, detector, describer, learned is not None)
    tilts: list[float] = []
    if stages and not empty and not mirrored and is_weak(geometry):
        with timed(seconds, "search_views"):
            tentative: Tentative = partial(nearest_elsewhere, **pipeline.rules(describer))
            if learned is not None:
                tentative = learned_pairs(learned, pipeline.min_similarity)
            relate_views: Relate = in_views
            gate = getattr(estimator, "gate", None)
            framed = other is None and not learned and getattr(estimator, "model", "") in ("", "homography")
            if framed and isinstance(gate, Gate):  # it can judge what affine frames give
                coarse = max(1.0, max(images[1].size) / SIDE)  # views of larger images are reduced
                relate_views = relate_plane(gate, limit * coarse, images[0].size)
            own0, own1, pairs, seen, tilts = search_views(
                images, found, detector, describer, tentative, stages, relate_views
            )
        if seen.num_inliers > geometry.num_inliers:
            features0, features1, matches, geometry = own0, own1, pairs, seen
    if pipeline.refine_homography and isinstance(geometry, HomographyEstimate):
        with timed(seconds, "refine_homography"):
            whole = [(prepare_part(*images), features0.keypoints)]
            i, j = matches.indices.T
            points = features0.keypoints[i], features1.keypoints[j]
            geometry = align_parts(whole, images[0].size, *points, geometry, estimator, pipeline.threshold)
    if geometry and not traits_of(describer).local:
        with timed(seconds, "check_content"):
            geometry = check_content(*images, features0, features1, geometry, describer, again, limit)
    settings = {
        **{
            f"image{n}": {"name": image.name, "size": list(image.size), "note": image.note}
            for n, image in enumerate(images)
        },
        "detector": record(detector),
        "descriptor": record(describer),
        "remark": None if empty else getattr(describer, "remark", None),
        "matching": {"matcher": record(learned or "mnn"), **pipeline.rules(describer)},
        "refine_keypoints": one.feature_map is not None,
        "refine_homography": pipeline.refine_homography,
        "effort": pipeline.effort,
        "tilts": tilts,
        "model": {"type": "Homography", "name": pipeline.model} if other is None else record(other),
        "cameras": EXIF if pipeline.model == "essential" else None,
        "estimator": record(estimator) if other is None else None,
    }
    return MatchResult(*images, features0, features1, matches, geometry, seconds, settings)

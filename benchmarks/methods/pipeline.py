"""`geomatch.match` as a whole, with its search in views and its alignment, as one method."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

import geomatch
from geomatch.benchmarks.methods.functions import matched_features
from geomatch.describers import Describer, choose_parts, create_describer, default_config
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.keypoints import ORIENTED, Detector
from geomatch.matchers import Matcher
from geomatch.provenance import cache_key, settings_key
from geomatch.types import Features
from geomatch.views.search import Effort, check_effort


@dataclass(frozen=True)
class Pipeline:
    """A `PairMatcher`: the inliers of what `geomatch.match` finds, or all matches where it finds nothing."""

    max_keypoints: int
    device: str = "cpu"
    detector: str | None = None
    descriptor: str | None = None
    matcher: str | None = None
    effort: Effort = "normal"
    model: Literal["homography", "fundamental"] = "homography"
    aligned: Literal["no", "yes"] = "no"
    """Refine the homography (`geomatch.alignment`): the inliers are then keypoints of image 0, and where it
    sends them."""

    def __post_init__(self) -> None:
        check_effort(self.effort)
        choose_parts(self.matcher, self.detector, self.descriptor, self.max_keypoints)

    def cache_key(self) -> Any:
        """The settings, and the parts by their own keys."""
        return [settings_key(self), *map(cache_key, self.parts)]

    @cached_property
    def parts(self) -> tuple[Matcher | None, Detector, Describer]:
        """Made on the device once, with the descriptor that `geomatch.match` takes where none is named."""
        given = self.matcher, self.detector, self.descriptor, self.max_keypoints, self.device
        matcher, detector, describer = choose_parts(*given)
        if describer is None:
            patches = self.detector is None or self.detector in ORIENTED
            describer = create_describer(default_config(patches), self.device)
        return matcher, detector, describer

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`."""
        matcher, detector, describer = self.parts
        found = geomatch.match(
            image0.pixels, image1.pixels, detector=detector, descriptor=describer, matcher=matcher,
            model=self.model, effort=self.effort, refine_homography=self.aligned == "yes",
        )  # fmt: skip
        if self.aligned == "yes" and found.homography:
            places = found.features0.keypoints
            return matched_features((places, warp_points(found.homography.matrix, places)), image0, image1)
        kept = found.geometry.inliers if found.geometry else np.ones(len(found.matches), np.bool_)
        points = found.points0[kept], found.points1[kept]
        return matched_features((*points, found.matches.similarity[kept]), image0, image1)

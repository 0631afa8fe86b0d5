"""A function of two images as a method, and `geomatch.match` as a whole, with its search and alignment."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from secrets import token_hex
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import geomatch
from geomatch.describers import Describer, choose_parts, create_describer, default_config
from geomatch.errors import FeaturesError, first_line, is_out_of_memory
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.keypoints import ORIENTED, Detector
from geomatch.matchers import Matcher
from geomatch.provenance import cache_key, settings_key
from geomatch.types import Features
from geomatch.views.search import Effort, check_effort


@dataclass(frozen=True)
class FunctionMatcher:
    """A `PairMatcher` that calls ``function(pixels0, pixels1)`` with RGB images (H, W, 3), uint8.

    The function returns points (M, 2) of both images, and scores (M,) if it has any, or one array (M, 4) of
    x0, y0, x1, y1; pixels, the centre of the first at (0, 0), matches best first unless there are scores.
    What decides a function's answers cannot be read: unless it has an attribute ``cache_key``, a function
    that returns all of that, it is called anew in every run.
    """

    function: Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any]
    run: str = field(default_factory=lambda: token_hex(8))  # in place of a key

    def cache_key(self) -> Any:
        """The function's name and key, or one that no other run has."""
        own = hasattr(self.function, "cache_key")
        names = [getattr(self.function, name, "") for name in ("__module__", "__qualname__")]
        return [*names, self.function if own else self.run]

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`; raises `FeaturesError` when the function fails, or gives something else."""
        try:
            return matched_features(self.function(image0.pixels, image1.pixels), image0, image1)
        except Exception as error:
            if isinstance(error, FeaturesError) or is_out_of_memory(error):
                raise
            raise FeaturesError(f"{type(error).__name__}: {first_line(error)}") from error


def matched_features(answer: Any, image0: Image, image1: Image) -> tuple[Features, Features]:
    """What a function may return, as `FunctionMatcher` says, best first; else raises `FeaturesError`."""
    if isinstance(answer, np.ndarray):
        answer = np.split(answer, [2], axis=1) if answer.shape[1:] == (4,) else [answer]
    arrays = [np.asarray(part, np.float32) for part in answer]
    if {array.shape[:1] for array in arrays} <= {(0,)}:  # no matches, of whatever shape
        arrays = [np.zeros((0, 2), np.float32)] * 2
    shapes = [array.shape for array in arrays]
    count = len(arrays[0]) if arrays[0].ndim else 0
    if shapes not in ([(count, 2)] * 2, [(count, 2)] * 2 + [(count,)]):
        raise FeaturesError(
            f"the function must return points (M, 2), points (M, 2) and perhaps scores (M,), got {shapes[:4]}"
        )
    scores = arrays[2] if len(arrays) == 3 else -np.arange(count, dtype=np.float32)
    if not all(np.isfinite(array).all() for array in arrays):
        raise FeaturesError("the function returned coordinates or scores that are not finite")
    order = np.argsort(-scores, kind="stable")
    sizes = image0.size, image1.size
    both = [Features(a[order], scores[order], s) for a, s in zip(arrays[:2], sizes, strict=True)]
    return both[0], both[1]


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
            image0, image1, detector=detector, descriptor=describer, matcher=matcher,
            model=self.model, effort=self.effort, refine_homography=self.aligned == "yes",
        )  # fmt: skip
        if self.aligned == "yes" and found.homography:
            places = found.features0.keypoints
            return matched_features((places, warp_points(found.homography.matrix, places)), image0, image1)
        kept = found.geometry.inliers if found.geometry else np.ones(len(found.matches), np.bool_)
        points = found.points0[kept], found.points1[kept]
        return matched_features((*points, found.matches.similarity[kept]), image0, image1)

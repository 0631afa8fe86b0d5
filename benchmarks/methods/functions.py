"""Methods of whole pairs: a function, files of matches, and all of `geomatch.match`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import FeaturesError, first_line, is_out_of_memory, reading
from geomatch.files import digest_of, read_npz, sha256_of
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.pipeline import Described, Pipeline
from geomatch.places import user_path
from geomatch.relating import relate
from geomatch.types import Features


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
        raise FeaturesError(f"matches must be points (M, 2) twice, perhaps scores (M,), got {shapes[:4]}")
    scores = arrays[2] if len(arrays) == 3 else -np.arange(count, dtype=np.float32)
    if not all(np.isfinite(array).all() for array in arrays):
        raise FeaturesError("matches have coordinates or scores that are not finite")
    order = np.argsort(-scores, kind="stable")
    sizes = image0.size, image1.size
    both = [Features(a[order], scores[order], s) for a, s in zip(arrays[:2], sizes, strict=True)]
    return both[0], both[1]


@dataclass(frozen=True)
class MatchFiles:
    """Matches in files that another program has written, ``FOLDER/PAIR.npz`` for each pair.

    PAIR is the pair's name in the record, with ``%`` for each slash (``v_wall 1-2``, ``WGBS%kyiv 1-2``). A
    file holds ``points0`` and ``points1`` (M, 2): row i of both match, in pixels of the original images, the
    centre of the first at (0, 0). Matches are best first, unless there is ``confidence`` (M,).
    """

    folder: str

    def cache_key(self) -> Any:
        """The files by their names and content; raises `FeaturesError` when there are none."""
        files = sorted(user_path(self.folder).glob("*.npz"))
        if not files:
            raise FeaturesError(f"{user_path(self.folder)}: no files of matches PAIR.npz there")
        return digest_of([[path.name, sha256_of(path)] for path in files])

    def read(self, pair: str, image0: Image, image1: Image) -> tuple[Features, Features]:
        """Matches of the original images, best first, as `PairMatcher`; raises `FeaturesError`."""
        path = user_path(self.folder) / f"{pair.replace('/', '%')}.npz"
        with reading(path, ".npz file of matches", FeaturesError):
            arrays = read_npz(path.read_bytes())
            parts = [arrays["points0"], arrays["points1"], arrays.get("confidence")]
            try:
                return matched_features([part for part in parts if part is not None], image0, image1)
            except FeaturesError as error:
                raise FeaturesError(f"{path}: {error}") from error


@dataclass(frozen=True)
class PipelineMatcher:
    """A `PairMatcher`: the inliers of what `geomatch.relate` finds, or all matches where it finds nothing."""

    pipeline: Pipeline
    aligned: bool
    """Refine the homography (`geomatch.alignment`): the inliers are then keypoints of image 0, and where it
    sends them."""

    def cache_key(self) -> Any:
        """The settings, and the parts by their own keys."""
        return [self.aligned, self.pipeline.cache_key()]

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`."""
        found = relate(self.pipeline, _described(self.pipeline, image0), _described(self.pipeline, image1))
        if self.aligned and found.homography:
            places = found.features0.keypoints
            return matched_features((places, warp_points(found.homography.matrix, places)), image0, image1)
        kept = found.geometry.inliers if found.geometry else np.ones(len(found.matches), np.bool_)
        points = found.points0[kept], found.points1[kept]
        return matched_features((*points, found.matches.similarity[kept]), image0, image1)


@lru_cache(maxsize=4)
def _described(pipeline: Pipeline, image: Image) -> Described:
    """An image that is in several pairs is described once."""
    return pipeline.describe([image])[0]

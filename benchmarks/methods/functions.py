"""A function of two images as a method."""

from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import FeaturesError
from geomatch.images import Image
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
        """The function's own, or one that no other run has."""
        own = getattr(self.function, "cache_key", None)
        return {"run": self.run} if own is None else own()

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`; raises `FeaturesError` for an answer of another shape."""
        return matched_features(self.function(image0.pixels, image1.pixels), image0, image1)


def matched_features(answer: Any, image0: Image, image1: Image) -> tuple[Features, Features]:
    """What a function may return, as `FunctionMatcher` says, best first; else raises `FeaturesError`."""
    if isinstance(answer, np.ndarray):
        answer = answer[:, :2], answer[:, 2:4]
    arrays = [np.asarray(part, np.float32) for part in answer]
    shapes = [array.shape for array in arrays]
    count = len(arrays[0]) if arrays and arrays[0].ndim else 0
    if shapes not in ([(count, 2)] * 2, [(count, 2)] * 2 + [(count,)]):
        raise FeaturesError(
            f"the function must return points (M, 2), points (M, 2) and perhaps scores (M,), got {shapes}"
        )
    scores = arrays[2] if len(arrays) == 3 else -np.arange(count, dtype=np.float32)
    if not all(np.isfinite(array).all() for array in arrays):
        raise FeaturesError("the function returned coordinates or scores that are not finite")
    order = np.argsort(-scores, kind="stable")
    sizes = image0.size, image1.size
    both = [Features(a[order], scores[order], s) for a, s in zip(arrays[:2], sizes, strict=True)]
    return both[0], both[1]

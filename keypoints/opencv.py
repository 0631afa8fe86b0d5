"""Any detector of OpenCV as a geomatch detector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.keypoints.detector import check_limit, no_keypoints, select_best
from geomatch.types import Features

# name: (function of cv2, arguments); limits of their own are lifted, ours apply
_FACTORIES: dict[str, tuple[str, dict[str, Any]]] = {
    # without the precise upscale (OpenCV 4.8 on) SIFT's points lie a quarter of a pixel off
    "sift": ("SIFT_create", {"enable_precise_upscale": True}),
    # a quarter of SIFT's least contrast: in tilted views, which are blurred, and in images of little texture
    "sift-faint": ("SIFT_create", {"enable_precise_upscale": True, "contrastThreshold": 0.01}),
    "orb": ("ORB_create", {"nfeatures": 20_000}),
    "gftt": ("GFTTDetector_create", {"maxCorners": 0, "minDistance": 3}),
    "fast": ("FastFeatureDetector_create", {}),
    "akaze": ("AKAZE_create", {}),  # not in OpenCV 5's main package, as the next two
    "kaze": ("KAZE_create", {}),
    "brisk": ("BRISK_create", {}),
}

MIN_SIDE = 16
"""Narrower images have no keypoints; some detectors of OpenCV fail on them."""


def available_opencv_detectors() -> list[str]:
    """Names of the detectors that the installed OpenCV has."""
    return [name for name, (function, _) in _FACTORIES.items() if hasattr(cv2, function)]


def create_feature2d(name: str) -> cv2.Feature2D:
    """An OpenCV detector by name, without a limit on its number of keypoints."""
    known = available_opencv_detectors()
    if name not in known:
        raise ValueError(
            f"OpenCV {cv2.__version__} has no detector {name!r}; choose from: {', '.join(known)}"
        )
    function, arguments = _FACTORIES[name]
    create: Callable[..., cv2.Feature2D] = getattr(cv2, function)
    return create(**arguments)


@dataclass(frozen=True, slots=True)
class OpenCVDetector:
    """SIFT, ORB, GFTT or any other ``cv2.Feature2D``."""

    feature: str | cv2.Feature2D = "sift"
    """A name (see `available_opencv_detectors`) or an object made with OpenCV's own options."""
    max_keypoints: int | None = 3000
    max_image_side: int | None = 2048
    rank_by: Literal["response", "size"] = "response"
    """What makes a keypoint good. Large ones are found again from other distances and directions, and are
    placed less exactly: COLMAP ranks by size, too."""

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)
        if self.rank_by not in ("response", "size"):
            raise ValueError(f"rank_by must be 'response' or 'size', got {self.rank_by!r}")
        if isinstance(self.feature, str):
            create_feature2d(self.feature)  # a wrong name should not wait for the first image

    @property
    def reentrant(self) -> bool:
        """See `Detector`; an object of OpenCV's may hold a state."""
        return isinstance(self.feature, str)

    @property
    def in_views(self) -> "OpenCVDetector":
        """See `Detector`."""
        return replace(self, feature="sift-faint", rank_by="response") if self.feature == "sift" else self

    def detect(self, image: Image) -> Features:
        """Detect on the grey image."""
        feature = create_feature2d(self.feature) if isinstance(self.feature, str) else self.feature
        reduced = reduce_image(image, self.max_image_side)
        if min(reduced.size) < MIN_SIDE:
            return no_keypoints(image)
        grey = cv2.cvtColor(reduced.pixels, cv2.COLOR_RGB2GRAY)
        rows = keypoint_rows(feature.detect(grey, None))
        rows[:, :2] = resize_points(rows[:, :2], reduced.size, image.size)
        if self.rank_by == "size":
            rows[:, 4] = rows[:, 2]
        rows[:, 2] *= image.size[0] / reduced.size[0]
        return select_best(features_of_rows(rows, image.size), self.max_keypoints)


def keypoint_rows(keypoints: Sequence[cv2.KeyPoint]) -> NDArray[np.float64]:
    """(N, 5): x, y, size, angle in degrees, response."""
    rows = [(*point.pt, point.size, point.angle, point.response) for point in keypoints]
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def features_of_rows(rows: NDArray[np.float64], image_size: tuple[int, int]) -> Features:
    """From `keypoint_rows`: scales when all sizes are positive, orientations when no angle is negative."""
    single = rows.astype(np.float32)
    angles = np.radians(rows[:, 3]).astype(np.float32)
    return Features(
        keypoints=single[:, :2],
        scores=single[:, 4],
        image_size=image_size,
        scales=single[:, 2] if len(rows) and (rows[:, 2] > 0).all() else None,
        orientations=angles if len(rows) and (rows[:, 3] >= 0).all() else None,  # OpenCV has -1 for none
    )

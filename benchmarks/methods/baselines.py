"""Where features come from besides geomatch: OpenCV, and files that somebody else's program has written."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.errors import MissingDependencyError
from geomatch.images import Image
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.opencv.convert import from_keypoints
from geomatch.types import Features

MIN_SIDE = 32  # images with a shorter side have no keypoints: OpenCV fails


def rootsift(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIFT's descriptors (N, 128) as RootSIFT (Arandjelovic, Zisserman, 2012)."""
    return np.asarray(np.sqrt(rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)), np.float32)


@dataclass(frozen=True)
class OpenCVFeatures:
    """SIFT, RootSIFT, ORB or AKAZE of OpenCV; binary descriptors become one number per bit."""

    name: Literal["sift", "rootsift", "orb", "akaze"]
    max_keypoints: int = 2000
    reentrant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.name.removeprefix("root") not in available_opencv_detectors():
            raise MissingDependencyError(f"OpenCV {cv2.__version__} has no {self.name}")

    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors, scale and orientation."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        feature2d: Any = create_feature2d(self.name.removeprefix("root"))
        if self.name == "orb":
            feature2d.setMaxFeatures(self.max_keypoints)
        found, rows = feature2d.detectAndCompute(grey, None)
        if rows is None or not len(found):
            return no_keypoints(image)
        descriptors = (np.unpackbits(rows, axis=1) if rows.dtype == np.uint8 else rows).astype(np.float32)
        if self.name == "rootsift":
            descriptors = rootsift(descriptors)
        return select_best(from_keypoints(found, image.size, descriptors), self.max_keypoints)

"""A describer as a user writes one; worker processes import it from here."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.types import Features


@dataclass(frozen=True)
class Patches:
    """Weighted grey patches about the keypoints."""

    weights: NDArray[np.float32]

    def describe(self, image: Image, features: Features) -> Features:
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        size, window = len(self.weights), np.outer(self.weights, self.weights)
        patches = [cv2.getRectSubPix(grey, (size, size), point.tolist()) for point in features.keypoints]
        rows = np.stack([((patch - patch.mean()) * window).ravel() for patch in patches])
        return replace(features, descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6))

"""A user's own describers, which worker processes import from here."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from geomatch.images import Image
from geomatch.types import Features


@dataclass(frozen=True)
class Patches:
    """Grey patches around the keypoints, with mean 0 and unit length."""

    side: int = 16

    def describe(self, image: Image, features: Features) -> Features:
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        cut = [cv2.getRectSubPix(grey, (self.side,) * 2, tuple(map(float, p))) for p in features.keypoints]
        rows = np.reshape(cut, (len(features), -1)) - np.reshape(cut, (len(features), -1)).mean(1)[:, None]
        return replace(features, descriptors=rows / np.maximum(np.linalg.norm(rows, axis=1)[:, None], 1e-9))

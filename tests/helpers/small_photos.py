"""What tests of registration, masks and large images share: small photographs, matched fast."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 320, 240
FAST = {"detector": "sift", "max_keypoints": 250, "effort": "fast"}


def write(path: Path, pixels: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path

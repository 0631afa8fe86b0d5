"""Pictures inside a page."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 420
"""Long side of each image of a pair."""


def jpeg_url(rgb: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) RGB as the data URL of a JPEG."""
    done, coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 72])
    if not done:
        raise ValueError("OpenCV cannot write JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(np.asarray(coded).tobytes()).decode()

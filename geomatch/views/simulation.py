"""Views of an image as if it were a plane seen obliquely (ASIFT; Morel and Yu, 2009)."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, warp_points
from geomatch.images import Image

STEP = 60.0
"""Degrees between directions, divided by the tilt; ASIFT has 72."""
BLUR = 0.8
"""ASIFT's anti-aliasing: a Gaussian of 0.8 sqrt(t^2 - 1) pixels along the direction that shrinks t times."""


class View(NamedTuple):
    """One view: the image is turned, then made ``tilt`` times narrower."""

    tilt: float  # 1 for none
    angle: float  # radians by which the image is turned first, from the y axis towards the x axis


def tilted_views(tilt: float, upright: bool = False) -> list[View]:
    """The views of one tilt over half a turn; over all of it for ``upright`` keypoints."""
    turn = 2 * np.pi if upright else np.pi
    count = max(1, round(np.degrees(turn) / STEP * tilt)) if tilt > 1 or upright else 1
    return [View(tilt, turn * k / count) for k in range(count)]


def render_tilted(image: Image, view: View) -> tuple[Image, NDArray[np.float64]]:
    """The view, about which the border is repeated, and the (3, 3) matrix to it from pixels of the image."""
    if view == (1.0, 0.0):
        return image, np.eye(3)
    cosine, sine = np.cos(view.angle), np.sin(view.angle)
    turn = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    corners = warp_points(turn, image_corners(image.size))
    turn[:2, 2] = -corners.min(0)
    width, height = (int(np.ceil(side)) + 1 for side in np.ptp(corners, axis=0))
    border = cv2.BORDER_REPLICATE
    turned = cv2.warpAffine(image.pixels, turn[:2], (width, height), borderMode=border)
    if view.tilt == 1:
        return Image(np.asarray(turned, np.uint8), image.name), turn
    blur = BLUR * np.sqrt(view.tilt**2 - 1)
    turned = cv2.GaussianBlur(turned, (0, 0), sigmaX=blur, sigmaY=1e-3)
    narrow = max(1, round(width / view.tilt))
    pixels = cv2.resize(turned, (narrow, height), interpolation=cv2.INTER_LINEAR)
    squeeze = np.diag([narrow / width, 1.0, 1.0])
    squeeze[0, 2] = 0.5 * narrow / width - 0.5
    return Image(np.asarray(pixels, np.uint8), image.name), squeeze @ turn

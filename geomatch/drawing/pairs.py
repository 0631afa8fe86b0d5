"""Two images side by side with their matches, and one warped onto the other."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import resize_homography, resize_points
from geomatch.images import Image, reduce_image
from geomatch.pipeline import MatchResult
from geomatch.types import HomographyEstimate

PICTURE_SIDE = 1280
"""Images are reduced to this long side before drawing."""
MAX_LINES = 150
"""Best inliers drawn; more would hide the photographs."""
RIGHT, WRONG = (60, 220, 90), (230, 80, 70)
"""Colours of matches."""

Lines = tuple[NDArray[np.floating], NDArray[np.floating], tuple[int, int, int]]
"""Points (M, 2) of image 0, their partners in image 1, and a colour."""


def draw_matches(result: MatchResult) -> NDArray[np.uint8]:
    """Both images side by side, (H, W, 3) RGB, with lines between inliers, or all matches."""
    chosen, colour = np.arange(len(result.matches)), WRONG
    if result.geometry:
        chosen, colour = np.flatnonzero(result.geometry.inliers), RIGHT
    lines = result.points0[chosen[:MAX_LINES]], result.points1[chosen[:MAX_LINES]], colour
    return draw_lines(result.image0, result.image1, [lines])


def draw_lines(
    image0: Image, image1: Image, groups: Sequence[Lines], side: int = PICTURE_SIDE
) -> NDArray[np.uint8]:
    """Both images side by side, (H, W, 3) RGB, long sides at most ``side``, with groups of lines."""
    small0, small1 = reduce_image(image0, side), reduce_image(image1, side)
    canvas: Any = None
    flags = cv2.DRAW_MATCHES_FLAGS_NOT_DRAW_SINGLE_POINTS
    for points0, points1, colour in groups:
        moved0 = resize_points(points0, image0.size, small0.size)
        moved1 = resize_points(points1, image1.size, small1.size)
        canvas = cv2.drawMatches(
            small0.pixels,
            [cv2.KeyPoint(x, y, 1.0) for x, y in moved0.tolist()],
            small1.pixels,
            [cv2.KeyPoint(x, y, 1.0) for x, y in moved1.tolist()],
            [cv2.DMatch(index, index, 0.0) for index in range(len(points0))],
            canvas,
            matchColor=colour,
            flags=flags,
        )
        flags |= cv2.DRAW_MATCHES_FLAGS_DRAW_OVER_OUTIMG
    return np.asarray(canvas, dtype=np.uint8)


def draw_overlay(image0: Image, image1: Image, estimate: HomographyEstimate) -> NDArray[np.uint8]:
    """Image 1 warped onto image 0, half and half, (H, W, 3) RGB; image 0 alone where image 1 ends."""
    small0, small1 = reduce_image(image0, PICTURE_SIDE), reduce_image(image1, PICTURE_SIDE)
    to_small0 = resize_homography(image0.size, small0.size)
    to_small1 = resize_homography(image1.size, small1.size)
    back = to_small0 @ np.linalg.inv(to_small1 @ estimate.matrix)
    warped = cv2.warpPerspective(small1.pixels, back, small0.size)
    covered = cv2.warpPerspective(np.ones(small1.pixels.shape[:2], np.float32), back, small0.size)
    share = 0.5 * covered[:, :, None]
    mixed = small0.pixels * (1 - share) + warped * share
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)

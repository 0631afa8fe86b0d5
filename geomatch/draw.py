"""Pictures of a result."""

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


def draw_matches(result: MatchResult) -> NDArray[np.uint8]:
    """Both images side by side, (H, W, 3) RGB, with the inliers joined; all matches if there are none."""
    image0, image1 = result.image0, result.image1
    small0, small1 = reduce_image(image0, PICTURE_SIDE), reduce_image(image1, PICTURE_SIDE)
    chosen = np.arange(len(result.matches))
    if result.homography:
        chosen = np.flatnonzero(result.homography.inliers)
    chosen = chosen[:MAX_LINES]
    points0 = resize_points(result.points0[chosen], image0.size, small0.size)
    points1 = resize_points(result.points1[chosen], image1.size, small1.size)
    canvas = cv2.drawMatches(  # type: ignore[call-overload]  # the stubs know no None
        small0.pixels,
        [cv2.KeyPoint(x, y, 1.0) for x, y in points0.tolist()],
        small1.pixels,
        [cv2.KeyPoint(x, y, 1.0) for x, y in points1.tolist()],
        [cv2.DMatch(index, index, 0.0) for index in range(len(chosen))],
        None,
        matchColor=(60, 220, 90) if result.homography else (230, 80, 70),
        flags=cv2.DRAW_MATCHES_FLAGS_NOT_DRAW_SINGLE_POINTS,
    )
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

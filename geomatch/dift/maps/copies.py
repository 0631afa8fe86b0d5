"""Rotated and scaled copies of an image, for models that need a whole image and are used to it upright.

A keypoint is described where its orientation is nearest the x axis and its scale nearest `REFERENCE_SCALE`.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.geometry import image_corners, resize_homography, warp_points
from geomatch.images import Image
from geomatch.types import Features

REFERENCE_SCALE = 3.0
"""Scale in pixels of the network's input that wants no reduction: of 2, 3, 4, 6 and 8 the one with most right
matches of SIFT keypoints without rotations, on 16 synthetic pairs."""


class Copy(NamedTuple):
    """One copy, and the keypoints that are described in it."""

    image: Image  # its sides are multiples of the model's stride
    matrix: NDArray[np.float64]  # (3, 3) from pixels of the original to pixels of the copy
    members: NDArray[np.int64]  # (n,) indices of the keypoints


def needed_copies(
    picture: Image, features: Features, size: tuple[int, int], rotations: int, scales: int, stride: int
) -> list[Copy]:
    """The copies that some keypoint asks for; every keypoint is a member of one.

    ``size`` is that (width, height) of the copy that is neither rotated nor reduced.
    """
    chosen = choose_copies(features, rotations, scales, size[0] / picture.size[0])
    original = PILImage.fromarray(picture.pixels)
    copies = []
    for level, rotation in np.unique(chosen, axis=0).tolist():
        smaller = (max(1, round(size[0] / 2**level)), max(1, round(size[1] / 2**level)))
        # Pillow's bicubic, which averages, as `geomatch.dift.inputs.image_input` does
        reduced = np.asarray(original.resize(smaller, PILImage.Resampling.BICUBIC))
        pixels, turn = turn_image(reduced, -2 * np.pi * rotation / rotations, stride)
        shrink = resize_homography(picture.size, smaller)
        members = np.flatnonzero((chosen == (level, rotation)).all(axis=1))
        copies.append(Copy(Image(pixels, picture.name), turn @ shrink, members))
    return copies


def choose_copies(features: Features, rotations: int, scales: int, factor: float = 1.0) -> NDArray[np.int64]:
    """(N, 2) int64 per keypoint: halvings of the side, and rotation in steps of 360 / rotations degrees.

    ``factor`` leads from pixels of the original to those of the network's input.
    """
    chosen = np.zeros((len(features), 2), np.int64)
    if features.scales is not None:
        halvings = np.round(np.log2(features.scales * factor / REFERENCE_SCALE))
        chosen[:, 0] = np.clip(halvings, 0, scales - 1)
    if features.orientations is not None:
        steps = np.round(features.orientations * (rotations / (2 * np.pi)))
        chosen[:, 1] = steps.astype(np.int64) % rotations
    return chosen


def turn_image(
    pixels: NDArray[np.uint8], angle: float, stride: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Rotate an image (H, W, 3) on a canvas that holds all of it; also the (3, 3) matrix.

    ``angle`` is in radians from the x axis towards the y axis. Quarter turns move pixels without mixing them.
    """
    cosine, sine = np.round([np.cos(angle), np.sin(angle)], 12)
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    corners = warp_points(matrix, image_corners((pixels.shape[1], pixels.shape[0])))
    extent = corners.max(axis=0) - corners.min(axis=0) + 1
    canvas = (np.ceil(np.round(extent, 6) / stride) * stride).astype(int)
    # a whole number of pixels on the left and above, so that quarter turns stay exact
    matrix[:2, 2] = np.floor((canvas - extent) / 2) - corners.min(axis=0)
    turned = cv2.warpAffine(
        pixels, matrix[:2], canvas.tolist(), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(turned, dtype=np.uint8), matrix

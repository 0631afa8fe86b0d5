"""Changes of the second image of a pair, by a strength, for variants of a protocol."""

import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, resize_homography, warp_points
from geomatch.images import Image
from geomatch.synthetic import render_view

CHANGES: dict[str, tuple[str, tuple[float, ...]]] = {
    "rotation": ("clockwise turn of the second image, degrees", tuple(range(0, 360, 30))),
    "scale": ("scale of the second image", (0.25, 0.35, 0.5, 0.71, 1, 1.41, 2, 2.83, 4)),
    "jpeg": ("JPEG quality of the second image", (5, 10, 20, 30, 50, 70, 90)),
    "noise": ("noise in the second image, standard deviation of 255", (0, 5, 10, 20, 40, 80)),
    "blur": ("blur of the second image, standard deviation in pixels", (0, 1, 2, 4, 8)),
    "darkness": ("values of the second image divided by", (1, 2, 4, 8, 16, 32)),
    "resolution": ("detail of the second image reduced by", (1, 2, 4, 8)),
}
"""Words for the strengths, and those that a variant tries, by name. Rotation and scale show all of the image,
on black; resolution reduces it and enlarges it to its size again."""


def changed(image: Image, change: str) -> tuple[Image, NDArray[np.float64]]:
    """The image after ``NAME=STRENGTH``, and the (3, 3) matrix from its pixels before to those after.

    Noise follows from the pixels, so that an image has the same one every time.
    """
    name, _, number = change.partition("=")
    strength, pixels, size, matrix = float(number), image.pixels, image.size, np.eye(3)
    if name == "rotation":
        cosine, sine = np.round([np.cos(np.radians(strength)), np.sin(np.radians(strength))], 12)
        matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
        corners = warp_points(matrix, image_corners(size))
        matrix[:2, 2] = -corners.min(0)
        width, height = np.ceil(np.round(np.ptp(corners, axis=0), 6)).astype(int) + 1
        pixels = render_view(pixels, matrix, (int(width), int(height)))
    elif name == "scale":
        size = max(1, round(size[0] * strength)), max(1, round(size[1] * strength))
        matrix = resize_homography(image.size, size)
        pixels = render_view(pixels, matrix, size)
    elif name == "jpeg":
        _, code = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(strength)])
        pixels = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1]
    elif name == "noise":
        noise = np.random.default_rng(zlib.crc32(pixels.tobytes())).normal(0, 1, pixels.shape)
        pixels = np.clip(np.round(pixels + strength * noise), 0, 255)
    elif name == "blur" and strength:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), strength))
    elif name == "darkness":
        pixels = np.round(pixels / strength)
    elif name == "resolution":
        small = max(1, round(size[0] / strength)), max(1, round(size[1] / strength))
        less = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        pixels = np.asarray(cv2.resize(less, size, interpolation=cv2.INTER_LINEAR))
    return Image(np.ascontiguousarray(pixels, np.uint8), image.name), matrix

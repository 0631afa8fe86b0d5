"""A panorama of two photographs taken from one place, or of a plane.

``python -m geomatch.opencv.examples.panorama [LEFT RIGHT]`` writes both in the frame of the first: DIFT, the
exact matcher and the gate of geomatch; exposure, seam and blending of OpenCV's stitching module.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, warp_points
from geomatch.opencv import BFMatcher, DIFT_create, Feature2D, findHomography
from geomatch.opencv.examples import Photo, bundled_photographs, two_photographs

KEYPOINTS = 1500
MAX_GROWTH = 8  # a canvas so many times as large as the first photograph comes from a wrong homography


def stitch(first: Photo, second: Photo, feature: Feature2D) -> Photo | None:
    """Both photographs on one canvas, BGR; None when they do not fit together."""
    keypoints1, descriptors1 = feature.detectAndCompute(first, None)
    keypoints2, descriptors2 = feature.detectAndCompute(second, None)
    matches = BFMatcher(cv2.NORM_L2, crossCheck=True).match(descriptors1, descriptors2)
    if len(matches) < 4:
        return None
    target = np.array([keypoints1[match.queryIdx].pt for match in matches], np.float32)
    source = np.array([keypoints2[match.trainIdx].pt for match in matches], np.float32)
    matrix, _ = findHomography(source, target, cv2.USAC_MAGSAC, 3.0, None, 100_000, 0.9999)
    return None if matrix is None else _blend(first, second, matrix)


def _blend(first: Photo, second: Photo, matrix: NDArray[np.float64]) -> Photo | None:
    """The second photograph warped into the frame of the first, both blended across a seam."""
    corners = [image_corners((photo.shape[1], photo.shape[0])) for photo in (first, second)]
    corners[1] = warp_points(matrix, corners[1])
    low = np.floor(np.min(corners, axis=(0, 1)))
    size = np.ceil(np.max(corners, axis=(0, 1))) - low + 1
    if size.prod() > MAX_GROWTH * first.shape[0] * first.shape[1]:
        return None
    width, height = size.astype(int).tolist()
    shift = np.array([[1.0, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    layers, masks = [], []
    for photo, place in ((first, shift), (second, shift @ matrix)):
        layers.append(cv2.warpPerspective(photo, place, (width, height)))
        masks.append(cv2.warpPerspective(np.full(photo.shape[:2], 255, np.uint8), place, (width, height)))
    detail: Any = cv2.detail  # of which OpenCV's type stubs know little
    exposure = detail.ExposureCompensator_createDefault(detail.EXPOSURE_COMPENSATOR_CHANNELS)
    exposure.feed([(0, 0), (0, 0)], layers, masks)
    for index, layer in enumerate(layers):
        layers[index] = exposure.apply(index, (0, 0), layer, masks[index])
    seam = detail.SeamFinder_createDefault(detail.SeamFinder_VORONOI_SEAM)
    cut = seam.find([layer.astype(np.float32) for layer in layers], [(0, 0), (0, 0)], masks)
    blender = detail.MultiBandBlender()
    blender.prepare((0, 0, width, height))
    for layer, mask in zip(layers, cut, strict=True):
        blender.feed(layer.astype(np.int16), mask.get() if isinstance(mask, cv2.UMat) else mask, (0, 0))
    result, _ = blender.blend(None, None)
    return np.asarray(np.clip(result, 0, 255), np.uint8)


def bundled_views() -> tuple[Photo, Photo]:
    """The left part of one bundled photograph and the right part of the other, in another light."""
    first, second = bundled_photographs()
    return first[:, :440].copy(), second[40:, 160:].copy()


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the photographs fit together, 1 if not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description="A panorama of two photographs.")
    parser.add_argument("images", nargs="*", type=Path, help="two photographs that overlap")
    parser.add_argument("--out", type=Path, default=Path("panorama.jpg"))
    options = parser.parse_args(arguments)
    first, second = two_photographs(parser, options.images) if options.images else bundled_views()
    panorama = stitch(first, second, DIFT_create(KEYPOINTS))
    if panorama is None:
        print("the photographs do not fit together")
        return 1
    cv2.imwrite(str(options.out), panorama)
    print(f"wrote {options.out}, {panorama.shape[1]}x{panorama.shape[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

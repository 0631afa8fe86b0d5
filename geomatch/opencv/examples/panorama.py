"""A panorama of photographs taken from one place, or of a plane, in any order.

``python -m geomatch.opencv.examples.panorama [PHOTO PHOTO ...]`` writes all in the frame of the one that most
others overlap: DIFT, the exact matcher and the gate of geomatch; exposure, seam and blending of OpenCV's
stitching module, whose ``cv2.Stitcher`` takes no features from Python.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.geometry import image_corners, shift_homography, warp_points
from geomatch.opencv import BFMatcher, DIFT_create, Feature2D, estimate_homography
from geomatch.opencv.examples import Photo, bundled_photographs, read_photographs

Matrix = NDArray[np.float64]
KEYPOINTS = 1500
MIN_MATCHES = 8
MAX_GROWTH = 4  # a canvas so many times as large as all photographs comes from a wrong homography


def stitch(photos: Sequence[Photo], feature: Feature2D) -> Photo | None:
    """All photographs on one canvas, BGR; None when they do not fit together."""
    keypoints, descriptors = feature.detectAndCompute(list(photos), None)
    # inliers, and the matrix from the second to the first
    links: dict[tuple[int, int], tuple[int, NDArray[Any]]] = {}
    for i, j in combinations(range(len(photos)), 2):
        matches = BFMatcher(cv2.NORM_L2, crossCheck=True).match(descriptors[i], descriptors[j])
        if len(matches) >= MIN_MATCHES:
            target = np.array([keypoints[i][match.queryIdx].pt for match in matches], np.float32)
            source = np.array([keypoints[j][match.trainIdx].pt for match in matches], np.float32)
            # as findHomography, without a warning for photographs that do not overlap
            found = estimate_homography(source, target, cv2.USAC_MAGSAC, 3.0, 100_000, 0.9999)
            if found:
                links[i, j] = found.num_inliers, found.matrix
                links[j, i] = found.num_inliers, np.linalg.inv(found.matrix)
    support = [sum(count for (i, _), (count, _) in links.items() if i == own) for own in range(len(photos))]
    places = {int(np.argmax(support)): np.eye(3)}
    while len(places) < len(photos):  # next the one that shares most with one of those placed
        ends = [(links[i, j][0], i, j) for i, j in links if i in places and j not in places]
        if not ends:
            return None
        _, i, j = max(ends)
        places[j] = places[i] @ links[i, j][1]
    return _blend(photos, [places[i] for i in range(len(photos))])


def _blend(photos: Sequence[Photo], places: Sequence[Matrix]) -> Photo | None:
    """The photographs warped to their places, blended across seams."""
    sizes = [(photo.shape[1], photo.shape[0]) for photo in photos]
    corners = np.concatenate(list(map(warp_points, places, map(image_corners, sizes))))
    low = np.floor(corners.min(axis=0))
    size = np.ceil(corners.max(axis=0)) - low + 1
    if size.prod() > MAX_GROWTH * sum(w * h for w, h in sizes):
        return None
    width, height = size.astype(int).tolist()
    shift = shift_homography(*-low)
    layers, masks = [], []
    for photo, place in zip(photos, places, strict=True):
        layers.append(cv2.warpPerspective(photo, shift @ place, (width, height)))
        whole = np.full(photo.shape[:2], 255, np.uint8)
        masks.append(cv2.warpPerspective(whole, shift @ place, (width, height)))
    origins = [(0, 0)] * len(photos)
    detail: Any = cv2.detail  # of which OpenCV's type stubs know little
    exposure = detail.ExposureCompensator_createDefault(detail.EXPOSURE_COMPENSATOR_CHANNELS)
    exposure.feed(origins, layers, masks)
    for index, layer in enumerate(layers):
        layers[index] = exposure.apply(index, (0, 0), layer, masks[index])
    seam = detail.SeamFinder_createDefault(detail.SeamFinder_VORONOI_SEAM)
    cut = seam.find([layer.astype(np.float32) for layer in layers], origins, masks)
    blender = detail.MultiBandBlender()
    blender.prepare((0, 0, width, height))
    for layer, mask in zip(layers, cut, strict=True):
        blender.feed(layer.astype(np.int16), mask.get() if isinstance(mask, cv2.UMat) else mask, (0, 0))
    result, _ = blender.blend(None, None)
    return np.asarray(np.clip(result, 0, 255), np.uint8)


def bundled_views() -> list[Photo]:
    """The left part of one bundled photograph and the right part of the other, in another light."""
    first, second = bundled_photographs()
    return [first[:, :440].copy(), second[40:, 160:].copy()]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the photographs fit together, 1 if not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description="A panorama of photographs.")
    parser.add_argument("images", nargs="*", type=Path, help="photographs that overlap, in any order")
    parser.add_argument("--out", type=Path, default=Path("panorama.jpg"))
    options = parser.parse_args(arguments)
    if len(options.images) == 1:
        parser.error("give two photographs or more, or none for the bundled ones")
    photos = read_photographs(parser, options.images) or bundled_views()
    panorama = stitch(photos, DIFT_create(KEYPOINTS))
    if panorama is None:
        print("the photographs do not fit together")
        return 1
    cv2.imwrite(str(options.out), panorama)
    print(f"wrote {options.out}, {panorama.shape[1]}x{panorama.shape[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

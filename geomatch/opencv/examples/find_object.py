"""Find an object in a scene: OpenCV's feature-matching exercise with one line changed.

``python -m geomatch.opencv.examples.find_object [OBJECT SCENE]`` writes the scene with the object outlined.
Everything between the two marks is plain OpenCV and is the same for SIFT; compare with ``--features sift``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import geomatch
from geomatch.opencv import DIFT_create

Photo = NDArray[np.uint8]  # (H, W, 3) BGR
RATIO = 0.7  # Lowe's: distance to the nearest over that to the second nearest
MIN_MATCHES = 10
BOX = (270, 90, 450, 240)  # left, top, right and bottom of the rock in the first bundled photograph


def create_feature(name: str) -> Any:
    """The one line that differs."""
    return cv2.SIFT_create() if name == "sift" else DIFT_create()  # type: ignore[attr-defined]


def find_object(wanted: Any, scene: Any, feature: Any) -> tuple[Any, Any]:
    """Corners (4, 2) of the object in the scene, clockwise from its first pixel, or None; and a picture."""
    # --- from here on: a script written for SIFT
    keypoints1, descriptors1 = feature.detectAndCompute(wanted, None)
    keypoints2, descriptors2 = feature.detectAndCompute(scene, None)
    if descriptors1 is None or descriptors2 is None or len(descriptors2) < 2:
        return None, scene

    flann = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 5}, {"checks": 50})
    neighbours = flann.knnMatch(descriptors1, descriptors2, k=2)
    good = [first for first, second in neighbours if first.distance < RATIO * second.distance]

    corners: Any = None
    drawn = [0] * len(good)
    if len(good) >= MIN_MATCHES:
        source = np.array([keypoints1[match.queryIdx].pt for match in good], np.float32).reshape(-1, 1, 2)
        target = np.array([keypoints2[match.trainIdx].pt for match in good], np.float32).reshape(-1, 1, 2)
        matrix, mask = cv2.findHomography(source, target, cv2.RANSAC, 5.0)
        if matrix is not None:
            right, bottom = wanted.shape[1] - 1, wanted.shape[0] - 1
            outline = np.array([[[0, 0], [right, 0], [right, bottom], [0, bottom]]], np.float32)
            corners = cv2.perspectiveTransform(outline, matrix)[0]
            scene = cv2.polylines(scene.copy(), [np.round(corners).astype(np.int32)], True, (0, 0, 255), 3)
            drawn = [int(inlier) for inlier in mask.ravel()]
    picture = cv2.drawMatches(  # type: ignore[call-overload]
        wanted, keypoints1, scene, keypoints2, good, None, matchColor=(90, 220, 60), matchesMask=drawn,
        flags=cv2.DrawMatchesFlags_NOT_DRAW_SINGLE_POINTS,
    )  # fmt: skip
    # --- to here
    return corners, picture


def bundled_object() -> tuple[Photo, Photo]:
    """A rock cut out of one bundled photograph, and the other one."""
    pair = geomatch.bundled_pair()
    first, second = (np.asarray(cv2.imread(str(path)), np.uint8) for path in (pair.image0, pair.image1))
    return first[BOX[1] : BOX[3], BOX[0] : BOX[2]].copy(), second


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the object was found, 1 if not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description="Find an object in a scene.")
    parser.add_argument("images", nargs="*", type=Path, help="photographs of the object and of the scene")
    parser.add_argument("--features", choices=("dift", "sift"), default="dift")
    parser.add_argument("--out", type=Path, default=Path("object-in-scene.jpg"))
    options = parser.parse_args(arguments)
    if len(options.images) not in (0, 2):
        parser.error("give two photographs, or none for the bundled ones")
    photos = [cv2.imread(str(path)) for path in options.images]
    for path, photo in zip(options.images, photos, strict=True):
        if photo is None:
            parser.error(f"cannot read {path} as an image")
    wanted, scene = photos or bundled_object()
    corners, picture = find_object(wanted, scene, create_feature(options.features))
    cv2.imwrite(str(options.out), picture)
    print("not found" if corners is None else f"found at {np.round(corners).astype(int).tolist()}")
    print(f"wrote {options.out}")
    return 0 if corners is not None else 1


if __name__ == "__main__":
    raise SystemExit(main())

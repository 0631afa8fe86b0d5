"""Tell answers that follow the photographs' content from those that follow their frame.

Features may tell where in the image a keypoint lies (zero padding, attention, the statistics of
normalisation), or next to nothing; untrained networks give such. Neighbours then agree with one another, and
hundreds of matches with a homography that no content supports: no count of inliers gives it away. So an
answer is believed where the pixels agree with it, by Lucas-Kanade. Else image 1 is described again with its
content moved within the frame, which must give the same answer.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import align_points, prepare_part
from geomatch.describers import Describer, traits_of
from geomatch.geometry import corner_error, warp_points
from geomatch.images import Image
from geomatch.matching import match_mutual
from geomatch.types import EstimationFailure, Features, Found, Geometry, HomographyEstimate

PART = 4
"""Content moves by this part of width and height: of an eighth, a quarter and a half the one that told right
answers from wrong ones best, on 50 pairs with random and trained weights."""
CONFIRMED = 0.55
"""Share of the keypoints seen in both images whose pixels must agree: of right answers of trained dense
features all had 0.6 and more, of 60 that were over 10 px off two (0.62 and 0.67, 12 and 10 px off)."""
CLOSE = 0.15
"""Largest mean corner error between the two answers, in units of the move: 13 of 14 right answers of trained
features had up to 0.13, those of positions 1."""
CONTENT = 0.7
"""Least `content_share` of features that are believed without a homography."""
_LEAST = 8  # keypoints whose pixels must agree


def check_content(
    image0: Image,
    image1: Image,
    features0: Features,
    features1: Features,
    found: Found,
    describer: Describer,
    again: Callable[[Features], Geometry],
    threshold: float,
) -> Found | EstimationFailure:
    """Give the answer back, or the reason why it is none.

    Only a homography tells where pixels must agree: other answers are believed where the features of image 1
    find their own content again. ``again`` matches features of image 1 with those of image 0, and estimates;
    ``threshold`` is the largest error of an inlier in pixels of image 1.
    """
    if not isinstance(found, HomographyEstimate):
        share = content_share(describer, image1, features1)
        if share >= CONTENT:
            return found
        sign = f"with the content of image 1 moved, {share:.0%} of its keypoints are found again"
    else:
        if _pixels_agree(image0, image1, features0, found, threshold):
            return found
        offset, features = describe_moved(describer, image1, features1)
        other = again(features)
        if isinstance(other, HomographyEstimate):
            error = corner_error(other.matrix, found.matrix, image0.size)
            if error <= CLOSE * np.linalg.norm(offset):
                return found
        sign = (
            f"the homography changes when the content of image 1 is moved by 1/{PART} of its size, though "
            f"{found.num_inliers} matches agree with it"
        )
    return EstimationFailure(
        f"the features tell positions in the image more than its content: {sign}; the weights may be "
        "untrained"
    )


def content_share(describer: Describer, image: Image, described: Features) -> float:
    """Share of the matches between an image and itself, its content moved, that return to their keypoint.

    Measured: 0.93 to 1 for features of content, even of random networks; up to 0.4 for those of positions.
    """
    _, moved = describe_moved(describer, image, described)
    if not len(described) or described.descriptors is None or moved.descriptors is None:
        return 1.0
    metric = traits_of(describer).metric
    i, j = match_mutual(described.descriptors, moved.descriptors, metric).indices.T
    return float((i == j).mean()) if len(i) else 0.0


def describe_moved(
    describer: Describer, image: Image, features: Features
) -> tuple[NDArray[np.int64], Features]:
    """Describe keypoints with the content elsewhere in the frame: what leaves on one side enters opposite.

    Returns the offset (x, y) in pixels and the features; their keypoints are the ones given.
    """
    size = np.array(image.size)
    offset = size // PART | 1  # odd: no multiple of a network's stride
    moved = Image(np.roll(image.pixels, tuple(offset[::-1]), (0, 1)), f"{image.name}, moved")
    places = ((features.keypoints + offset + 0.5) % size - 0.5).astype(np.float32)
    described = describer.describe(moved, replace(features, keypoints=places, descriptors=None))
    return offset, replace(described, keypoints=features.keypoints)


def _pixels_agree(
    image0: Image, image1: Image, features0: Features, found: HomographyEstimate, threshold: float
) -> bool:
    """True if Lucas-Kanade finds enough keypoints where the homography sends them."""
    expected = warp_points(found.matrix, features0.keypoints)
    seen = ((expected >= 0) & (expected <= np.array(image1.size) - 1)).all(axis=1)
    places, trusted = align_points(prepare_part(image0, image1), features0.keypoints, found.matrix)
    agree = seen & trusted & (np.linalg.norm(places - expected, axis=1) <= threshold)
    return bool(agree.sum() >= max(_LEAST, CONFIRMED * seen.sum()))

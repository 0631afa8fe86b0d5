"""The matcher with OpenCV's interface, call by call beside ``cv2.BFMatcher``."""

import pickle
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

import geomatch
from geomatch import opencv as gcv

PAIR = geomatch.bundled_pair()
RNG = np.random.default_rng(5)
A, B = (RNG.normal(size=(n, 8)).astype(np.float32) for n in (6, 9))
MASK = np.zeros((6, 9), np.uint8)
MASK[0, 3] = 1
MASK[2, [4, 5, 6]] = 255
HALVES, MASKS = [B[:4], B[4:]], [MASK[:, :4], MASK[:, 4:]]

Call = Callable[[Any], Any]

CASES: dict[str, Call] = {
    "match": lambda m: m.match(A, B),
    "match mask": lambda m: m.match(A, B, MASK),
    "match empty train": lambda m: m.match(A, B[:0]),
    "match None query": lambda m: m.match(None, B),
    "match None train": lambda m: m.match(A, None),
    "match NaN": lambda m: m.match(A * np.float32("nan"), B),
    "match uint8": lambda m: m.match((A * 9).astype(np.uint8), (B * 9).astype(np.uint8)),
    "match int32": lambda m: m.match(A.astype(np.int32), B.astype(np.int32)),
    "match float64": lambda m: m.match(A.astype(np.float64), B.astype(np.float64)),
    "match lists": lambda m: m.match(A.tolist(), B.tolist()),
    "match other dimension": lambda m: m.match(A, B[:, :5]),
    "match Fortran order": lambda m: m.match(np.asfortranarray(A), B),
    "match short mask": lambda m: m.match(A, B, MASK[:3]),
    "match bool mask": lambda m: m.match(A, B, MASK > 0),
    "knn 2": lambda m: m.knnMatch(A, B, 2),
    "knn more than there are": lambda m: m.knnMatch(A, B, 100),
    "knn 0": lambda m: m.knnMatch(A, B, 0),
    "knn without k": lambda m: m.knnMatch(A, B),
    "knn mask": lambda m: m.knnMatch(A, B, 2, MASK),
    "knn mask, compact": lambda m: m.knnMatch(A, B, 2, MASK, True),
    "knn 1, compact": lambda m: m.knnMatch(A, B, 1, None, True),
    "knn None query": lambda m: m.knnMatch(None, B, 2),
    "radius": lambda m: m.radiusMatch(A, B, 2.5),
    "radius that float32 rounds": lambda m: m.radiusMatch(np.float32([[0]]), np.float32([[0.1]]), 0.1),
    "radius beyond float32": lambda m: m.radiusMatch(A, B, 1.7e308),
    "radius compact": lambda m: m.radiusMatch(A, B, 2.5, None, True),
    "radius 0": lambda m: m.radiusMatch(A, B, 0),
    "radius NaN": lambda m: m.radiusMatch(A, B, float("nan")),
    "radius mask": lambda m: m.radiusMatch(A, B, 9.0, MASK),
    "radius empty train": lambda m: m.radiusMatch(A, B[:0], 3.0),
    "collection": lambda m: (m.clear(), m.empty(), m.add(HALVES), m.train(), m.empty(), m.match(A)),
    "collection, radius": lambda m: (m.clear(), m.add(HALVES), m.radiusMatch(A, 2.5)),
    "collection, masks": lambda m: (m.clear(), m.add(HALVES), m.match(A, MASKS)),
    "collection, knn masks": lambda m: (m.clear(), m.add(HALVES), m.knnMatch(A, 3, MASKS)),
    "collection, by position": lambda m: (m.clear(), m.add([B]), m.knnMatch(A, 3, [MASK], True)),
    "collection, match by keyword": lambda m: (m.clear(), m.add([B]), m.match(A, masks=[MASK])),
    "collection, knn by keyword": lambda m: (
        m.add([B]),
        m.knnMatch(A, k=2, masks=[MASK], compactResult=True),
    ),
    "collection, radius by keyword": lambda m: (m.add([B]), m.radiusMatch(A, 9.0, masks=[MASK])),
    "collection, one image None": lambda m: (m.clear(), m.add([None, B]), m.match(A)),
    "collection of one": lambda m: (m.clear(), m.add([B]), m.match(A)),
    "collection of two dimensions": lambda m: (m.clear(), m.add([B, B[:, :5]]), m.match(A)),
    "collection of none": lambda m: (m.clear(), m.match(A)),
    "trains": lambda m: (m.clear(), m.add(HALVES), m.getTrainDescriptors()),
    "clone": lambda m: (m.clear(), m.add([B]), m.clone().match(A), m.clone(True).empty()),
    "pickle": pickle.dumps,
}
CROSSED = ("match", "match uint8", "match None query", "match mask", "knn more than there are", "radius")
CROSSED += ("knn 1, compact", "collection of one", "collection")

MEANT: dict[str, str] = {
    "match None train": "an image without keypoints has no matches; OpenCV fails",
    "collection, one image None": "an image without keypoints has no matches",
    "radius compact": "queries without a neighbour are left out; OpenCV forgets to",
    "match NaN": "numbers that are not finite are an error, not an image without matches",
    "match float64": "any floating point is taken, as float32",
    "pickle": "OpenCV's objects cannot be pickled",
}
"""Where ours differs from OpenCV on purpose, and why."""


def outline(value: Any) -> Any:
    if isinstance(value, cv2.DMatch):
        return value.queryIdx, value.trainIdx, value.imgIdx, pytest.approx(value.distance, abs=2e-5)
    if isinstance(value, np.ndarray):
        return "array", value.dtype.name, value.tolist()
    if isinstance(value, tuple):
        return tuple(outline(part) for part in value)
    return "made" if isinstance(value, bytes) else value


def outcome(matcher: Any, call: Call) -> Any:
    try:
        return outline(call(matcher))
    except cv2.error:
        assert isinstance(matcher, cv2.BFMatcher)
        return "error"
    except (TypeError, ValueError):
        return "error"


def test_a_distance_found_is_within_itself() -> None:
    """Distances are float32; so is the radius."""
    rows = RNG.normal(size=(2, 40, 128)).astype(np.float32)
    matcher = gcv.BFMatcher()
    for match in matcher.match(rows[0], rows[1]):
        query = rows[0][match.queryIdx : match.queryIdx + 1]
        (near,) = matcher.radiusMatch(query, rows[1], match.distance)
        assert match.trainIdx in [other.trainIdx for other in near]


def test_an_empty_image_of_a_collection_only_counts() -> None:
    """OpenCV is no measure here: it gives what lay in memory (4.14, 5.0), so that its answers change."""
    with_empty, without = gcv.BFMatcher(), gcv.BFMatcher()
    with_empty.add([B[:4], B[:0], B[4:]])
    without.add(HALVES)
    expected = [(m.queryIdx, m.trainIdx, 2 * m.imgIdx, m.distance) for m in without.match(A)]
    assert [(m.queryIdx, m.trainIdx, m.imgIdx, m.distance) for m in with_empty.match(A)] == expected


@pytest.mark.parametrize("name", CASES)
def test_behaves_as_bfmatcher(name: str) -> None:
    theirs, ours = outcome(cv2.BFMatcher(), CASES[name]), outcome(gcv.BFMatcher(), CASES[name])
    assert (ours == theirs) == (name not in MEANT)


@pytest.mark.parametrize("name", CROSSED)
def test_behaves_as_bfmatcher_with_cross_check(name: str) -> None:
    ours, theirs = (matcher(cv2.NORM_L2, True) for matcher in (gcv.BFMatcher, cv2.BFMatcher))
    assert outcome(ours, CASES[name]) == outcome(theirs, CASES[name])


@pytest.fixture(scope="module")
def photographs() -> Any:
    """Both images and their 300 keypoints and descriptors, by DIFT."""
    images = [cv2.imread(str(path)) for path in (PAIR.image0, PAIR.image1)]
    return images, *gcv.DIFT_create(300).detectAndCompute(images, None)


@pytest.mark.parametrize("cross_check", [False, True])
def test_equal_on_photographs(photographs: Any, cross_check: bool) -> None:
    """The very same matches in the same order, of DIFT and of SIFT (uint8 values in float32)."""
    images, _, dift = photographs
    sift: Any = cv2.SIFT_create(400)  # type: ignore[attr-defined]
    for rows in (dift, [sift.detectAndCompute(image, None)[1] for image in images]):
        ours = gcv.BFMatcher(crossCheck=cross_check).match(*rows)
        theirs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=cross_check).match(*rows)
        assert len(ours) > 100
        assert [(m.queryIdx, m.trainIdx) for m in ours] == [(m.queryIdx, m.trainIdx) for m in theirs]
        distances = [m.distance for m in theirs]
        np.testing.assert_allclose([m.distance for m in ours], distances, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("name", ["BruteForce", "FlannBased"])
def test_opencvs_matchers_take_our_descriptors(photographs: Any, name: str) -> None:
    """And what draws and estimates takes our keypoints and both matchers' matches."""
    (image0, image1), (points0, points1), rows = photographs
    knn = cv2.DescriptorMatcher_create(name).knnMatch(*rows, 2)  # type: ignore[attr-defined]
    good = [first for first, second in knn if first.distance < 0.8 * second.distance]
    source = np.float32([points0[m.queryIdx].pt for m in good]).reshape(-1, 1, 2)
    target = np.float32([points1[m.trainIdx].pt for m in good]).reshape(-1, 1, 2)
    matrix, mask = cv2.findHomography(source, target, cv2.RANSAC, 5.0)
    limit = 3 if name == "BruteForce" else 10  # FLANN's trees are random, and OpenCV has no gate
    assert geomatch.corner_error(matrix, PAIR.homography, (640, 480)) < limit
    inliers = mask.ravel().tolist()
    drawn = cv2.drawMatches(image0, points0, image1, points1, good, None, matchesMask=inliers)
    assert drawn.shape == (480, 1280, 3)
    for found in (knn[:9], gcv.BFMatcher().knnMatch(*rows, 2), gcv.BFMatcher().radiusMatch(*rows, 0.5)):
        assert cv2.drawMatchesKnn(image0, points0, image1, points1, found, None).shape == drawn.shape
    assert cv2.drawKeypoints(image0, points0, None).shape == image0.shape


def test_made_by_all_of_opencvs_names() -> None:
    for module in (cv2, gcv):
        for make in (module.BFMatcher, module.BFMatcher.create, module.BFMatcher_create):  # type: ignore[attr-defined]
            for matcher in (make(cv2.NORM_L2, True), make(normType=cv2.NORM_L2, crossCheck=True)):
                assert isinstance(matcher, module.BFMatcher)  # type: ignore[attr-defined]
                assert outcome(matcher, CASES["match"]) == outcome(
                    cv2.BFMatcher(cv2.NORM_L2, True), CASES["match"]
                )


def test_other_norms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be cv2.NORM_L2 \(4\), got 6; cv2.BFMatcher has others"):
        gcv.BFMatcher(cv2.NORM_HAMMING)
    with pytest.raises(ValueError, match="crossCheck goes with"):
        gcv.BFMatcher(crossCheck=True).knnMatch(A, B, 2)


def test_descriptors_are_stored_as_they_were_given() -> None:
    matcher, rows = gcv.BFMatcher(), B.copy()
    matcher.add([rows])
    rows[:] = 0
    np.testing.assert_array_equal(matcher.getTrainDescriptors()[0], B)
    with pytest.raises(TypeError, match="trainDescriptors must be an array"):
        matcher.match(A, "rows")

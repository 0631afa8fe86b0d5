"""Converters, the homography and the stitching pipeline, beside OpenCV's own."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from match_sets import random_matches

import geomatch
from geomatch import opencv as gcv
from geomatch.estimators import PoseLibEstimator
from geomatch.synthetic import render_view

PAIR = geomatch.bundled_pair()
BGR = cv2.imread(str(PAIR.image0))
H = np.array([[0.9, -0.2, 30.0], [0.15, 1.1, -20.0], [1e-4, -2e-4, 1.0]])


def features(rng: np.random.Generator, oriented: bool = True) -> geomatch.Features:
    frames = (rng.uniform(1, 20, 30), rng.uniform(0, 2 * np.pi, 30)) if oriented else (None, None)
    points, scores, rows = rng.uniform(0, 100, (30, 2)), rng.uniform(0, 1, 30), rng.normal(size=(30, 8))
    return geomatch.Features(points, scores, (120, 110), *frames, rows)


@pytest.mark.parametrize("oriented", [True, False])
def test_keypoints_there_and_back(rng: np.random.Generator, oriented: bool) -> None:
    before = features(rng, oriented)
    after = gcv.from_keypoints(gcv.to_keypoints(before), before.image_size, before.descriptors)
    if oriented:
        assert after.orientations is not None
        np.testing.assert_allclose(after.orientations, before.orientations, atol=1e-6)
    assert replace(after, orientations=before.orientations) == before
    assert (after.orientations is None) == (not oriented)


def test_keypoints_of_opencv_there_and_back() -> None:
    sift: Any = cv2.SIFT_create(50)  # type: ignore[attr-defined]
    points = sift.detect(BGR, None)
    again = gcv.to_keypoints(gcv.from_keypoints(points, (640, 480)))
    for a, b in zip(points, again, strict=True):
        assert (a.pt, a.size, a.response) == (b.pt, b.size, b.response)
        assert abs((a.angle - b.angle + 180) % 360 - 180) < 1e-4
    assert gcv.to_keypoints(gcv.from_keypoints([], (3, 3))) == ()
    with pytest.raises(TypeError, match=r"keypoints\[0\] must be a cv2.KeyPoint"):
        gcv.from_keypoints([(1, 2)], (640, 480))  # type: ignore[list-item]


def test_matches_of_opencv(rng: np.random.Generator) -> None:
    similarity = np.sort(rng.uniform(-1, 1, 20))[::-1]
    before = geomatch.Matches(rng.integers(0, 99, (20, 2)), similarity)
    for metric in ("cosine", "l2"):
        matches = before if metric == "cosine" else geomatch.Matches(before.indices, similarity - 1)
        dmatches = gcv.to_dmatches(matches, metric)  # type: ignore[arg-type]
        assert all(isinstance(match, cv2.DMatch) for match in dmatches)
        assert [match.distance for match in dmatches] == sorted(match.distance for match in dmatches)
        assert [(match.queryIdx, match.trainIdx) for match in dmatches] == [*map(tuple, matches.indices)]
        distances = np.array([match.distance for match in dmatches])
        again = 1 - distances**2 / 2 if metric == "cosine" else -distances
        np.testing.assert_allclose(again, matches.similarity, atol=1e-6)


def test_distance_of_a_cosine_match_is_that_of_bfmatcher(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(2, 40, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    ours, theirs = (
        {(m.queryIdx, m.trainIdx): m.distance for m in found}
        for found in (
            gcv.to_dmatches(geomatch.match_mutual(*rows)),
            cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(*rows),
        )
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_images_there_and_back() -> None:
    image = gcv.from_bgr(BGR)
    np.testing.assert_array_equal(image.pixels, geomatch.load_image(PAIR.image0).pixels)
    np.testing.assert_array_equal(gcv.to_bgr(image), BGR)
    assert gcv.from_bgr(BGR[:, :, 0]).pixels.shape == BGR.shape
    with pytest.raises(geomatch.ImageError, match="no pixels"):
        gcv.from_bgr(np.zeros((0, 0), np.uint8))


def test_homographies_of_opencv() -> None:
    found = geomatch.HomographyEstimate(H, np.array([True, False, True]))
    matrix, mask = gcv.to_homography(found, 3)
    assert mask.tolist() == [[1], [0], [1]]
    np.testing.assert_array_equal(matrix, H)
    matrix, mask = gcv.to_homography(geomatch.EstimationFailure("no"), 3)
    assert (matrix, mask.tolist()) == (None, [[0], [0], [0]])


METHODS = [0, cv2.RANSAC, cv2.LMEDS, cv2.USAC_MAGSAC, "poselib", "kornia", PoseLibEstimator()]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_find_homography_recovers_what_opencv_does(rng: np.random.Generator, method: Any) -> None:
    pytest.importorskip("poselib")
    outliers = 0 if method == 0 else 20
    p0, p1 = random_matches(rng, H, 60, outliers)
    shapes = ((-1, 2), (-1, 1, 2), (1, -1, 2)) if method == cv2.RANSAC else ((-1, 2),)
    for shape in shapes:
        filled = np.zeros((60 + outliers, 1), np.uint8)
        matrix, mask = gcv.findHomography(
            p0.reshape(shape).astype(np.float32), p1.reshape(shape).astype(np.float32), method, 3.0, filled
        )
        assert matrix is not None
        assert (matrix.dtype, mask.dtype, mask.shape) == (np.float64, np.uint8, (60 + outliers, 1))
        assert geomatch.corner_error(matrix, H, (640, 480)) < 0.01
        right = np.linalg.norm(geomatch.warp_points(H, p0) - p1, axis=1) < 3
        np.testing.assert_array_equal(mask[:, 0] != 0, right)
        np.testing.assert_array_equal(filled, mask)


def test_find_homography_has_opencvs_signature() -> None:
    p0 = np.float32([[0, 0], [9, 0], [9, 9], [0, 9]])
    for function in (cv2.findHomography, gcv.findHomography):
        matrix, mask = function(
            srcPoints=p0, dstPoints=p0 + 1, method=0, ransacReprojThreshold=3, mask=None, maxIters=9,
            confidence=0.9,
        )  # fmt: skip
        np.testing.assert_allclose(matrix, [[1, 0, 1], [0, 1, 1], [0, 0, 1]], atol=1e-6)
        assert mask.tolist() == [[1]] * 4


def test_find_homography_of_chance_is_none_and_a_warning(rng: np.random.Generator) -> None:
    """OpenCV finds one among random pairs; a line, one point and NaN are None in both."""
    p0, p1 = rng.uniform(0, 400, (2, 60, 2))
    assert cv2.findHomography(p0, p1, cv2.RANSAC, 3.0)[0] is not None
    line = np.repeat(np.arange(60.0)[:, None], 2, axis=1)
    for a, b in ((p0, p1), (line, p1), (p0 * 0, p1), (p0 * np.nan, p1)):
        for method in (cv2.RANSAC, cv2.USAC_MAGSAC, "poselib"):
            failure = gcv.estimate_homography(a, b, method, 3.0)
            assert isinstance(failure, geomatch.EstimationFailure)
            with pytest.warns(gcv.HomographyWarning) as warned:
                matrix, mask = gcv.findHomography(a, b, method, 3.0)
            assert str(warned[0].message) == failure.reason
            assert warned[0].filename == __file__, "the script's own line"
            assert matrix is None
            assert mask.tolist() == [[0]] * 60
    for a in (p0 * np.nan, line):
        with pytest.warns(gcv.HomographyWarning, match="lie on a line, or their coordinates are not finite"):
            assert gcv.findHomography(a, p1)[0] is None


def scaled(factor: float, x: float = 0.0, y: float = 0.0, up: float = 1.0) -> np.ndarray[Any, Any]:
    return np.array([[factor, 0, x], [0, up * factor, y], [0, 0, 1]])


UNITS = {
    "pixels": scaled(1),
    "0 to 1": scaled(1 / 640),
    "metres": scaled(0.02),
    "eastings and northings": scaled(0.1, 500_000, 4_500_000, -1),
    "y up": scaled(1, 0, 480, -1),
    "large": scaled(1e6),
}


@pytest.mark.parametrize("method", [*METHODS[:-1], cv2.RHO, cv2.USAC_ACCURATE], ids=str)
@pytest.mark.parametrize("units", UNITS)
def test_find_homography_in_any_units(rng: np.random.Generator, units: str, method: Any) -> None:
    """From pixels, to pixels, and to the very same units: the homography of the pixels, seen in these."""
    pytest.importorskip("poselib")
    p0, p1 = random_matches(rng, H, 60, 0 if method == 0 else 20, noise=0.3)
    for frame0, frame1 in ((UNITS[units], np.eye(3)), (np.eye(3), UNITS[units]), (UNITS[units],) * 2):
        q0, q1 = geomatch.warp_points(frame0, p0), geomatch.warp_points(frame1, p1)
        threshold = 3 * frame1[0, 0]
        matrix, mask = gcv.findHomography(q0, q1, method, threshold)
        assert matrix is not None
        in_pixels = np.linalg.inv(frame1) @ matrix @ frame0
        assert geomatch.corner_error(in_pixels, H, (640, 480)) < 1.5
        assert mask.sum() >= 60


@pytest.mark.parametrize("method", [cv2.RANSAC, cv2.USAC_MAGSAC, "poselib"], ids=str)
def test_road_seen_by_a_camera(rng: np.random.Generator, method: Any) -> None:
    """Metres to pixels and back. Wrong matches lie in the sky, beyond the horizon of the right homography."""
    pytest.importorskip("poselib")
    matrix = np.array([[900.0, 638, 0], [0, 280, 1394], [0, 1, 0.13]])  # 1.5 m above the road, 5 degrees down
    road = np.c_[rng.uniform(-6, 6, 180), rng.uniform(5, 40, 180)]
    seen = geomatch.warp_points(matrix, road) + rng.normal(0, 0.5, (180, 2))
    seen[120:] = rng.uniform(0, [1280, 720], (60, 2))
    found = gcv.estimate_homography(road, seen, method, 3.0)
    assert found, found
    assert found.num_inliers >= 119
    back = gcv.estimate_homography(seen, road, method, 0.3)
    assert back, back
    near = road[:, 1] < 20  # half a pixel is more than 0.3 m farther away
    assert back.inliers[:120][near[:120]].all()
    assert back.inliers[120:].sum() < 5


def test_threshold_in_other_units_is_told(rng: np.random.Generator) -> None:
    """The default of 3 among coordinates from 0 to 1 rules nothing out."""
    p0, p1 = random_matches(rng, H, 30, 30)
    with pytest.warns(gcv.HomographyWarning, match=r"the threshold 3 is in units of dstPoints, which spread"):
        assert gcv.findHomography(p0 / 640, p1 / 640, cv2.RANSAC)[0] is None
    assert gcv.findHomography(p0 / 640, p1 / 640, cv2.RANSAC, 0.003)[0] is not None


PAGE = np.array([[102.0, 80], [520, 60], [560, 430], [80, 400]])
SHEET = np.array([[0.0, 0], [210, 0], [210, 297], [0, 297]])  # millimetres


def test_four_corners_are_for_least_squares() -> None:
    """The corners of a page, clicked; y up too. OpenCV's matrix, or the reason and the way out."""
    for target in (SHEET, SHEET * [1, -1]):
        matrix, mask = gcv.findHomography(PAGE, target)
        assert matrix is not None
        np.testing.assert_allclose(geomatch.warp_points(matrix, PAGE), target, atol=1e-3)
        assert mask.tolist() == [[1]] * 4
        with pytest.warns(gcv.HomographyWarning, match="4 points cannot tell .* chance: method=0 fits"):
            assert gcv.findHomography(PAGE, target, cv2.RANSAC, 5.0)[0] is None


@pytest.mark.filterwarnings("ignore::geomatch.opencv.HomographyWarning")
@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_few_random_points_are_not_answered(rng: np.random.Generator, count: int) -> None:
    for _ in range(30):
        p0, p1 = random_matches(rng, H, count, 0)
        matrix, _ = gcv.findHomography(p0, p1, cv2.RANSAC, 3.0)
        assert matrix is None or geomatch.corner_error(matrix, H, (640, 480)) < 1
        assert gcv.findHomography(p0, rng.uniform(0, 480, (count, 2)), cv2.RANSAC, 3.0)[0] is None


FIVE = np.zeros((5, 2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((FIVE[:3], FIVE[:3]), ValueError, "at least 4 points"),
        ((FIVE, FIVE[:4]), ValueError, "as many, got 5 and 4"),
        ((FIVE.T, FIVE.T), ValueError, r"\(N, 2\), \(N, 1, 2\) or \(1, N, 2\)"),
        ((FIVE.tolist(), FIVE), TypeError, r"got list; use np.float32\(points\)"),
        ((FIVE, FIVE, 77), ValueError, r"unknown method 77; choose 0"),
        ((FIVE, FIVE, "best"), ValueError, "unknown estimator 'best'"),
        ((FIVE, FIVE, 8, float("inf")), ValueError, "threshold must be a positive number"),
        ((FIVE, FIVE, None), TypeError, "a number, a name or an estimator"),
    ],
)
def test_find_homography_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gcv.findHomography(*arguments)


def test_image_features_for_stitching(rng: np.random.Generator) -> None:
    before = features(rng)
    assert before.descriptors is not None
    points = gcv.to_keypoints(before)
    made = gcv.to_image_features(points, before.descriptors, before.image_size, 3)
    assert isinstance(made, cv2.detail.ImageFeatures)
    assert (made.img_idx, tuple(made.img_size)) == (3, (120, 110))
    assert [(*p.pt, p.size) for p in made.getKeypoints()] == [(*p.pt, p.size) for p in points]
    np.testing.assert_array_equal(made.descriptors.get(), before.descriptors)
    assert gcv.to_image_features((), None, (120, 110)).getKeypoints() == ()
    with pytest.raises(ValueError, match=r"\(30, D\)"):
        gcv.to_image_features(points, before.descriptors[:4], (120, 110))


def test_stitching_pipeline_finds_the_cameras() -> None:
    """Three views of a turning camera: OpenCV's matcher and estimator on our features find the turns."""
    focal, turns = 700.0, (0.0, 12.0, 24.0)
    inner = np.array([[focal, 0, 160], [0, focal, 120], [0, 0, 1]])
    photo = cv2.resize(BGR, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC)
    to_photo = np.array([[focal, 0, 250], [0, focal, 384], [0, 0, 1]])
    dift = gcv.DIFT_create(250)
    made = []
    for index, turn in enumerate(turns):
        rotation, _ = cv2.Rodrigues(np.array([0.0, np.radians(turn), 0.0]))
        view = render_view(np.asarray(photo), inner @ rotation.T @ np.linalg.inv(to_photo), (320, 240))
        made.append(gcv.to_image_features(*dift.detectAndCompute(view, None), (320, 240), index))
    pairs = cv2.detail.BestOf2NearestMatcher(False, 0.3).apply2(made)
    ok, cameras = cv2.detail.HomographyBasedEstimator().apply(made, pairs, None)
    assert ok
    for one, other, angle in ((0, 1, 12.0), (1, 2, 12.0), (0, 2, 24.0)):
        axis, _ = cv2.Rodrigues((cameras[one].R.T @ cameras[other].R).astype(np.float64))
        assert np.degrees(np.linalg.norm(axis)) == pytest.approx(angle, abs=0.5)
    assert [camera.focal for camera in cameras] == pytest.approx([focal] * 3, rel=0.03)

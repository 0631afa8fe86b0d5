"""The drop-in for ``cv2.SIFT_create()``, call by call beside the original."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import geomatch
from geomatch import opencv as gcv
from geomatch.images import Image
from geomatch.keypoints import GridDetector, OpenCVDetector, SuperPointDetector
from geomatch.keypoints.superpoint import SuperPointNetwork

PAIR = geomatch.bundled_pair()
BGR = cv2.imread(str(PAIR.image0))[100:340, 200:520]
GREY = cv2.cvtColor(BGR, cv2.COLOR_BGR2GRAY)
BLACK = np.zeros_like(GREY)
HALF = BLACK.copy()
HALF[:, :160] = 255
SIFT: Any = cv2.SIFT_create(nfeatures=40)  # type: ignore[attr-defined]
OURS = gcv.DIFT_create(nfeatures=40)
POINTS = SIFT.detect(GREY, None)

Call = Callable[[Any], Any]

CASES: dict[str, Call] = {
    "detect grey": lambda f: f.detect(GREY),
    "detect BGR": lambda f: f.detect(BGR, None),
    "detect BGRA": lambda f: f.detect(cv2.cvtColor(BGR, cv2.COLOR_BGR2BGRA)),
    "detect (H, W, 1)": lambda f: f.detect(GREY[:, :, None]),
    "detect black": lambda f: f.detect(BLACK),
    "detect empty": lambda f: f.detect(np.zeros((0, 0), np.uint8)),
    "detect None": lambda f: f.detect(None),
    "detect 1 pixel": lambda f: f.detect(np.zeros((1, 1), np.uint8)),
    "detect 2 channels": lambda f: f.detect(BGR[:, :, :2]),
    "detect Fortran order": lambda f: f.detect(np.asfortranarray(GREY)),
    "detect float32": lambda f: f.detect(GREY.astype(np.float32)),
    "detect a word": lambda f: f.detect("image.png"),
    "detect list": lambda f: f.detect([GREY, BGR]),
    "detect no images": lambda f: f.detect([]),
    "detect list, masks": lambda f: f.detect([GREY, BGR], [BLACK, HALF]),
    "detect list, one mask short": lambda f: f.detect([GREY, BGR], [BLACK]),
    "detect zero mask": lambda f: f.detect(GREY, BLACK),
    "detect half mask": lambda f: f.detect(GREY, HALF),
    "detect mask of 3 channels": lambda f: f.detect(GREY, BGR),
    "detect bool mask": lambda f: f.detect(GREY, HALF > 0),
    "detect small mask": lambda f: f.detect(GREY, HALF[:100] | 1),
    "compute": lambda f: f.compute(GREY, POINTS),
    "compute no keypoints": lambda f: f.compute(GREY, []),
    "compute array of points": lambda f: f.compute(GREY, np.zeros((3, 2), np.float32)),
    "compute black": lambda f: f.compute(BLACK, POINTS[:3]),
    "compute empty": lambda f: f.compute(np.zeros((0, 0), np.uint8), POINTS[:3]),
    "compute None": lambda f: f.compute(None, POINTS[:3]),
    "compute list": lambda f: f.compute([GREY, BGR], [POINTS, POINTS[:3]]),
    "compute list, none in one": lambda f: f.compute([GREY, BGR], [POINTS, []]),
    "compute list, one short": lambda f: f.compute([GREY, BGR], [POINTS]),
    "compute outside": lambda f: f.compute(GREY, [cv2.KeyPoint(-50.0, 9.0, 5.0), *POINTS[:2]]),
    "compute NaN": lambda f: f.compute(GREY, [cv2.KeyPoint(float("nan"), 9.0, 5.0)]),
    "both": lambda f: f.detectAndCompute(GREY, None),
    "both without mask": lambda f: f.detectAndCompute(GREY),
    "both black": lambda f: f.detectAndCompute(BLACK, None),
    "both half mask": lambda f: f.detectAndCompute(GREY, HALF),
    "both empty": lambda f: f.detectAndCompute(np.zeros((0, 0), np.uint8), None),
    "both list": lambda f: f.detectAndCompute([GREY, BGR], None),
    "both provided": lambda f: f.detectAndCompute(GREY, None, None, True),
    "both with buffer": lambda f: f.detectAndCompute(GREY, None, np.zeros((3, 3), np.float32)),
    "constants": lambda f: (f.descriptorSize(), f.descriptorType(), f.defaultNorm()),
    "empty": lambda f: f.empty(),
    "pickle": pickle.dumps,
}

MEANT: dict[str, str] = {
    "detect None": "a file that could not be read is an error, not an image without keypoints",
    "compute None": "what cannot be read or described is no silent nothing",
    "detect 2 channels": "no image has two channels",
    "detect small mask": "SIFT reads beyond the mask's end",
    "compute outside": "what cannot be described is left out; SIFT returns rows of zeros",
    "compute NaN": "what cannot be read or described is no silent nothing",
    "both list": "detectAndCompute takes lists of images as detect does",
    "pickle": "OpenCV's objects cannot be pickled",
}
"""Where ours differs from SIFT on purpose, and why."""


def outline(value: Any) -> Any:
    """What a script can rely on: types, dtypes and numbers of results."""
    if isinstance(value, np.ndarray):
        return "array", value.dtype.name, value.shape, value.flags.c_contiguous
    if isinstance(value, tuple):
        if value and isinstance(value[0], cv2.KeyPoint):
            return "keypoints", len(value)
        return tuple(outline(part) for part in value)
    if isinstance(value, bytes | gcv.Feature2D):
        return "made"
    return value


def outcome(feature: Any, call: Call) -> Any:
    try:
        return outline(call(feature))
    except cv2.error:
        assert feature is SIFT
        return "error"
    except (TypeError, ValueError):
        return "error"


@pytest.mark.parametrize("name", CASES)
def test_behaves_as_sift(name: str) -> None:
    theirs, ours = outcome(SIFT, CASES[name]), outcome(OURS, CASES[name])
    if name in MEANT:
        assert ours != theirs, "no longer a difference"
    elif name.startswith("compute") or name == "constants" or "error" in (ours, theirs):
        assert ours == theirs
    else:  # the keypoints lie a quarter of a pixel apart, so that their number may differ by a few
        assert str(outline(CASES[name](gcv.DIFT_create(40, enable_precise_upscale=False)))) == str(theirs)


def test_keypoints_are_those_of_sift() -> None:
    """All fields, the octave too, so that OpenCV's descriptors can be computed at them."""
    mine = gcv.DIFT_create(100, 4, 0.03, 12.0, 1.5).detect(BGR, HALF)
    create: Any = cv2.SIFT_create  # type: ignore[attr-defined]
    theirs = create(100, 4, 0.03, 12.0, 1.5, enable_precise_upscale=True).detect(BGR, HALF)

    def rows(points: Any) -> list[tuple[Any, ...]]:
        return [(*p.pt, p.size, p.angle, p.response, p.octave, p.class_id) for p in points]

    assert len(mine) > 20
    assert rows(mine) == rows(theirs)


def test_descriptors_are_those_of_the_pipeline() -> None:
    picture = gcv.from_bgr(BGR)
    features = OpenCVDetector("sift", max_keypoints=60).detect(picture)
    kept, rows = OURS.compute(BGR, gcv.to_keypoints(features))
    assert len(kept) == len(features) > 50
    described = geomatch.DIFTExtractor().describe(picture, features).descriptors
    np.testing.assert_allclose(rows, described, atol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_grey_is_its_repeated_channel_and_the_fourth_plays_no_part() -> None:
    grey, colour = OURS.compute(GREY, POINTS)[1], OURS.compute(BGR, POINTS)[1]
    np.testing.assert_array_equal(grey, OURS.compute(np.repeat(GREY[:, :, None], 3, axis=2), POINTS)[1])
    bgra = np.dstack([BGR, np.arange(GREY.size).astype(np.uint8).reshape(GREY.shape)])
    np.testing.assert_array_equal(OURS.compute(bgra, POINTS)[1], colour)
    swapped = OURS.compute(BGR[:, :, ::-1], POINTS)[1]
    assert np.abs(swapped - colour).max() > 1e-3, "the channels' order counts"


def test_no_descriptor_depends_on_its_company() -> None:
    """Keypoints with and without orientation in one list, in any order."""
    plain = [cv2.KeyPoint(*point.pt, 7.0) for point in POINTS[:6]]
    assert plain[0].angle == -1
    mixed = [point for both in zip(POINTS[:6], plain, strict=True) for point in both]
    kept, rows = OURS.compute(BGR, mixed)
    assert kept == tuple(mixed)
    np.testing.assert_allclose(rows[::2], OURS.compute(BGR, POINTS[:6])[1], atol=1e-5)
    np.testing.assert_allclose(rows[1::2], OURS.compute(BGR, plain)[1], atol=1e-5)
    assert np.abs(rows[::2] - rows[1::2]).max() > 0.1


@pytest.mark.parametrize("name", ["ORB_create", "FastFeatureDetector_create"])
def test_any_detector_of_opencv_is_described(name: str) -> None:
    detector = getattr(cv2, name)()
    points = detector.detect(GREY, None)[:50]
    kept, rows = OURS.compute(GREY, points)
    assert (len(kept), rows.shape) == (50, (50, 128))
    own, rows = gcv.DIFT_create(30, detector=detector).detectAndCompute(GREY, HALF)
    assert len(own) == len(rows) == 30
    assert all(point.pt[0] < 160 for point in own)
    responses = [point.response for point in own]
    assert responses == sorted(responses, reverse=True)


def test_keypoints_outside_are_left_out() -> None:
    inside = [cv2.KeyPoint(x, y, 9.0, 10.0) for x, y in ((0.0, 0.0), (-0.5, -0.5), (319.5, 239.5))]
    outside = [cv2.KeyPoint(x, y, 9.0, 10.0) for x, y in ((-0.6, 3.0), (3.0, 240.0), (float("inf"), 3.0))]
    kept, rows = OURS.compute(BGR, [outside[0], *inside, *outside[1:]], None)
    assert kept == tuple(inside)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_pickled_without_its_networks() -> None:
    rows = OURS.detectAndCompute(BGR, None)[1]  # loads them
    data = pickle.dumps(OURS)
    assert len(data) < 5_000
    np.testing.assert_array_equal(pickle.loads(data).detectAndCompute(BGR, None)[1], rows)


def test_opencv_refuses_what_only_looks_like_a_feature2d() -> None:
    assert not isinstance(OURS, cv2.Feature2D)
    with pytest.raises((TypeError, cv2.error), match="Feature2D"):
        cv2.AffineFeature_create(OURS)  # type: ignore[attr-defined]
    with pytest.raises((TypeError, cv2.error), match="Feature2D"):
        cv2.detail.computeImageFeatures2(OURS, GREY)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nfeatures": 5.5}, TypeError, "nfeatures must be a whole number"),
        ({"nOctaveLayers": 0}, ValueError, "nOctaveLayers must be at least 1"),
        ({"sigma": 0}, ValueError, "sigma must be positive"),
        ({"enable_precise_upscale": cv2.CV_8U}, TypeError, "enable_precise_upscale must be True or False"),
        ({"nfeatures": 10**400, "sigma": 10**400}, ValueError, "sigma is too large"),
        ({"detector": "orb", "sigma": 2.0}, ValueError, "the other arguments are SIFT's"),
        ({"detector": "nothing"}, ValueError, "unknown detector 'nothing'; choose one of"),
        ({"descriptor": "nothing"}, ValueError, "unknown descriptor 'nothing'"),
        ({"nOctaveLayers": 2**40}, ValueError, "OpenCV cannot make the detector"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gcv.DIFT_create(**arguments).detect(GREY)


def test_the_mask_comes_before_the_limit() -> None:
    for source in ("orb", OpenCVDetector("sift", None)):
        feature = gcv.DIFT_create(25, detector=source)
        everything = gcv.DIFT_create(detector=source).detect(GREY, HALF)
        assert len(everything) > 25
        assert len(feature.detect(GREY, HALF)) == 25


def test_a_detector_may_be_callable() -> None:
    class Net(torch.nn.Module):
        def detect(self, image: Image) -> geomatch.Features:
            return OpenCVDetector("sift", 5).detect(image)

    assert len(gcv.DIFT_create(detector=Net()).detect(GREY)) == 5


def test_grid() -> None:
    grid = gcv.DIFT_create(detector=GridDetector(32), descriptor="dift-tiny-dense")
    points, rows = grid.detectAndCompute(BGR, HALF)
    assert (len(points), rows.dtype) == (5 * 7, np.float32)
    assert rows.shape == (len(points), grid.descriptorSize())
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert 0 < len(gcv.DIFT_create(10, detector="grid", descriptor="dift-tiny-dense").detect(GREY)) <= 10


def test_superpoint_with_its_own_descriptors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "superpoint.pth"
    torch.save(SuperPointNetwork().state_dict(), path)
    own = SuperPointDetector(path, None, detection_threshold=0.0)
    feature = gcv.DIFT_create(50, detector=own, descriptor=own)
    points, rows = feature.detectAndCompute(BGR, None)
    assert (len(points), rows.shape, feature.descriptorSize()) == (50, (50, 256), 256)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # the network's own sampling at the points it found
    found = own.detect(gcv.from_bgr(BGR))
    assert found.descriptors is not None
    np.testing.assert_allclose(rows, found.descriptors[:50], atol=1e-5)
    assert feature.compute(BGR, POINTS)[1].shape == (len(POINTS), 256)
    both = gcv.DIFT_create(50, detector=own)
    assert both.detectAndCompute(BGR, None)[1].shape == (50, 128)


def test_superpoint_runs_its_network_once(tmp_path: Path) -> None:
    """The mask and the limit count as before."""
    torch.manual_seed(0)
    path = tmp_path / "superpoint.pth"
    torch.save(SuperPointNetwork().state_dict(), path)
    own = SuperPointDetector(path, None, detection_threshold=0.0)
    feature = gcv.DIFT_create(20, detector=own, descriptor=own)
    image, half = BGR[:96, 120:240], HALF[:96, 120:240]
    runs: list[int] = []
    own.network.register_forward_hook(lambda *_: runs.append(1))
    points, rows = feature.detectAndCompute(image, half)
    assert len(runs) == 1
    assert rows.shape == (20, 256)
    assert all(point.pt[0] < 40 for point in points)
    kept, computed = feature.compute(image, feature.detect(image, half))
    assert [point.pt for point in kept] == [point.pt for point in points]
    np.testing.assert_allclose(rows, computed, atol=1e-5)
    assert feature.detectAndCompute(image, 0 * half) == ((), None)


def test_made_by_opencvs_names_and_shown_in_short() -> None:
    """``SIFT.create`` is ``SIFT_create``; a repr is for reading."""
    assert gcv.DIFT.create(nfeatures=70).getDefaultName() == "Feature2D.DIFT"
    assert repr(gcv.DIFT.create(nfeatures=70)) == repr(gcv.DIFT_create(70))
    assert repr(gcv.DIFT_create(70)) == "<Feature2D.DIFT, described by DIFTExtractor>"


def test_missing_superpoint_weights_are_an_error_with_a_way_out() -> None:
    with pytest.raises(geomatch.WeightsError, match=r"superpoint_v6_from_tf\.pth"):
        gcv.DIFT_create(detector="superpoint").detect(GREY)


def test_own_describer_and_its_dimension() -> None:
    class Place:
        def describe(self, image: Image, features: geomatch.Features) -> geomatch.Features:
            return replace(features, descriptors=np.c_[features.keypoints, np.ones(len(features))])

    class Known:
        dimension = 3

        def describe(self, image: Image, features: geomatch.Features) -> geomatch.Features:
            raise AssertionError("asked for descriptors to learn their dimension")

    feature = gcv.DIFT_create(-1, descriptor=Place())
    points, rows = feature.detectAndCompute(GREY, None)
    assert len(points) > 40, "a negative number is no limit"
    np.testing.assert_allclose(rows[:, :2], [point.pt for point in points])
    assert feature.descriptorSize() == gcv.DIFT_create(descriptor=Known()).descriptorSize() == 3


@pytest.fixture(scope="module")
def photographs() -> Any:
    """Both images and their 300 keypoints and descriptors, by DIFT."""
    images = [cv2.imread(str(path)) for path in (PAIR.image0, PAIR.image1)]
    return images, *gcv.DIFT_create(300).detectAndCompute(images, None)


@pytest.mark.parametrize("name", ["BruteForce", "FlannBased"])
def test_opencvs_matchers_take_our_descriptors(photographs: Any, name: str) -> None:
    """And what draws and estimates takes our keypoints, and OpenCV's matches of them."""
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
    assert cv2.drawMatchesKnn(image0, points0, image1, points1, knn[:9], None).shape == drawn.shape
    assert cv2.drawKeypoints(image0, points0, None).shape == image0.shape

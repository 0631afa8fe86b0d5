"""Refinement by Lucas-Kanade: exact shifts are found in any light; what cannot be trusted is left alone."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from geomatch import EstimationFailure, HomographyEstimate, Image, corner_error, warp_points
from geomatch.alignment import align_homography, align_points, prepare_part
from geomatch.estimators import OpenCVEstimator
from geomatch.keypoints import OpenCVDetector
from geomatch.synthetic import change_light, random_homography, render_view


@pytest.fixture(scope="module")
def points(photo0: Image) -> NDArray[np.float32]:
    return OpenCVDetector("sift", 300).detect(photo0).keypoints


def moved(photo: Image, matrix: NDArray[np.float64], light: int | None = None) -> Image:
    pixels = render_view(photo.pixels, matrix, photo.size)
    return Image(pixels if light is None else change_light(np.random.default_rng(light), pixels), "moved")


def noise(seed: int) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8), "noise")


def off_by(matrix: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    return np.asarray(np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]]) @ matrix)


@pytest.mark.parametrize(("seed", "light"), [(0, None), (1, None), (0, 1), (1, 1)])
def test_points_find_their_place(
    photo0: Image, points: NDArray[np.float32], seed: int, light: int | None
) -> None:
    """Started two pixels off, nearly all trusted points end within a fraction of one, each by itself."""
    truth = random_homography(np.random.default_rng(seed), photo0.size)
    view, start = moved(photo0, truth, light), off_by(truth, 1.5, -1.3)
    places, trusted = align_points(prepare_part(photo0, view), points, start)
    errors = np.linalg.norm(places - warp_points(truth, points), axis=1)
    assert trusted.sum() > 60
    assert np.median(errors[trusted]) < (0.05 if light is None else 0.15)
    assert np.quantile(errors[trusted], 0.9) < (0.3 if light is None else 0.6)
    order = np.random.default_rng(1).permutation(len(points))[:50]
    again, trusted_again = align_points(prepare_part(photo0, view), points[order], start)
    np.testing.assert_allclose(again, places[order], atol=1e-9)
    np.testing.assert_array_equal(trusted_again, trusted[order])


def test_large_images_are_reduced_and_points_come_back_in_their_pixels(
    photo0: Image, points: NDArray[np.float32]
) -> None:
    large = Image(np.asarray(cv2.resize(photo0.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)), "a")
    points = points[:200] * 4 + 1.5
    truth = random_homography(np.random.default_rng(2), large.size)
    places, trusted = align_points(prepare_part(large, moved(large, truth)), points, off_by(truth, 3, 2))
    errors = np.linalg.norm(places - warp_points(truth, points), axis=1)
    assert trusted.sum() > 40
    assert np.median(errors[trusted]) < 0.3  # of 2560 x 1920 pixels


def test_untrusted_points_stay_where_the_homography_sends_them(points: NDArray[np.float32]) -> None:
    start = off_by(np.eye(3), 2, 1)
    places, trusted = align_points(prepare_part(noise(0), noise(1)), points, start)
    assert trusted.mean() < 0.3
    np.testing.assert_allclose(places[~trusted], warp_points(start, points)[~trusted], atol=1e-3)
    none, flags = align_points(prepare_part(noise(0), noise(1)), np.zeros((0, 2)), start)
    assert (none.shape, flags.shape) == ((0, 2), (0,))
    flat = Image(np.full((480, 640, 3), 90, np.uint8), "flat")
    assert not align_points(prepare_part(flat, flat), points, np.eye(3))[1].any()


class Bare:
    """An estimator without an attribute ``threshold``, and one that finds nothing."""

    def __init__(self, inner: OpenCVEstimator | None) -> None:
        self.inner = inner

    def estimate(self, *arguments: Any) -> HomographyEstimate | EstimationFailure:
        return self.inner.estimate(*arguments) if self.inner else EstimationFailure("no")


def test_homography_is_better_or_the_one_given(photo0: Image, points: NDArray[np.float32]) -> None:
    truth = random_homography(np.random.default_rng(0), photo0.size)
    view = moved(photo0, truth, 3)
    noisy = warp_points(truth, points) + np.random.default_rng(0).normal(0, 1.0, points.shape)
    found = OpenCVEstimator().estimate(points, noisy, photo0.size)
    assert isinstance(found, HomographyEstimate)
    better = align_homography(photo0, view, points, points, noisy, found, OpenCVEstimator(), 3.0)
    assert corner_error(better.matrix, truth, photo0.size) < 0.3
    assert corner_error(better.matrix, truth, photo0.size) < corner_error(found.matrix, truth, photo0.size)
    errors = np.linalg.norm(warp_points(better.matrix, points) - noisy, axis=1)
    np.testing.assert_array_equal(better.inliers, errors <= 3)
    assert align_homography(photo0, view, points, points, noisy, found, Bare(None), 3.0) is found
    kept = align_homography(photo0, noise(5), points, points, noisy, found, OpenCVEstimator(), 3.0)
    assert kept is found


def test_the_estimators_threshold_counts(photo0: Image, points: NDArray[np.float32]) -> None:
    """Not the caller's, which is for estimators that have none."""
    truth = random_homography(np.random.default_rng(0), photo0.size)
    view = moved(photo0, truth)
    noisy = warp_points(truth, points) + np.random.default_rng(0).normal(0, 0.3, points.shape)
    strict = OpenCVEstimator(threshold=0.5)
    found = strict.estimate(points, noisy, photo0.size)
    assert isinstance(found, HomographyEstimate)
    for estimator, threshold in ((strict, 0.5), (Bare(strict), 3.0)):
        better = align_homography(photo0, view, points, points, noisy, found, estimator, 3.0)
        assert better is not found
        errors = np.linalg.norm(warp_points(better.matrix, points) - noisy, axis=1)
        np.testing.assert_array_equal(better.inliers, errors <= threshold)
        assert (errors > 0.5).any()

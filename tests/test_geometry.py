import numpy as np
import pytest
from numpy.typing import NDArray

from geomatch.geometry import (
    corner_error,
    image_corners,
    normalize_homography,
    resize_homography,
    resize_points,
    warp_points,
)
from geomatch.synthetic import Motion, random_homography

SIZE = (640, 480)


@pytest.fixture(params=range(6))
def matrix(request: pytest.FixtureRequest) -> NDArray[np.float64]:
    motion: Motion = "upright" if request.param % 2 else "rotated"
    return random_homography(np.random.default_rng(request.param), SIZE, motion)


def test_inverse_composition_and_scale(matrix: NDArray[np.float64], rng: np.random.Generator) -> None:
    points, other = rng.uniform(0, 480, (50, 2)), random_homography(rng, SIZE)
    moved = warp_points(matrix, points)
    np.testing.assert_allclose(warp_points(np.linalg.inv(matrix), moved), points, atol=1e-8)
    np.testing.assert_allclose(warp_points(other @ matrix, points), warp_points(other, moved), atol=1e-8)
    np.testing.assert_allclose(warp_points(-3.5 * matrix, points), moved, atol=1e-8)


def test_corners_are_pixel_centres_and_the_error_of_a_translation_is_its_length() -> None:
    assert image_corners((4, 3)).tolist() == [[0, 0], [3, 0], [3, 2], [0, 2]]
    moved = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1]], dtype=float)
    assert corner_error(moved, np.eye(3), SIZE) == pytest.approx(5.0)
    assert corner_error(moved, moved, SIZE) == 0


def test_resizing_there_and_back_and_as_a_matrix(rng: np.random.Generator) -> None:
    points = rng.uniform(0, 480, (50, 2)).astype(np.float32)
    there = resize_points(points, SIZE, (320, 160))
    np.testing.assert_allclose(resize_points(there, (320, 160), SIZE), points, atol=1e-3)
    np.testing.assert_allclose(warp_points(resize_homography(SIZE, (320, 160)), points), there, atol=1e-4)
    # the outer edge of the first pixel stays the outer edge
    assert resize_points(np.array([[-0.5, -0.5]]), SIZE, (77, 31)).tolist() == [[-0.5, -0.5]]


def test_matrices_without_a_scale_are_refused_and_points_at_infinity_are_infinite() -> None:
    assert normalize_homography(np.diag([2.0, 2.0, 2.0])) is not None
    assert normalize_homography(np.diag([1.0, 1.0, 0.0])) is None
    assert normalize_homography(np.full((3, 3), np.nan)) is None
    assert normalize_homography(np.zeros((3, 3))) is None
    horizon = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=float)
    assert np.isinf(warp_points(horizon, [[-1.0, 5.0]])).all()

"""Measures of the HPatches protocols against computations of another kind."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from geomatch.benchmarks.harness.measures import accuracy, area_under_curve
from geomatch.benchmarks.tasks.homography import evaluation as measures
from geomatch.geometry import warp_points


def exact_auc(errors: list[float], threshold: int) -> Fraction:
    """The definition in rational numbers, one trapezoid after another."""
    points = [(Fraction(0), Fraction(0))]
    for index, error in enumerate(sorted(errors)):
        if error < threshold:
            points.append((Fraction(error), Fraction(index + 1, len(errors))))
    points.append((Fraction(threshold), points[-1][1]))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        area += (x1 - x0) * (y0 + y1) / 2
    return area / threshold


INF = float("inf")


@pytest.mark.parametrize(
    "errors",
    [[], [0.0], [0.0, 0.0, 0.0], [INF], [INF, INF], [1.0, 1.0, 1.0], [3.0], [3.0, 3.0, 0.5], [0.0, INF],
     [2.5, 0.25, 7.0, INF, 4.75, 0.25, 0.0], [10.0, 5.0, 3.0, 1.0]],
)  # fmt: skip
def test_auc_is_its_definition(errors: list[float]) -> None:
    for t in (1, 3, 5, 10):
        assert area_under_curve(errors, t) == pytest.approx(float(exact_auc(errors, t)), abs=1e-15)
        assert accuracy(errors, t) == (sum(e <= t for e in errors) / len(errors) if errors else 0)


def test_auc_laws(rng: np.random.Generator) -> None:
    errors = rng.exponential(3, 200)
    assert area_under_curve(errors * 2, 10) == pytest.approx(area_under_curve(errors, 5))
    assert area_under_curve(np.r_[errors, np.full(200, INF)], 5) == pytest.approx(
        area_under_curve(errors, 5) / 2
    )
    # in the limit of many pairs the mean of max(0, 1 - e/t), here for errors uniform in [0, 4]
    assert area_under_curve(np.linspace(0, 4, 100_001), 3) == pytest.approx(3 / 8, abs=1e-4)


def test_matches_at_known_distances() -> None:
    truth = np.array([[2.0, 0, 1], [0, 2, -1], [0, 0, 1]])
    points0 = np.array([[0.0, 0], [10, 5], [3, 3], [1, 1]])
    points1 = warp_points(truth, points0) + np.array([[0, 0], [3, 4], [0, 1], [12, 5]])
    distances = measures.match_distances(points0, points1, truth)
    assert distances.tolist() == [0, 5, 1, 13]
    assert [accuracy(distances, t) for t in (0.5, 1, 4.9, 5, 13)] == [0.25, 0.5, 0.5, 0.75, 1]


def test_visible_is_the_closed_frame_of_pixel_centres() -> None:
    shift = np.array([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]])
    points = np.array([[-5.0, 0], [-5.1, 0], [4, 9], [4.1, 9], [0, 9.1], [0, 0]])
    assert measures.visible(points, shift, (10, 10)).tolist() == [True, False, True, False, False, True]


def test_repeatability_by_hand() -> None:
    truth = np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    points0 = np.array([[0.0, 0], [50, 50], [90, 10]])
    points1 = np.array([[100.0, 2], [150, 54]])
    # one of three comes back at 2 px, and one of two
    assert measures.repeatability(points0, points1, truth, 3) == (2 / 5, 2.0)
    assert measures.repeatability(points0, points1, truth, threshold=4) == (4 / 5, 3.0)
    back = measures.repeatability(points1, points0, np.linalg.inv(truth), threshold=4)
    assert back == pytest.approx((4 / 5, 3.0))
    none = np.zeros((0, 2))
    assert measures.repeatability(none, none, truth, 3) == (None, None)
    assert measures.repeatability(points0, none, truth, 3) == (0.0, None)


def test_average_precision() -> None:
    assert measures.average_precision([0.9, 0.8], [True, True]) == 1
    assert measures.average_precision([], []) == measures.average_precision([1, 2], [False, False]) == 0
    # equal scores are one threshold: precision 1/2 at full recall, in either order
    assert (
        measures.average_precision([1, 1], [True, False])
        == measures.average_precision([1, 1], [False, True])
        == 0.5
    )


def test_precision_is_that_of_every_threshold(rng: np.random.Generator) -> None:
    scores, right = rng.integers(0, 8, 60), rng.random(60) < 0.4
    expected, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        kept = scores >= threshold
        recall = right[kept].sum() / right.sum()
        expected += (recall - before) * right[kept].mean()
        before = recall
    assert measures.average_precision(scores, right) == pytest.approx(expected)

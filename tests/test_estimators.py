from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from match_sets import NO_RELATION, random_matches, true_set
from numpy.typing import NDArray

from geomatch import EstimationFailure, HomographyEstimate, ShapeError, corner_error, warp_points
from geomatch.estimators import (
    Estimator,
    Gate,
    OpenCVEstimator,
    create_estimator,
    estimate_two_view,
    estimators,
)
from geomatch.estimators.evidence import log10_nfa
from geomatch.geometry import image_corners
from geomatch.synthetic import random_homography
from geomatch.types import TwoViewGeometry

SIZE = (640, 480)
ROBUST = ["ransac", "usac_default", "usac_accurate", "usac_magsac", "usac_parallel", "kornia", "poselib"]
Kind = Callable[[np.random.Generator], tuple[NDArray[np.float64], NDArray[np.float64]]]
H = random_homography(np.random.default_rng(3), SIZE)


@pytest.fixture(params=sorted(estimators()))
def estimator(request: pytest.FixtureRequest) -> Estimator:
    return create_estimator(request.param)


@pytest.fixture(params=ROBUST)
def robust(request: pytest.FixtureRequest) -> Estimator:
    """With fewer iterations than by default where data are hopeless."""
    made = create_estimator(request.param)
    return replace(made, max_iterations=5000) if isinstance(made, OpenCVEstimator) else made


def found(estimate: HomographyEstimate | EstimationFailure) -> HomographyEstimate:
    assert isinstance(estimate, HomographyEstimate), estimate
    return estimate


def test_exact_matches_give_the_exact_homography_and_noisy_ones_the_same_every_time(
    estimator: Estimator, rng: np.random.Generator
) -> None:
    p0, p1 = random_matches(rng, H, 100, 0)
    estimate = found(estimator.estimate(p0, p1, SIZE))
    assert corner_error(estimate.matrix, H, SIZE) < 1e-2
    assert estimate.inliers.all()
    assert estimate.matrix[2, 2] == 1
    p0, p1 = random_matches(rng, H, 80, 40, noise=0.5)
    assert estimator.estimate(p0, p1, SIZE) == estimator.estimate(p0, p1, SIZE)


def test_noise_and_outliers(robust: Estimator, rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, H, 150, 150, noise=0.5)
    estimate = found(robust.estimate(p0, p1, SIZE))
    assert corner_error(estimate.matrix, H, SIZE) < 2
    # the mask is what the matrix says
    error = np.linalg.norm(warp_points(estimate.matrix, p0) - p1, axis=1)
    np.testing.assert_array_equal(estimate.inliers, error <= 3.0)


def test_order_of_matches_and_images_hardly_matters(rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, H, 150, 50, noise=0.3)
    order = rng.permutation(len(p0))
    one = found(OpenCVEstimator().estimate(p0, p1, SIZE))
    other = found(OpenCVEstimator().estimate(p0[order], p1[order], SIZE))
    assert corner_error(one.matrix, other.matrix, SIZE) < 0.3
    np.testing.assert_array_equal(one.inliers[order], other.inliers)
    swapped = found(OpenCVEstimator().estimate(p1, p0, SIZE))
    assert corner_error(np.linalg.inv(swapped.matrix), one.matrix, SIZE) < 0.5


@pytest.mark.parametrize("name", ["ransac", "usac_accurate", "poselib", "kornia"])
def test_backends_use_the_threshold(name: str) -> None:
    """Half of the matches are moved by 2.5 px: at 1 px one half decides, at 6 px both do."""
    rng = np.random.default_rng(1)
    p0 = rng.uniform(0, 480, (200, 2))
    p1 = p0.copy()
    p1[120:, 0] += 2.5

    def shift(threshold: float) -> float:
        plain = replace(create_estimator(name, threshold), gate=Gate(refits=0))  # type: ignore[type-var]
        return float(warp_points(found(plain.estimate(p0, p1, SIZE)).matrix, p0).mean(0)[0] - p0.mean(0)[0])

    assert abs(shift(1.0)) < 0.1
    assert 0.3 < shift(6.0) < 2.0


def test_degenerate_input_is_a_failure_with_a_reason(estimator: Estimator, rng: np.random.Generator) -> None:
    p0 = rng.uniform(0, 400, (50, 2))
    line = np.stack([p0[:, 0], 0.5 * p0[:, 0] + 20], axis=1)
    cases = {
        "0 matches": (np.zeros((0, 2)), np.zeros((0, 2))),
        "3 matches": (p0[:3], p0[:3]),
        "at 1 separate places": (np.ones((50, 2)), p0),
        "line": (line, line[::-1]),
        "(50 of 50 had coordinates that are not finite)": (np.full((50, 2), np.nan), p0),
        "mirrors": (p0, p0 * [-1, 1]),
    }
    for words, (a, b) in cases.items():
        estimate = estimator.estimate(a, b, SIZE)
        assert isinstance(estimate, EstimationFailure), words
        honest = Gate().run(lambda p, q: np.diag([-1.0, 1, 1]), a, b, 3.0, SIZE)
        assert isinstance(honest, EstimationFailure)
        assert words in honest.reason


def test_pure_chance_is_a_failure(robust: Estimator, rng: np.random.Generator) -> None:
    for count in (20, 50, 200) * 3:
        p0, p1 = random_matches(rng, H, 0, count)
        estimate = robust.estimate(p0, p1, SIZE)
        assert isinstance(estimate, EstimationFailure)
        assert estimate.reason


def test_rows_that_are_not_finite_are_outliers(robust: Estimator, rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, H, 60, 0)
    p0[7], p1[9] = np.nan, np.inf
    estimate = found(robust.estimate(p0, p1, SIZE))
    assert corner_error(estimate.matrix, H, SIZE) < 0.1
    assert not estimate.inliers[[7, 9]].any()
    assert estimate.num_inliers == 58


def test_gate_refuses_what_a_solver_should_not_return(rng: np.random.Generator) -> None:
    p0 = rng.uniform(0, 400, (50, 2))
    turn = np.array([[-1.0, 0, 400], [0, -1, 400], [0, 0, 1]])  # a half turn is fine, a mirror is not
    assert Gate().run(lambda a, b: turn, p0, 400 - p0, 3.0, SIZE)
    matrices = {
        "mirrors": np.diag([-1.0, 1, 1]),
        "infinity": np.array([[1, 0, 0], [0, 1, 0], [-0.002, 0, 1.0]]),
        "nearly singular": np.array([[1, 0, 0], [0, 1, 0], [0.1, 0, 1.0]]),
        "not finite": np.full((3, 3), np.nan),
        "origin": np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0.0]]),
        "agree": np.array([[1, 0, 500], [0, 1, 500], [0, 0, 1.0]]),
    }
    for words, matrix in matrices.items():
        exact = warp_points(matrix, p0) if words in ("mirrors", "infinity", "nearly singular") else p0
        estimate = Gate(max_condition=100).run(lambda a, b, m=matrix: m, p0, exact, 0.01, SIZE)
        assert isinstance(estimate, EstimationFailure)
        assert words in estimate.reason
    assert not Gate().run(lambda a, b: None, p0, p0, 3.0, SIZE)


def test_refits_bring_a_rough_matrix_to_the_least_squares_solution(rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, H, 200, 100, noise=0.7)
    rough = H.copy()
    rough[:2, 2] += [1.0, -1.0]
    plain = found(Gate(refits=0).run(lambda a, b: rough, p0, p1, 3.0, SIZE))
    refined = found(Gate().run(lambda a, b: rough, p0, p1, 3.0, SIZE))
    assert plain.matrix.tolist() == rough.tolist()
    assert corner_error(refined.matrix, H, SIZE) < 0.3 < corner_error(plain.matrix, H, SIZE)
    assert refined.num_inliers > plain.num_inliers


def test_number_of_false_alarms() -> None:
    # by hand: n=10, k=6, p=0.01: 6 * C(10,6) * C(6,4) * 0.01^2 = 6 * 210 * 15 * 1e-4 = 1.89
    assert log10_nfa(10, 6, 0.01) == pytest.approx(np.log10(1.89))
    assert log10_nfa(100, 4, 0.01) == np.inf
    assert log10_nfa(200, 20, 1e-4) < log10_nfa(200, 12, 1e-4) < log10_nfa(400, 12, 1e-4)


def test_chance_large_thresholds_on_small_regions_and_unknown_sizes(rng: np.random.Generator) -> None:
    assert not OpenCVEstimator().estimate(*random_matches(rng, H, 0, 1000), SIZE)  # with all its iterations
    p0 = rng.uniform(100, 200, (60, 2))
    assert OpenCVEstimator(threshold=3).estimate(p0, p0, SIZE)
    vague = OpenCVEstimator(threshold=50).estimate(p0, p0, SIZE)  # one place, at that scale
    assert isinstance(vague, EstimationFailure)
    assert "3 separate places" in vague.reason
    assert OpenCVEstimator().estimate(*random_matches(rng, H, 60, 0))  # the points bound the image


@pytest.mark.parametrize("name", ["usac_magsac", "poselib"])
@pytest.mark.parametrize("kind", NO_RELATION, ids=lambda kind: kind.__name__)
def test_sets_that_determine_nothing_are_refused(kind: Kind, name: str) -> None:
    estimator = create_estimator(name)
    for seed in range(8):
        estimate = estimator.estimate(*kind(np.random.default_rng(seed)), SIZE)
        assert isinstance(estimate, EstimationFailure), seed
        assert "matches" in estimate.reason.split(", but")[0]  # what a person wants to know comes first


def test_one_match_beside_a_line_is_no_evidence(rng: np.random.Generator) -> None:
    p0 = np.column_stack([np.linspace(50, 600, 20), np.linspace(100, 300, 20)])
    p0, p1 = np.vstack([p0, [[500, 50]]]), np.vstack([warp_points(H, p0), [[100, 400]]])
    estimate = OpenCVEstimator().estimate(p0, p1, SIZE)
    assert isinstance(estimate, EstimationFailure)
    assert " of 21 matches agree, but " in estimate.reason


def test_true_sets_are_found_and_their_corners_are_as_uncertain_as_stated() -> None:
    ratios = []
    for seed in range(60):
        p0, p1, truth = true_set(np.random.default_rng(seed))
        estimate = found(OpenCVEstimator().estimate(p0, p1, SIZE))
        corners = image_corners(SIZE)
        errors = np.linalg.norm(warp_points(estimate.matrix, corners) - warp_points(truth, corners), axis=1)
        assert estimate.corner_deviations is not None
        ratios.append(errors / estimate.corner_deviations)
    assert 0.75 < np.sqrt(np.mean(np.square(ratios))) < 1.25
    assert np.max(ratios) < 5


def test_corners_far_from_the_inliers_are_uncertain_and_a_corner_too_far_is_no_answer() -> None:
    rng = np.random.default_rng(0)

    def estimate(side: float) -> HomographyEstimate | EstimationFailure:
        p0 = rng.uniform(20, 20 + side, (80, 2))
        return OpenCVEstimator().estimate(p0, warp_points(H, p0) + rng.normal(0, 0.4, p0.shape), SIZE)

    some = found(estimate(150))
    assert some.corner_deviations is not None
    assert some.corner_deviations[2] > 5 > 1 > some.corner_deviations[0]
    assert "a corner of image 0 is uncertain by" in some.remarks[0]
    none = estimate(50)
    assert isinstance(none, EstimationFailure)
    assert "a corner of image 0 would be uncertain by" in none.reason


def test_few_exact_matches_are_enough_and_few_rough_ones_are_not(rng: np.random.Generator) -> None:
    """A button in a screenshot: the image is small, its keypoints are few and their places exact."""
    move = np.array([[1.0, 0, 300], [0, 1, 200], [0, 0, 1]])
    for inliers in (6, 7):
        p0, p1 = random_matches(rng, move, inliers, 3, 0.0, (120, 40))
        p1[np.linalg.norm(warp_points(move, p0) - p1, axis=1) > 1] = rng.uniform(0, 600, (3, 2))
        estimate = found(OpenCVEstimator().estimate(p0, p1, (120, 40)))
        assert corner_error(estimate.matrix, move, (120, 40)) < 0.1
    for _ in range(20):
        p0, p1 = random_matches(rng, move, 4, 26, 1.0)
        assert not OpenCVEstimator().estimate(p0, p1, SIZE)


def test_a_facade_moved_by_one_window_is_called_ambiguous(rng: np.random.Generator) -> None:
    p0 = rng.uniform(50, 430, (120, 2))
    p1 = p0 + np.array([10.0, 5.0])
    p1[:50, 0] += 60
    assert "ambiguous: beside 70 inliers, 4" in found(OpenCVEstimator().estimate(p0, p1)).remarks[0]
    other = p0.copy()
    other[:50] = rng.uniform(0, 480, (50, 2))
    assert found(OpenCVEstimator().estimate(p0, other)).remarks == ()


def test_the_strip_of_a_watermark_never_wins(robust: Estimator, rng: np.random.Generator) -> None:
    strip = rng.uniform([0, 440], [640, 480], (200, 2))
    scene, moved = random_matches(rng, H, 60, 60, 0.5)
    p0, p1 = np.vstack([strip, scene]), np.vstack([strip, moved])
    estimate = found(robust.estimate(p0, p1, SIZE))
    assert corner_error(estimate.matrix, H, SIZE) < 3
    assert estimate.watermark is not None
    assert estimate.watermark[:200].all()
    assert "set aside as a caption or watermark" in estimate.remarks[-1]
    view = estimate_two_view(p0, p1, SIZE, SIZE)
    assert isinstance(view, TwoViewGeometry)
    assert view.watermark is not None
    assert not view.inliers[:200].any()

    p1[200:] = rng.uniform(0, 480, (120, 2))  # two scenes
    estimate = robust.estimate(p0, p1, SIZE)
    assert isinstance(estimate, EstimationFailure)
    assert estimate.watermark
    assert "200 of 320 matches do not move and lie in a small part of the image" in estimate.reason
    failure = estimate_two_view(p0, p1, SIZE, SIZE)
    assert isinstance(failure, EstimationFailure)
    assert failure.watermark

    tripod = rng.uniform(0, 480, (200, 2))  # nothing moves, but everywhere
    estimate = found(robust.estimate(np.vstack([tripod, scene]), np.vstack([tripod, p1[200:]]), SIZE))
    assert corner_error(estimate.matrix, np.eye(3), SIZE) < 0.1
    assert estimate.watermark is None


def test_units_do_not_matter(robust: Estimator, rng: np.random.Generator) -> None:
    """Pixels to metres, metres to pixels, normalised coordinates: the same matches agree."""
    p0, p1 = random_matches(rng, H, 80, 60, 0.5)
    inliers = found(robust.estimate(p0, p1)).inliers
    for zoom0, zoom1 in ((1 / 640, 1 / 640), (1, 0.001), (0.001, 1), (50, 70)):
        scaled = replace(robust, threshold=3.0 * zoom1)  # type: ignore[type-var]
        again = found(scaled.estimate(p0 * zoom0, p1 * zoom1))
        assert (again.inliers != inliers).sum() <= 2


def test_wrong_options_are_refused() -> None:
    for name, value in (("max_iterations", 0), ("confidence", 1.5), ("threshold", 0), ("method", "magic")):
        with pytest.raises(ValueError, match=name):
            OpenCVEstimator(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown estimator 'magic'; choose one of: kornia"):
        create_estimator("magic")
    with pytest.raises(ShapeError):
        OpenCVEstimator().estimate(np.zeros((9, 2)), np.zeros((8, 2)))


def test_points_off_a_plane_are_told_by_the_calibration(rng: np.random.Generator) -> None:
    """As COLMAP does: a planar pair with known cameras keeps what agrees with its essential matrix."""
    camera = np.array([[800.0, 0, 320], [0, 800.0, 240], [0, 0, 1]])
    flat = np.column_stack([rng.uniform(-1, 1, (170, 2)), np.full(170, 4.0)])
    proud = np.column_stack([rng.uniform(-0.7, 0.7, (20, 2)), rng.uniform(2.5, 3.5, 20)])
    world = np.concatenate([flat, proud])
    angle = 0.1
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    views = []
    for points in (world, world @ turn.T + np.array([-0.5, 0.1, 0.2])):
        pixels = points @ camera.T
        views.append(pixels[:, :2] / pixels[:, 2:] + rng.normal(0, 0.2, (190, 2)))
    plain = estimate_two_view(views[0], views[1], SIZE, SIZE)
    known = estimate_two_view(views[0], views[1], SIZE, SIZE, camera, camera)
    assert isinstance(plain, TwoViewGeometry)
    assert isinstance(known, TwoViewGeometry)
    assert plain.config == known.config == "planar"
    assert plain.inliers[:170].all()
    assert not plain.inliers[170:].any()
    assert known.inliers.all()

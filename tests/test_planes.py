"""Plane models simpler than a homography, the choice among them."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.transform
from match_sets import cluster_and_stray, line_and_outliers, plane_truth, random_matches, two_lines
from numpy.typing import NDArray

from geomatch import EstimationFailure, HomographyEstimate, corner_error, warp_points
from geomatch.alignment import align_parts, prepare_part
from geomatch.estimators import Gate, OpenCVEstimator, create_estimator
from geomatch.estimators.planes import PLANES
from geomatch.estimators.score import aligned
from geomatch.geometry import image_corners
from geomatch.images import Image
from geomatch.synthetic import random_homography

Array = NDArray[np.float64]
SIZE = (640, 480)
MODELS = list(PLANES)
SIMPLER = MODELS[1:]
LATTICE = np.stack(np.meshgrid(np.linspace(30, 610, 12), np.linspace(30, 450, 12)), -1).reshape(-1, 2)


def found(estimate: HomographyEstimate | EstimationFailure) -> HomographyEstimate:
    assert isinstance(estimate, HomographyEstimate), estimate
    return estimate


@pytest.mark.parametrize("model", MODELS)
def test_exact_matches_give_the_model_and_its_parameters(model: str, rng: np.random.Generator) -> None:
    truth = plane_truth(rng, model)
    p0, p1 = random_matches(rng, truth, 80, 60)
    for method in ("usac_magsac", "lmeds", "rho"):
        estimator = OpenCVEstimator(method, model=model)
        if method != "lmeds":
            estimate = found(estimator.estimate(p0, p1, SIZE))
            assert estimate.model == model
            np.testing.assert_allclose(estimate.matrix, truth, atol=1e-6 * 480)
            assert estimate.num_inliers >= 80
        assert estimator.estimate(p0, p1, SIZE) == estimator.estimate(p0, p1, SIZE)
    if model == "homography":
        assert list(estimate.parameters) == ["h00", "h01", "h02", "h10", "h11", "h12", "h20", "h21"]
        return
    kinds = {"similarity": "SimilarityTransform", "euclidean": "EuclideanTransform"}
    theirs = getattr(skimage.transform, kinds.get(model, "AffineTransform"))(truth)
    parameters = estimate.parameters
    assert (parameters["x"], parameters["y"]) == pytest.approx(theirs.translation, abs=1e-3)
    if model != "translation":
        assert parameters["rotation"] == pytest.approx(np.degrees(theirs.rotation), abs=1e-4)
    if model == "similarity":
        assert parameters["scale"] == pytest.approx(theirs.scale)
    if model == "affine":
        assert (parameters["scale_x"], parameters["scale_y"]) == pytest.approx(theirs.scale)
        assert np.tan(np.radians(parameters["shear"])) == pytest.approx(np.tan(theirs.shear), abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_errors_are_as_large_as_stated(model: str) -> None:
    """Of the parameters, of the corners, and of the corners by way of the matrix's covariance."""
    ratios, corners = [], image_corners(SIZE)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = plane_truth(rng, model)
        p0, p1 = random_matches(rng, truth, 60, 20, noise=0.5)
        estimate = found(OpenCVEstimator(model=model).estimate(p0, p1, SIZE))
        exact = replace(estimate, matrix=truth).parameters
        for name, deviation in estimate.parameter_deviations.items():
            ratios.append((estimate.parameters[name] - exact[name]) / deviation)
        assert estimate.corner_deviations is not None
        assert estimate.covariance is not None
        u, v = warp_points(estimate.matrix, corners).T
        x, y, one, zero = *corners.T, np.ones(4), np.zeros(4)
        depth = corners @ estimate.matrix[2, :2] + 1
        rows = [[x, y, one, zero, zero, zero, -u * x, -u * y], [zero, zero, zero, x, y, one, -v * x, -v * y]]
        jacobian = np.moveaxis(np.array(rows) / depth, 2, 0)
        variances = ((jacobian @ estimate.covariance) * jacobian).sum(axis=(1, 2))
        np.testing.assert_allclose(np.sqrt(variances), estimate.corner_deviations, rtol=1e-5)
    assert 0.75 < np.sqrt(np.mean(np.square(ratios))) < 1.25


def test_least_squares_is_that_of_scikit_image(rng: np.random.Generator) -> None:
    p0 = rng.uniform(0, 400, (30, 2))
    for name in ("affine", "similarity", "euclidean"):
        p1 = warp_points(plane_truth(rng, name), p0) + rng.normal(0, 1, p0.shape)
        theirs = getattr(skimage.transform, f"{name.title()}Transform").from_estimate(p0, p1).params
        ours = PLANES[name].fit(p0, p1)
        assert ours is not None
        if name == "affine":  # theirs is of algebraic distances
            squares = [((warp_points(h, p0) - p1) ** 2).sum() for h in (ours, theirs)]
            assert 0.999 * squares[1] < squares[0] <= squares[1]
        else:
            np.testing.assert_allclose(ours, theirs, atol=1e-8)
    line = np.column_stack([p0[:, 0], 2 * p0[:, 0]])
    assert PLANES["affine"].fit(line, p0) is None
    for name in ("similarity", "euclidean"):
        assert PLANES[name].fit(np.ones((9, 2)), p0[:9]) is None


def test_the_gate_projects_to_the_model_and_names_it(rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, plane_truth(rng, "euclidean"), 60, 0, noise=0.5)
    rough = np.eye(3)
    rough[:2] = np.linalg.lstsq(np.column_stack([p0, np.ones(60)]), p1, rcond=None)[0].T
    matrix = found(Gate().run(lambda a, b: rough, p0, p1, 3.0, SIZE, PLANES["euclidean"])).matrix
    np.testing.assert_allclose(matrix[:2, :2] @ matrix[:2, :2].T, np.eye(2), atol=1e-12)
    none = Gate().run(lambda a, b: None, p0, p1, 3.0, SIZE, PLANES["affine"])
    assert isinstance(none, EstimationFailure)
    assert none.reason == "the solver found no affine map among 60 matches"
    apart = create_estimator("ransac", model="translation").estimate(p0, rng.uniform(0, 480, p0.shape), SIZE)
    assert isinstance(apart, EstimationFailure)
    assert "translation" in apart.reason


@pytest.mark.parametrize("model", [*SIMPLER, "auto"])
def test_a_line_or_one_small_part_tells_nothing_of_the_model(model: str) -> None:
    estimator = OpenCVEstimator(model=model, max_iterations=2000)
    for kind in (line_and_outliers, cluster_and_stray, two_lines):
        for seed in range(15):
            assert not estimator.estimate(*kind(np.random.default_rng(seed)), SIZE), (kind, seed)
    strip = np.random.default_rng(0).uniform([0, 0], [60, 480], (80, 2))  # two tiles of a mosaic overlap
    moved = found(estimator.estimate(strip, strip + np.array([580, 3]), SIZE))
    np.testing.assert_allclose(moved.matrix[:2, 2], [580, 3], atol=1e-6)


def test_a_translation_is_found_among_ten_thousand(rng: np.random.Generator) -> None:
    p0, p1 = random_matches(rng, plane_truth(rng, "translation"), 1000, 9000, noise=0.7)
    estimate = found(OpenCVEstimator(model="translation").estimate(p0, p1, SIZE))
    assert estimate.num_inliers >= 990
    assert estimate.parameter_deviations["x"] < 0.1


@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_the_simplest_model_that_will_do(model: str) -> None:
    right = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        count, wrong = int(rng.integers(40, 300)), rng.uniform(0, 0.6)
        p0, p1 = random_matches(
            rng, plane_truth(rng, model), int(count * (1 - wrong)), int(count * wrong), rng.uniform(0.3, 1)
        )
        right += found(OpenCVEstimator(model="auto").estimate(p0, p1, SIZE)).model == model
    assert right >= 18


def test_auto_takes_what_is_determined_and_what_makes_no_difference(rng: np.random.Generator) -> None:
    part = rng.uniform([250, 180], [300, 230], (20, 2))  # not enough for a homography
    p1 = warp_points(plane_truth(rng, "similarity"), part) + rng.normal(0, 0.4, part.shape)
    assert not OpenCVEstimator().estimate(part, p1, SIZE)
    simple = found(OpenCVEstimator(model="auto").estimate(part, p1, SIZE))
    assert simple.model == "similarity"
    assert simple.note == ""  # an affine map tells that it holds
    p1 = warp_points(plane_truth(rng, "affine"), part) + rng.normal(0, 0.4, part.shape)
    untested = found(OpenCVEstimator(model="auto").estimate(part, p1, SIZE))
    alone = found(OpenCVEstimator(model="affine").estimate(part, p1, SIZE))
    assert alone.score is not None
    assert (untested.model, untested.score) == ("affine", alone.score / 2)
    assert "nothing tells whether the affine model holds" in untested.remarks[-1]
    many = rng.uniform(0, 1, (4000, 2)) * SIZE
    tiny = np.array([[1.0002, 0, 5], [0, 1.0002, 7], [0, 0, 1]])  # 0.1 px at the corners
    exact = warp_points(tiny, many)
    assert found(OpenCVEstimator(model="auto").estimate(many, exact, SIZE)).model == "translation"
    horizon = np.array([[1, 0, 0], [0, 1, 0], [0, -0.003, 1]])  # ground up to it: no affine map of a part
    ground = rng.uniform(0, 1, (300, 2)) * (640, 200)
    p1 = warp_points(horizon, ground) + rng.normal(0, 0.3, ground.shape)
    assert OpenCVEstimator(model="affine").estimate(ground, p1, SIZE)
    above = OpenCVEstimator(model="auto").estimate(ground, p1, SIZE)
    assert isinstance(above, EstimationFailure)
    assert "through infinity" in above.reason
    none = OpenCVEstimator(model="auto").estimate(many[:50], many[50:100], SIZE)
    assert isinstance(none, EstimationFailure)
    assert "homography" in none.reason


def test_wrong_models_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown model 'rigid'; choose from: homography, affine"):
        create_estimator("ransac", model="rigid")
    with pytest.raises(ValueError, match=r"kornia has homographies only, not the model 'affine'; .*usac_mag"):
        create_estimator("kornia", model="affine")


def test_alignment_keeps_the_model(photo0: Image) -> None:
    auto = OpenCVEstimator(model="auto")
    rng = np.random.default_rng(0)
    p0 = rng.uniform(20, 200, (60, 2))
    start = found(auto.estimate(p0, p0 + rng.normal(0, 0.5, p0.shape), photo0.size))
    assert start.model == "translation"
    again = align_parts([(prepare_part(photo0, photo0), p0)], photo0.size, p0, p0, start, auto, 3.0)
    assert again.model == "translation"
    np.testing.assert_allclose(again.matrix, np.eye(3), atol=0.02)


def test_scores_can_be_taken_by_their_word() -> None:
    """On made sets of which some are wrong or uncertain: the mean score is the share that is right."""
    rows = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        truth = random_homography(rng, SIZE, "rotated")
        p0 = rng.uniform(0, 1, (int(rng.integers(8, 60)), 2)) * rng.uniform(0.15, 0.7) * SIZE
        p1 = warp_points(truth, p0) + rng.normal(0, 1, p0.shape)
        wrong = rng.uniform(0, 1, (2, 40, 2)) * SIZE
        estimate = OpenCVEstimator(gate=Gate(max_log10_nfa=2, max_deviation=0.5, max_leaning=9)).estimate(
            np.vstack([p0, wrong[0]]), np.vstack([p1, wrong[1]]), SIZE
        )
        if estimate:
            diagonal = np.hypot(*np.ptp(warp_points(truth, image_corners(SIZE)), axis=0))
            assert estimate.score is not None
            rows.append((estimate.score, corner_error(estimate.matrix, truth, SIZE) <= 0.01 * diagonal))
    scores, right = np.array(rows).T
    assert len(rows) > 80
    assert 0.2 < right.mean() < 0.8
    assert abs(scores.mean() - right.mean()) < 0.1
    assert np.mean((scores - right) ** 2) < 0.6 * right.mean() * (1 - right.mean())


def test_scores_fall_where_matches_say_less(rng: np.random.Generator, photo0: Image) -> None:
    p0, p1 = random_matches(rng, np.eye(3), 100, 100, noise=0.5)
    whole = found(OpenCVEstimator().estimate(p0, p1, SIZE))
    part = (p0 < 170).all(axis=1)
    less = found(OpenCVEstimator().estimate(p0[part], p1[part], SIZE))
    assert whole.score is not None
    assert less.score is not None
    assert 0 < less.score < 0.5 < 0.95 < whole.score < 1
    assert any(remark.startswith("doubtful: ") for remark in less.remarks)
    assert OpenCVEstimator().estimate(p0[:3], p1[:3], SIZE).score == 0
    assert less.score < aligned(less.score) < aligned(whole.score) < 1
    points = rng.uniform(20, 200, (60, 2))
    start = found(OpenCVEstimator().estimate(points, points + rng.normal(0, 1, points.shape), photo0.size))
    assert start.score is not None
    fine = align_parts(
        [(prepare_part(photo0, photo0), points)], photo0.size, points, points, start, OpenCVEstimator(), 3.0
    )
    assert fine.score == aligned(start.score)

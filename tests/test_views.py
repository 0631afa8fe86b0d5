"""Tilted views on demand: rendering, frames, the ratio of places, one-match hypotheses, and the search."""

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

import geomatch
from geomatch.demo import bundled_pair
from geomatch.describers import create_describer
from geomatch.geometry import corner_error, warp_points
from geomatch.images import Image, load_image, reduce_image
from geomatch.keypoints import GridDetector, OpenCVDetector, create_detector
from geomatch.synthetic import render_view
from geomatch.tensors import FeatureTensors
from geomatch.types import EstimationFailure, Features, Matches
from geomatch.views.features import FramedFeatures, features_of, framed, joined, view_features
from geomatch.views.matching import learned_pairs, nearest_elsewhere
from geomatch.views.search import APART, STAGES, is_weak, seen_together, separate, stages_of
from geomatch.views.simulation import View, render_tilted, tilted_views
from geomatch.views.solver import solve_by_frames

SIDE = 400


@pytest.fixture(scope="module")
def tilted() -> tuple[Image, Image, np.ndarray]:
    """A photograph, the same seen under a tilt of five and turned, and the homography between them."""
    photo = reduce_image(load_image(bundled_pair().image0), SIDE)
    width, height = photo.size
    angle, tilt = 0.5, 5.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    view = np.eye(3)
    view[:2, :2] = np.diag([1.4 / tilt, 1.4]) @ turn
    view[2, 0] = 0.15 / width
    to, back = np.eye(3), np.eye(3)
    to[:2, 2], back[:2, 2] = -np.array([width, height]) / 2, (90, 260)
    matrix = back @ view @ to
    return photo, Image(render_view(photo.pixels, matrix, (180, 520), 3), "tilted"), matrix / matrix[2, 2]


@pytest.mark.parametrize("view", [View(1.0, 0.0), View(2.0, 0.0), View(3.0, 1.1), View(1.0, 2.0)])
def test_the_matrix_of_a_view_leads_to_its_pixels(view: View) -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(pixels, (100, 45), 9, (255, 255, 255), -1, cv2.LINE_AA)
    picture, matrix = render_tilted(Image(pixels, "spot"), view)
    ys, xs = np.indices(picture.pixels.shape[:2])
    weight = picture.pixels[..., 0].astype(float)
    centre = [(weight * xs).sum() / weight.sum(), (weight * ys).sum() / weight.sum()]
    assert np.allclose(warp_points(matrix, [[100, 45]])[0], centre, atol=0.1)
    # the area shrinks as often as the tilt says, light stays
    assert np.linalg.det(matrix[:2, :2]) == pytest.approx(1 / view.tilt, rel=0.02)
    assert weight.sum() == pytest.approx(pixels[..., 0].sum() / view.tilt, rel=0.03)


def test_a_tilt_has_more_directions_the_larger_it_is() -> None:
    assert [len(tilted_views(tilt)) for tilt in (1.0, 2.0, 4.0, 6.0)] == [1, 6, 12, 18]
    assert len(tilted_views(2.0, upright=True)) == 12
    assert len(tilted_views(1.0, upright=True)) == 6


def _tensors() -> FeatureTensors:
    return FeatureTensors(
        torch.tensor([[10.0, 20.0]]), torch.ones(1), (64, 64), torch.tensor([4.0]), torch.tensor([0.3]),
        torch.ones(1, 8),
    )  # fmt: skip


def test_frames_are_those_of_the_keypoints_in_the_image() -> None:
    matrix = np.array([[0.5, 0.2, 3.0], [-0.1, 1.0, 7.0], [0.0, 0.0, 1.0]])
    found = _tensors()
    one = framed(found, np.eye(3))
    x, y = one.frames[0].T
    assert np.allclose(x, [4 * np.cos(0.3), 4 * np.sin(0.3)], atol=1e-6)
    assert np.allclose(y, [-4 * np.sin(0.3), 4 * np.cos(0.3)], atol=1e-6)
    seen = framed(found, matrix)
    assert np.allclose(warp_points(matrix, seen.points), [[10, 20]])
    assert np.allclose(matrix[:2, :2] @ seen.frames[0], one.frames[0])
    features = one.to_features((64, 64))
    assert features.scales == pytest.approx([4.0])
    assert features.orientations == pytest.approx([0.3])


def _framed(points: np.ndarray, rows: np.ndarray) -> FramedFeatures:
    frames = np.broadcast_to(np.eye(2), (len(points), 2, 2))
    return FramedFeatures(points, frames, np.ones(len(points), np.float32), torch.tensor(rows))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_second_view_of_one_place_is_no_rival(metric: geomatch.types.Metric) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = rng.uniform(0, 500, (6, 2))
    asked = _framed(points, rows + rng.normal(size=rows.shape).astype(np.float32) * 0.01)
    again = rows + np.float32(1e-3)  # each row is there twice: at one place, or at two
    near = _framed(np.concatenate([points, points + 1]), np.concatenate([rows, again]))
    found = nearest_elsewhere([asked], [near], metric)
    assert sorted((found.indices % 6).tolist()) == [[i, i] for i in range(6)]
    assert (found.similarity > 0.9).all()
    apart = [_framed(points, rows), _framed(points + 50, again)]  # two views
    assert not len(nearest_elsewhere([asked], apart, metric))


def _frames_under(matrix: np.ndarray, points: np.ndarray, frames: np.ndarray) -> np.ndarray:
    x, y = (warp_points(matrix, points + frames[:, :, k] * 0.01) for k in (0, 1))
    return (np.stack([x, y], axis=2) - warp_points(matrix, points)[:, :, None]) / 0.01


def test_one_match_in_fifty_is_enough_for_the_solver() -> None:
    rng = np.random.default_rng(1)
    matrix = np.array([[0.3, -0.1, 90.0], [0.2, 1.1, -20.0], [4e-4, -2e-4, 1.0]])
    points = rng.uniform(0, 600, (1000, 2))
    frames = rng.normal(size=(1000, 2, 2)) + 4 * np.eye(2)
    there, under = rng.uniform(0, 600, (1000, 2)), rng.normal(size=(1000, 2, 2)) + 4 * np.eye(2)
    there[:20] = warp_points(matrix, points[:20]) + rng.normal(size=(20, 2)) * 0.3
    under[:20] = _frames_under(matrix, points[:20], frames[:20]) * rng.normal(1, 0.05, (20, 1, 1))
    found = solve_by_frames(points, there, frames, under, 3.0)
    assert found is not None
    assert np.linalg.norm(warp_points(found, points[:20]) - there[:20], axis=1).max() < 1.5
    assert solve_by_frames(points[:3], there[:3], frames[:3], under[:3], 3.0) is None


def test_of_matches_of_one_place_the_first_counts() -> None:
    first = np.array([[0.0, 0.0], [0.5, 0.0], [50.0, 0.0], [90.0, 0.0]])
    second = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 1.0], [60.0, 0.0]])
    assert separate(first, second).tolist() == [0, 3]


def test_keypoints_of_views_do_not_see_beyond_the_border(tilted: tuple[Image, Image, np.ndarray]) -> None:
    describer = create_describer("dift-tiny")
    white = Image(np.full_like(tilted[0].pixels, 90), "flat")
    found = view_features(white, tilted_views(4.0), 500, OpenCVDetector("sift-faint"), describer)
    assert not found  # the edges of what a view shows are no keypoints


def test_a_plane_seen_under_a_tilt_of_five_is_found_in_views(tilted: tuple[Image, Image, np.ndarray]) -> None:
    photo, other, matrix = tilted
    match = partial(geomatch.match, photo.pixels, other.pixels, detector="sift", max_keypoints=500)
    plain, searched = match(effort="fast"), match()
    assert not plain.geometry
    assert plain.settings["tilts"] == []
    assert "search_views" not in plain.seconds
    assert searched.homography
    assert searched.settings["tilts"][0] == 2.0
    assert corner_error(searched.homography.matrix, matrix, photo.size) < 3
    for own, image in ((searched.features0, photo), (searched.features1, other)):
        assert (own.keypoints > -1).all()
        assert (own.keypoints < np.array(image.size)).all()
    i, j = searched.matches.indices.T
    assert len(set(i)) == len(set(j)) == len(i)
    matched = searched.features0.keypoints[i]
    apart = np.linalg.norm(matched[:, None] - searched.features0.keypoints[None], axis=2)
    assert np.partition(apart, 1, axis=1)[:, 1].min() >= APART - 1e-3  # one keypoint per place
    errors = np.linalg.norm(warp_points(matrix, searched.points0) - searched.points1, axis=1)
    assert np.median(errors[searched.homography.inliers]) < 2


def test_what_plain_matching_finds_is_not_searched_again(tilted: tuple[Image, Image, np.ndarray]) -> None:
    photo = tilted[0].pixels
    match = partial(geomatch.match, photo, photo[8:, 8:], detector="sift", max_keypoints=500)
    plain, high = match(effort="fast"), match(effort="high")
    assert high.settings["tilts"] == []
    assert high.matches == plain.matches
    assert high.homography == plain.homography
    with pytest.raises(ValueError, match="effort must be one of: fast, normal, high"):
        match(effort="most")


@dataclass(frozen=True)
class ByPosition:
    """Matches what lies at one place of its image, so that views match nothing but themselves."""

    def match(self, features0: Features, features1: Features) -> Matches:
        apart = np.linalg.norm(features0.keypoints[:, None] - features1.keypoints[None], axis=2)
        pairs = np.argwhere(apart < 0.01)
        return Matches(pairs, 1 - np.arange(len(pairs), dtype=np.float32) / 100)


def test_a_learned_matcher_sees_each_view_beside_the_other_image() -> None:
    points = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    plain = FeatureTensors(points, torch.ones(2), (64, 64), descriptors=torch.ones(2, 4))
    shift = np.array([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]])
    moved = replace(plain, keypoints=points + torch.tensor([5.0, 0.0]))
    views0, views1 = [framed(plain, np.eye(3)), framed(moved, shift)], [framed(moved, np.eye(3))]
    found = learned_pairs(ByPosition())(views0, views1)
    assert found.indices.tolist() == [[2, 0], [3, 1]]  # of the second view of image 0
    assert len(learned_pairs(ByPosition(), 0.995)(views0, views1)) == 1


def test_other_photographs_are_refused_in_views_too(tilted: tuple[Image, Image, np.ndarray]) -> None:
    noise = cv2.resize(np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8), (400, 320))
    found = geomatch.match(tilted[0].pixels, noise, detector="sift", max_keypoints=300)
    assert not found.geometry
    assert found.settings["tilts"] == [2.0, 4.0]


def test_few_inliers_or_uncertain_corners_are_weak() -> None:
    sure = geomatch.types.HomographyEstimate(np.eye(3), np.ones(30, bool), np.ones(4))
    assert not is_weak(sure)
    assert is_weak(replace(sure, corner_deviations=np.full(4, 9.0)))
    assert is_weak(replace(sure, inliers=np.arange(30) < 10))
    assert is_weak(EstimationFailure("none"))
    assert not is_weak(EstimationFailure("a plane", planar=True))
    turned = geomatch.types.RelativePose(np.eye(3), np.ones(30, bool), 0.1)
    assert not is_weak(turned)  # a camera that only turned
    assert is_weak(replace(turned, translation=np.array([1.0, 0, 0]), translation_deviation=30.0))


def test_what_takes_longer_has_a_tilt_less() -> None:
    for effort in ("fast", "normal", "high"):
        assert stages_of(effort, OpenCVDetector(), create_describer("dift-tiny"), False) == STAGES[effort]
        for slow in (("dift-tiny", True), ("dift-tiny-dense", False)):
            found = stages_of(effort, OpenCVDetector(), create_describer(slow[0]), slow[1])
            assert found == STAGES[effort][:-1]


def test_only_what_may_run_in_threads_sees_both_images_at_once() -> None:
    tiny = create_describer("dift-tiny")
    assert seen_together(create_detector("mixed"), tiny)
    assert not seen_together(OpenCVDetector(cv2.SIFT_create()), tiny)  # type: ignore[attr-defined]
    assert not seen_together(create_detector("mixed"), create_describer("dift-sd"))
    assert not seen_together(Doubtful(), Doubtful())


def test_strips_have_no_views(tilted: tuple[Image, Image, np.ndarray]) -> None:
    strip = Image(np.ascontiguousarray(tilted[0].pixels[:12]), "strip")
    assert view_features(strip, tilted_views(2.0, False), 50, OpenCVDetector(), Doubtful()) == []


def test_who_is_not_shown_views() -> None:
    sift, tiny = OpenCVDetector(), create_describer("dift-tiny")
    assert stages_of("normal", sift, tiny, False)
    assert not stages_of("fast", sift, tiny, False)
    assert not stages_of("high", GridDetector(), tiny, False)  # its points do not follow the content
    large = create_describer("dift-sd")
    assert not stages_of("normal", sift, large, False)
    assert stages_of("high", sift, large, False)


@dataclass(frozen=True)
class Doubtful:
    """An estimator without a gate, a detector whose ``in_views`` is none, and a describer."""

    in_views: None = None

    def estimate(
        self, points0: np.ndarray, points1: np.ndarray, image_size: object = None
    ) -> EstimationFailure:
        return EstimationFailure(f"not among {len(points0)}")

    def detect(self, image: Image) -> Features:
        return Features(np.full((1, 2), 20, np.float32), np.ones(1, np.float32), image.size)

    def describe(self, image: Image, features: Features) -> Features:
        return replace(features, descriptors=np.ones((len(features), 4), np.float32))


def test_your_own_estimator_judges_what_views_give(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []

    def search(images, plain, detector, describer, tentative, stages, relate):  # type: ignore[no-untyped-def]
        pools = [view_features(image, tilted_views(2.0), 9, detector, describer) for image in images]
        judged.append(relate(tentative(*pools), joined(pools[0]), joined(pools[1])))
        return None, None, None, judged[0], [2.0]

    monkeypatch.setattr("geomatch.relating.search_views", search)
    noise, own = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8), Doubtful()
    geomatch.match(noise, noise, detector=own, descriptor=own, estimator=own)
    assert judged[0].reason.startswith("not among")


def test_large_images_are_reduced_and_the_threshold_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(
        "geomatch.relating.relate_plane", lambda gate, threshold, size: given.append(threshold)
    )
    monkeypatch.setattr(
        "geomatch.relating.search_views", lambda *_: (*[None] * 3, EstimationFailure("none"), [])
    )
    own = Doubtful()
    for width in (800, 3200):
        strip = np.random.default_rng(0).integers(0, 255, (40, width, 3), np.uint8)
        geomatch.match(strip, strip, detector=own, descriptor=own, threshold=2.0)
    assert given == [2, 4]


def test_features_are_joined_with_what_all_have() -> None:
    none = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), (64, 64))
    one = framed(_tensors(), np.eye(3)).to_features((64, 64))
    assert features_of([none, one]) == one
    both = features_of([one, replace(one, scales=None)])
    assert len(both) == 2
    assert both.scales is None
    assert both.descriptors is not None

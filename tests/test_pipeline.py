"""The whole path on the bundled photographs."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import geomatch
from geomatch import EstimationFailure, Features, Image
from geomatch.drawing.result import save_result, summary
from geomatch.estimators import OpenCVEstimator
from geomatch.keypoints import GridDetector, OpenCVDetector
from geomatch.pipeline import MatchResult

PAIR = geomatch.bundled_pair()

FEW = 1000
"""Keypoints, for the sake of time."""


@pytest.fixture(scope="module")
def result() -> MatchResult:
    return geomatch.match(PAIR.image0, PAIR.image1, max_keypoints=FEW)


def error(result: MatchResult) -> float:
    assert result.homography, result.homography
    return geomatch.corner_error(result.homography.matrix, PAIR.homography, (640, 480))


def test_bundled_pair_is_registered(result: MatchResult) -> None:
    assert error(result) < 2
    assert result.homography.num_inliers > 100
    stages = ("read", "load_model", "detect", "describe", "match", "estimate", "refine_homography")
    assert set(result.seconds) == set(stages)


def test_same_input_same_result(result: MatchResult) -> None:
    again = geomatch.match(PAIR.image0, PAIR.image1, max_keypoints=FEW)
    assert again.matches == result.matches
    assert again.homography == result.homography
    assert again.features0 == result.features0


def test_arrays_and_paths_agree(result: MatchResult, photo0: Image, photo1: Image) -> None:
    assert geomatch.match(photo0.pixels, photo1.pixels, max_keypoints=FEW).homography == result.homography


def test_swapped_images_give_the_inverse(result: MatchResult) -> None:
    swapped = geomatch.match(PAIR.image1, PAIR.image0, max_keypoints=FEW)
    assert swapped.homography
    assert result.homography
    inverse = np.linalg.inv(swapped.homography.matrix)
    assert geomatch.corner_error(inverse, result.homography.matrix, (640, 480)) < 1


def test_an_image_matches_itself(photo0: Image) -> None:
    same = geomatch.match(photo0, photo0, max_keypoints=FEW)
    assert same.homography
    assert geomatch.corner_error(same.homography.matrix, np.eye(3), photo0.size) < 0.01
    assert len(same.matches) > 0.9 * len(same.features0)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_quarter_turns_are_found(turn: int, photo0: Image) -> None:
    turned = np.rot90(photo0.pixels, turn)
    found = geomatch.match(photo0, turned, max_keypoints=FEW).homography
    assert found
    points = np.array([[0.0, 0], [639, 0], [639, 479], [0, 479]])
    corners = {1: [[0, 639], [0, 0], [479, 0], [479, 639]], 2: [[639, 479], [0, 479], [0, 0], [639, 0]]}
    corners[3] = [[479, 0], [479, 639], [0, 639], [0, 0]]
    np.testing.assert_allclose(geomatch.warp_points(found.matrix, points), corners[turn], atol=0.1)


def test_mirrored_image_is_a_failure(photo0: Image) -> None:
    found = geomatch.match(photo0, photo0.pixels[:, ::-1], max_keypoints=FEW)
    assert isinstance(found.homography, EstimationFailure)


@pytest.mark.parametrize("estimator", ["ransac", "usac_accurate", "kornia", "poselib"])
def test_other_estimators(estimator: str) -> None:
    assert error(geomatch.match(PAIR.image0, PAIR.image1, estimator=estimator, max_keypoints=FEW)) < 3


def test_other_detectors_and_objects(photo0: Image, photo1: Image) -> None:
    found = geomatch.match(photo0, photo1, detector="orb", max_keypoints=2000)
    assert found.settings["detector"]["feature"] == "orb"
    assert error(found) < 5
    shifted = photo0.pixels[32:, 64:]
    grid = geomatch.match(photo0.pixels[:-32, :-64], shifted, detector=GridDetector(step=16))
    assert grid.settings["descriptor"]["config"]["sampling"] == "dense"
    assert grid.homography
    assert (
        geomatch.corner_error(
            grid.homography.matrix, np.array([[1, 0, -64], [0, 1, -32], [0, 0, 1.0]]), (576, 448)
        )
        < 2
    )
    objects = geomatch.match(
        photo0,
        photo1,
        detector=OpenCVDetector(cv2.SIFT_create(), 300),
        descriptor=Own(),
        estimator=OpenCVEstimator("ransac"),
    )
    assert objects.settings["descriptor"] == "Own"
    assert objects.settings["detector"]["feature"] == "SIFT"


def test_summary_names_what_it_can(result: MatchResult) -> None:
    settings = result.settings | {"descriptor": {"type": "Mine", "config": "x"}, "detector": "Other"}
    text = summary(replace(result, settings=settings))
    assert "Mine" in text
    assert "Other" in text


class Own:
    """A describer that users might write."""

    def describe(self, image: Image, features: Features) -> Features:
        return replace(features, descriptors=np.ones((len(features), 2)))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((1, 1, 3), 7, np.uint8), "no keypoints in image 1"),
        (np.full((480, 640, 3), 7, np.uint8), "no keypoints in image 1"),
        (np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), ""),
    ],
    ids=["one pixel", "uniform", "noise"],
)
def test_nothing_in_common_is_a_failure_with_a_reason(image: np.ndarray, words: str, photo0: Image) -> None:
    found = geomatch.match(photo0, image, max_keypoints=FEW)
    assert isinstance(found.homography, EstimationFailure)
    assert found.homography.reason
    assert words in found.homography.reason


def test_wrong_names_are_refused_before_any_work(photo0: Image) -> None:
    for options in ({"detector": "x"}, {"descriptor": "x"}, {"estimator": "x"}):
        with pytest.raises(ValueError, match=r"unknown .* 'x'; choose one of"):
            geomatch.match(photo0, photo0, **options)  # type: ignore[arg-type]


def test_result_on_disk(result: MatchResult, photo0: Image, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    names = [path.name for path in save_result(result, out)]
    assert names == ["result.json", "matches.npz", "matches.png", "overlay.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    content = json.loads((out / "result.json").read_text())
    assert result.homography
    np.testing.assert_array_equal(content["homography"], result.homography.matrix)
    assert content["reason"] is None
    assert content["num_matches"] == len(result.matches)
    assert content["num_inliers"] == result.homography.num_inliers
    assert content["settings"]["descriptor"]["config"]["model"] == "dift-tiny"
    assert content["settings"]["estimator"]["max_iterations"] == 100_000
    assert {"python", "torch", "opencv-python", "geomatch-dift"} <= content["versions"].keys()
    with np.load(out / "matches.npz") as arrays:
        np.testing.assert_array_equal(arrays["points0"], result.points0)
        np.testing.assert_array_equal(arrays["inliers"], result.homography.inliers)
    overlay = cv2.cvtColor(cv2.imread(str(out / "overlay.png")), cv2.COLOR_BGR2RGB)
    assert overlay.shape == photo0.pixels.shape

    failed = replace(result, homography=EstimationFailure("because"))
    assert len(save_result(failed, out)) == 3
    assert not (out / "overlay.png").exists()  # of the earlier success
    assert json.loads((out / "result.json").read_text())["homography"] is None
    assert "not found: because" in summary(failed)


def test_overlay_aligns_the_images(result: MatchResult, photo0: Image, photo1: Image) -> None:
    """Image 1 brought back by the homography looks like image 0, but for the light."""
    from geomatch.drawing.pairs import draw_overlay

    assert result.homography
    mixed = draw_overlay(photo0, photo1, result.homography).astype(float)
    other = 2 * mixed - photo0.pixels
    inside = (slice(150, 330), slice(200, 440))
    a, b = photo0.pixels[inside].mean(2).ravel(), other[inside].mean(2).ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.95

"""The whole path on the bundled photographs."""

import json
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import geomatch
from geomatch import EstimationFailure, Features, Image
from geomatch.dift import PRESETS, cached_extractor
from geomatch.drawing.result import save_result, summary
from geomatch.estimators import OpenCVEstimator
from geomatch.keypoints import GridDetector, OpenCVDetector, TinyDetector
from geomatch.results import MatchResult
from geomatch.types import Traits

PAIR = geomatch.bundled_pair()
FEW = 300
"""Keypoints, for the sake of time."""


@pytest.fixture(scope="module")
def result() -> MatchResult:
    return geomatch.match(PAIR.image0, PAIR.image1, max_keypoints=FEW)


def error(result: MatchResult, truth: NDArray[np.float64] = PAIR.homography) -> float:
    assert result.homography, result.homography
    return geomatch.corner_error(result.homography.matrix, truth, result.image0.size)


def shift(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_bundled_pair_is_registered_every_time_alike(
    result: MatchResult, photo0: Image, photo1: Image
) -> None:
    assert error(result) < 2
    assert result.homography.num_inliers > FEW / 10
    stages = ("read", "load_model", "detect", "describe", "match", "estimate", "refine_homography")
    assert set(result.seconds) == set(stages)
    again = geomatch.match(photo0.pixels, photo1.pixels, max_keypoints=FEW)  # arrays instead of paths
    assert again.matches == result.matches
    assert again.homography == result.homography
    assert again.features0 == result.features0


def test_swapped_images_give_the_inverse(result: MatchResult) -> None:
    swapped = geomatch.match(PAIR.image1, PAIR.image0, max_keypoints=FEW)
    assert swapped.homography
    assert error(result, np.linalg.inv(swapped.homography.matrix)) < 1


@pytest.fixture(scope="module")
def halves(photo0: Image, photo1: Image) -> list[NDArray[np.uint8]]:
    """The photographs in 320x240."""
    return [cv2.resize(one.pixels, (320, 240), interpolation=cv2.INTER_AREA) for one in (photo0, photo1)]


def test_an_image_matches_itself_and_quarter_turns(halves: list[NDArray[np.uint8]]) -> None:
    same = geomatch.match(halves[0], halves[0], max_keypoints=FEW)
    assert error(same, np.eye(3)) < 0.01
    assert len(same.matches) > 0.9 * len(same.features0)
    found = geomatch.match(halves[0], np.rot90(halves[0]), max_keypoints=FEW).homography
    assert found
    corners = geomatch.warp_points(found.matrix, [[0.0, 0], [319, 0], [319, 239], [0, 239]])
    np.testing.assert_allclose(corners, [[0, 319], [0, 0], [239, 0], [239, 319]], atol=0.1)


@pytest.mark.parametrize("other", [0, 1])
def test_mirrored_images_are_said_to_be_mirrored(halves: list[NDArray[np.uint8]], other: int) -> None:
    mirrored = geomatch.match(halves[0], halves[other][:, ::-1], max_keypoints=FEW).homography
    assert isinstance(mirrored, EstimationFailure)
    assert "one image is mirrored" in mirrored.reason


def test_refinement_is_said_and_changes_the_homography_alone(result: MatchResult) -> None:
    """The bundled pair comes out several times more exactly; keypoints and matches are the same."""
    plain = geomatch.match(PAIR.image0, PAIR.image1, refine_homography=False, max_keypoints=FEW)
    assert error(result) < 0.5 * error(plain)
    np.testing.assert_array_equal(plain.points1, result.points1)
    assert (plain.settings["refine_homography"], result.settings["refine_homography"]) == (False, True)
    assert "refine_homography" not in plain.seconds


def test_other_detectors(photo0: Image, photo1: Image) -> None:
    found = geomatch.match(photo0, photo1, detector="orb", max_keypoints=500)
    assert found.settings["detector"]["feature"] == "orb"
    assert error(found) < 5
    one, other = photo0.pixels[200:-32, 200:-64], photo0.pixels[232:, 264:]
    grid = geomatch.match(one, other, detector=GridDetector(step=16))
    assert grid.settings["descriptor"]["config"]["sampling"] == "dense"
    assert error(grid, shift(-64, -32)) < 2


def brightness(image: Image, features: Features) -> NDArray[np.float32]:
    """(N, 24) light about each keypoint."""
    blurred = cv2.GaussianBlur(image.pixels, (0, 0), 3).astype(np.float32)
    around = [(dx, dy) for dx in (-8, 0, 8) for dy in (-8, 0, 8) if dx or dy]
    places = (features.keypoints[:, None] + np.array(around)).astype(np.float32)
    seen = cv2.remap(blurred, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(seen, np.float32).reshape(len(features), -1)


class Plain:
    """The least that a user might write."""

    def describe(self, image: Image, features: Features) -> Features:
        rows = brightness(image, features)
        return replace(features, descriptors=rows - rows.mean(1, keepdims=True))


@dataclass(frozen=True)
class Whole(Plain):
    """With traits, several images at once, and its dimension."""

    traits: Traits = field(default_factory=lambda: Traits(metric="l2"))
    dimension: int = 24

    def describe_many(self, images: list[Image], features: list[Features]) -> list[Features]:
        return [self.describe(*pair) for pair in zip(images, features, strict=True)]


@pytest.mark.parametrize(("describer", "metric"), [(Plain(), "cosine"), (Whole(), "l2")])
@pytest.mark.parametrize("detector", [OpenCVDetector(cv2.SIFT_create(), 300), OpenCVDetector("gftt", 300)])
def test_a_users_describer(describer: Plain, metric: str, detector: OpenCVDetector, photo0: Image) -> None:
    """Whatever it brings, and whether the keypoints have scale and orientation or not."""
    one, other = photo0.pixels[:-4, :-9], photo0.pixels[4:, 9:]
    found = geomatch.match(one, other, detector=detector, descriptor=describer)
    assert error(found, shift(-9, -4)) < 1
    assert found.settings["matching"]["metric"] == metric
    recorded = found.settings["descriptor"]
    assert recorded == "Plain" if type(describer) is Plain else recorded["dimension"] == 24


def test_an_estimator_brings_its_threshold(result: MatchResult) -> None:
    """With refinement as without it: all inliers lie within the threshold of the object, not of the call."""
    strict = geomatch.match(
        PAIR.image0, PAIR.image1, max_keypoints=FEW, estimator=OpenCVEstimator(threshold=0.5), threshold=3.0
    )
    assert strict.homography
    places = geomatch.warp_points(strict.homography.matrix, strict.points0)
    errors = np.linalg.norm(places - strict.points1, axis=1)
    np.testing.assert_array_equal(strict.homography.inliers, errors <= 0.5)
    assert 0 < strict.homography.num_inliers < result.homography.num_inliers


def test_released_models_are_freed() -> None:
    extractor = cached_extractor(replace(PRESETS["dift-tiny-dense"], seed=77))  # nobody else has it
    extractor.load_networks()
    held, network = weakref.ref(extractor), weakref.ref(extractor.model.network)
    del extractor
    assert network() is not None
    geomatch.release()
    assert held() is None
    assert network() is None


def test_noise_is_a_failure_with_a_reason(halves: list[NDArray[np.uint8]], rng: np.random.Generator) -> None:
    """So are images of one pixel or one colour: see the command's tests."""
    noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found = geomatch.match(halves[0], noise, max_keypoints=FEW)
    assert isinstance(found.homography, EstimationFailure)
    assert found.homography.reason


def test_wrong_names_are_refused_before_any_work(photo0: Image) -> None:
    for options in ({"detector": "x"}, {"descriptor": "x"}, {"estimator": "x"}):
        with pytest.raises(ValueError, match=r"unknown .* 'x'; choose one of"):
            geomatch.match(photo0, photo0, **options)  # type: ignore[arg-type]


def test_result_on_disk(result: MatchResult, tmp_path: Path) -> None:
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
    failed = replace(result, geometry=EstimationFailure("because"))
    assert len(save_result(failed, out)) == 3
    assert not (out / "overlay.png").exists()  # of the earlier success
    assert json.loads((out / "result.json").read_text())["homography"] is None
    assert "not found: because" in summary(failed)
    settings = result.settings | {"descriptor": {"type": "Mine", "config": "x"}, "detector": "Other"}
    text = summary(replace(result, settings=settings))
    assert "Mine" in text
    assert "Other" in text


def test_what_a_subclass_puts_in_place_of_a_method_counts() -> None:
    class Left(TinyDetector):
        def detect(self, image: Image) -> Features:
            found = super().detect(image)
            return found[found.keypoints[:, 0] < 100]

    photos = geomatch.bundled_pair()
    result = geomatch.match(photos.image0, photos.image1, detector=Left(max_keypoints=200), effort="fast")
    assert len(result.features0)
    assert result.features0.keypoints[:, 0].max() < 100

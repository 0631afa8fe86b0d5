import cv2
import numpy as np
import pytest

from geomatch import Features, Image
from geomatch.keypoints import GridDetector, OpenCVDetector, create_detector, detectors
from geomatch.keypoints.detector import select_best
from geomatch.keypoints.opencv import available_opencv_detectors

BLANK = Image(np.full((60, 80, 3), 128, np.uint8), "blank")


def test_grid_points_are_cell_centres() -> None:
    found = GridDetector(step=4).detect(Image(np.zeros((8, 12, 3), np.uint8), "x"))
    assert found.keypoints.tolist() == [[x, y] for y in (1.5, 5.5) for x in (1.5, 5.5, 9.5)]
    assert (found.scores == 1).all()
    assert found.scales is None


def test_grid_is_symmetric_and_inside() -> None:
    for width, height in ((33, 50), (64, 64), (5, 100)):
        image = Image(np.zeros((height, width, 3), np.uint8), "x")
        points = GridDetector(step=7).detect(image).keypoints
        mirrored = np.array([width - 1, 0]) + points * [-1, 1]
        assert sorted(map(tuple, points.tolist())) == sorted(map(tuple, mirrored.tolist()))
        assert (points >= 3).all()
        assert len(points) == (width // 7) * (height // 7)


def test_grid_grows_its_step_to_the_limit() -> None:
    found = GridDetector(step=2, max_keypoints=50).detect(BLANK)
    assert 25 <= len(found) <= 50
    assert len(GridDetector(step=100).detect(BLANK)) == 0
    for grid in (GridDetector(16), GridDetector(8, max_keypoints=40)):
        xs = np.unique(grid.detect(BLANK).keypoints[:, 0])
        assert np.diff(xs).min() == grid.spacing(BLANK.size)
    assert GridDetector(8, max_keypoints=40).spacing(BLANK.size) > 8


@pytest.mark.parametrize("name", available_opencv_detectors())
def test_every_opencv_detector(name: str, photo0: Image) -> None:
    found = create_detector(name, 200).detect(photo0)
    assert 0 < len(found) <= 200
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.keypoints >= -0.5) & (found.keypoints <= np.array(photo0.size) - 0.5)).all()
    assert found == create_detector(name, 200).detect(photo0)
    assert (found.orientations is None) == (name in ("gftt", "fast"))
    for height, width in ((60, 80), (1, 1), (2, 2), (1, 500), (16, 500)):
        flat = Image(np.full((height, width, 3), 128, np.uint8), "flat")
        assert len(create_detector(name).detect(flat)) == 0


def test_sift_agrees_with_opencv(photo0: Image) -> None:
    points = cv2.SIFT_create().detect(cv2.cvtColor(photo0.pixels, cv2.COLOR_RGB2GRAY), None)
    best = sorted(points, key=lambda p: -p.response)[0]
    found = OpenCVDetector(cv2.SIFT_create(), max_keypoints=None).detect(photo0)
    assert len(found) == len(points)
    assert found.scales is not None
    assert found.orientations is not None
    np.testing.assert_allclose(found.keypoints[0], best.pt, atol=1e-4)
    assert found.scales[0] == pytest.approx(best.size)
    assert found.orientations[0] == pytest.approx(np.radians(best.angle), abs=1e-5)


def test_large_images_are_detected_in_original_pixels(photo0: Image) -> None:
    large = Image(cv2.resize(photo0.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), "large")
    direct = OpenCVDetector("sift", 200).detect(photo0).keypoints
    reduced = OpenCVDetector("sift", 200, max_image_side=640).detect(large)
    assert reduced.image_size == large.size
    back = (reduced.keypoints + 0.5) / 4 - 0.5
    nearest = np.linalg.norm(direct[:, None] - back[None], axis=2).min(1)
    assert np.median(nearest) < 0.2


def test_least_distance_and_limit(rng: np.random.Generator) -> None:
    points = rng.uniform(0, 100, (400, 2))
    features = Features(points, rng.uniform(0, 1, 400), (100, 100))
    kept = select_best(features, None, 8.0)
    apart = np.linalg.norm(kept.keypoints[:, None] - kept.keypoints[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= 8
    # what was dropped lies near a better one
    for point, score in zip(features.keypoints, features.scores, strict=True):
        near = np.linalg.norm(kept.keypoints - point, axis=1) < 8
        assert (kept.scores[near] >= score).any()
    assert select_best(features, 10, 8.0) == kept[:10]
    assert select_best(features, 10) == features[np.argsort(-features.scores)[:10]]


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="step must be"):
        GridDetector(step=0)
    with pytest.raises(ValueError, match="max_keypoints must be"):
        OpenCVDetector("sift", max_keypoints=0)
    with pytest.raises(ValueError, match=r"no detector 'sitf'; choose from: sift"):
        OpenCVDetector("sitf")
    with pytest.raises(ValueError, match="unknown detector 'superpont'; choose one of"):
        create_detector("superpont")
    assert {"grid", "sift", "orb", "gftt", "superpoint", "superpoint-magicleap"} <= detectors().keys()

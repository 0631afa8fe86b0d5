"""The worked examples do what they say, on the bundled photographs and on the user's."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import geomatch
from geomatch import opencv as gcv
from geomatch.geometry import image_corners
from geomatch.opencv.examples import find_object, panorama

PAIR = geomatch.bundled_pair()


@pytest.mark.parametrize("name", ["sift", "dift"])
def test_tutorial_finds_the_object_with_sift_and_with_ours(name: str) -> None:
    """One script, one line changed."""
    wanted, scene = find_object.bundled_object()
    corners, picture = find_object.find_object(wanted, scene, find_object.create_feature(name))
    left, top, right, bottom = find_object.BOX
    outline = image_corners((right - left, bottom - top)) + np.array([left, top])
    truth = geomatch.warp_points(PAIR.homography, outline)
    assert corners is not None
    assert np.linalg.norm(corners - truth, axis=1).max() < 3
    assert picture.shape == (480, right - left + 640, 3)


def test_nothing_is_found_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    for shown in (find_object.bundled_object()[0], np.zeros((60, 60, 3), np.uint8)):
        assert find_object.find_object(shown, noise, find_object.create_feature("dift"))[0] is None
    assert panorama.stitch([panorama.bundled_views()[0], noise], gcv.DIFT_create(300)) is None


def test_panorama_shows_both_in_the_frame_of_the_first() -> None:
    """On the bundled views: as large as the true homography says, and the first photograph where it was."""
    first, second = panorama.bundled_views()
    made = panorama.stitch([first, second], gcv.DIFT_create(700))
    assert made is not None
    height, width = second.shape[:2]
    corners = image_corners((width, height)) + np.array([640 - width, 480 - height])
    warped = geomatch.warp_points(np.linalg.inv(PAIR.homography), corners)
    high = np.maximum(warped.max(0), [first.shape[1] - 1, 479])
    low = np.minimum(warped.min(0), 0)
    assert np.abs(np.array(made.shape[1::-1]) - (high - low + 1)).max() < 6
    x, y = np.round(-low).astype(int)
    whole = cv2.imread(str(PAIR.image0))
    assert whole is not None

    def likeness(left: int, right: int) -> float:
        """Correlation with the whole photograph, of which both views show parts."""
        seen = made[y + 150 : y + 260, x + left : x + right].astype(float)
        return float(np.corrcoef(seen.ravel(), whole[150:260, left:right].astype(float).ravel())[0, 1])

    assert likeness(20, 300) > 0.95
    assert likeness(445, 530) > 0.75, "here only the second view shows it, in its own light"


def test_panorama_of_three_photographs_in_any_order() -> None:
    """Strips of one photograph, of which only neighbours overlap, give the photograph again."""
    whole = np.asarray(cv2.imread(str(PAIR.image0)), np.uint8)
    strips = [whole[:, left : left + 280].copy() for left in (360, 0, 180)]
    made = panorama.stitch(strips, gcv.DIFT_create(200))
    assert made is not None
    assert np.abs(np.array(made.shape) - whole.shape).max() <= 3
    same = cv2.resize(made, (640, 480)).astype(float), whole.astype(float)
    assert np.corrcoef(same[0].ravel(), same[1].ravel())[0, 1] > 0.97
    assert panorama.stitch(strips[:2], gcv.DIFT_create(100)) is None, "they do not overlap"


def test_script_writes_its_picture(tmp_path: Path) -> None:
    photos = [str(PAIR.image0), str(PAIR.image1)]
    out = tmp_path / "object.jpg"
    assert find_object.main([*photos, "--features", "sift", "--out", str(out)]) == 0
    assert cv2.imread(str(out)) is not None


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (find_object.main, ["one.jpg"], "give two photographs"),
        (find_object.main, ["one.jpg", "two.jpg"], "cannot read one.jpg as an image"),
        (panorama.main, ["one.jpg", "two.jpg", "three.jpg"], "cannot read one.jpg as an image"),
        (panorama.main, ["one.jpg"], "give two photographs or more, or none for the bundled ones"),
    ],
)
def test_scripts_refuse_bad_input(
    script: Callable[[list[str]], int], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err

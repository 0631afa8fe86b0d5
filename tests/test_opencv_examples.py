"""The worked example does what it says, on the bundled photographs and on the user's."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import geomatch
from geomatch.geometry import image_corners
from geomatch.opencv.examples import find_object

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


def test_script_writes_its_picture(tmp_path: Path) -> None:
    photos = [str(PAIR.image0), str(PAIR.image1)]
    out = tmp_path / "object.jpg"
    assert find_object.main([*photos, "--features", "sift", "--out", str(out)]) == 0
    assert cv2.imread(str(out)) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one.jpg"], "give two photographs"),
        (["one.jpg", "two.jpg"], "cannot read one.jpg as an image"),
    ],
)
def test_script_refuses_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        find_object.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err

"""Panoramas of made views: where things lie, exposure, strangers, failures; the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

import geomatch
from geomatch.cli import main
from geomatch.estimators import create_estimator
from geomatch.geometry import image_corners
from geomatch.panorama import Panorama
from geomatch.panorama import stitch as stitch_all
from geomatch.synthetic import render_view
from geomatch.types import HomographyEstimate

Photo, Points = NDArray[np.uint8], NDArray[np.floating]
SIZE, FOCAL = (320, 240), 700.0
PARTS: dict[str, Any] = {"detector": "sift", "max_keypoints": 300}


def stitch(sources: Sequence[Photo], **options: Any) -> Panorama:
    return stitch_all(sources, pipeline=geomatch.Pipeline(**PARTS), **options)


@pytest.fixture(scope="module")
def photo() -> Photo:
    pixels = geomatch.load_image(geomatch.bundled_pair().image0).pixels
    return np.asarray(cv2.resize(pixels, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC), np.uint8)


def turned(photo: Photo, turn: float) -> Photo:
    """What a camera sees that turned by so many degrees."""
    inner = np.array([[FOCAL, 0, 160], [0, FOCAL, 120], [0, 0, 1]])
    to_photo = np.array([[FOCAL, 0, 250], [0, FOCAL, 384], [0, 0, 1]])
    rotation, _ = cv2.Rodrigues(np.array([0.0, np.radians(turn), 0.0]))
    return render_view(photo, inner @ rotation.T @ np.linalg.inv(to_photo), SIZE)


@pytest.fixture(scope="module")
def turning(photo: Photo) -> list[Photo]:
    """A camera that turns by twelve degrees and again; the second picture is darker."""
    first, second, third = (turned(photo, turn) for turn in (0, 12, 24))
    return [first, np.asarray(second * 0.75, np.uint8), third]


@pytest.fixture(scope="module")
def noise() -> Photo:
    return np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)


def opened(path: Path) -> PILImage.Image:
    with PILImage.open(path) as picture:
        return picture.copy()


def wall(photo: Photo) -> tuple[list[Photo], list[NDArray[np.float64]]]:
    """Views of the photograph as a plane, each from elsewhere, and the matrices from it to them."""
    matrices = []
    for x, y, a, b in ((60, 80, 8e-4, 0), (100, 90, -8e-4, 0), (90, 110, 0, 6e-4)):
        matrices.append(np.array([[1, 0.03, -x], [-0.02, 1, -y], [a, b, 1]]))
    return [render_view(photo, matrix, SIZE) for matrix in matrices], matrices


def test_camera_that_turned(photo: Photo, turning: list[Photo], noise: Photo) -> None:
    """The panorama is the photograph again, but for its light; a stranger is left out and named."""
    made = stitch([turning[1], noise, turning[0], turning[2]], projection="plane")
    assert made.pixels is not None, made.reason
    assert made.left_out == {"image 2": "belongs to none of those in the picture"}
    assert {pair.names for pair in made.pairs[:2]} == {("image 1", "image 3"), ("image 1", "image 4")}
    assert made.pixels.shape[2] == 4
    assert set(np.unique(made.pixels[:, :, 3])) == {0, 255}
    found = geomatch.match(made.pixels[:, :, :3].copy(), photo, effort="fast", **PARTS).homography
    assert found
    back = cv2.warpPerspective(made.pixels, found.matrix, photo.shape[1::-1])
    inside = cv2.erode(back[:, :, 3], np.ones((9, 9), np.uint8)) == 255
    assert inside.mean() > 0.15
    assert np.corrcoef(back[inside, 1], photo[inside, 1])[0, 1] > 0.99


def test_cylinder_is_as_wide_as_the_turn(turning: list[Photo]) -> None:
    made = stitch(turning, projection="cylindrical")
    assert made.pixels is not None, made.reason
    assert made.pixels.shape[1] == pytest.approx(
        FOCAL * (np.radians(24) + 2 * np.arctan(160 / FOCAL)), rel=0.03
    )


def test_wrong_pair_is_dropped(photo: Photo) -> None:
    """Of four views one pair has a homography that fits nothing else, as repeating patterns may."""

    class OneWrong:
        right, left = create_estimator("usac_magsac"), 3

        def estimate(
            self, points0: Points, points1: Points, image_size: tuple[int, int] | None = None
        ) -> Any:
            self.left -= 1
            if self.left:
                return self.right.estimate(points0, points1, image_size)
            return HomographyEstimate(np.eye(3), np.arange(len(points0)) < 20)

    views = [turned(photo, turn) for turn in (0, 8, 16, 24)]
    made = stitch_all(
        views, pipeline=geomatch.Pipeline(**PARTS, estimator=OneWrong()), projection="cylindrical"
    )
    assert made.pixels is not None, made.reason
    assert not made.left_out
    assert made.pixels.shape[1] == pytest.approx(
        FOCAL * (np.radians(24) + 2 * np.arctan(160 / FOCAL)), rel=0.03
    )


def test_plane_from_several_places(photo: Photo) -> None:
    """As large as the true homographies say, in the frame of one of them."""
    views, matrices = wall(photo)
    made = stitch(views, scene="plane")
    assert made.pixels is not None, made.reason
    sizes = []
    for frame in matrices:
        places = [frame @ np.linalg.inv(matrix) for matrix in matrices]
        corners = np.concatenate([geomatch.warp_points(place, image_corners(SIZE)) for place in places])
        sizes.append(np.ptp(corners, axis=0) + 1)
    assert np.abs(np.array(sizes) - made.pixels.shape[1::-1]).max(axis=1).min() < 3


def test_failures_have_a_reason(photo: Photo, turning: list[Photo], noise: Photo) -> None:
    unrelated = stitch([turning[0], noise])
    assert not unrelated
    assert unrelated.reason.startswith("no two of 2 images fit together: image 1 - image 2: ")
    with pytest.raises(ValueError, match="there is no panorama: no two"):
        unrelated.save("never.png")
    walls = stitch(wall(photo)[0])
    assert not walls
    assert "give scene 'plane'" in walls.reason
    empty = stitch([np.zeros_like(noise), noise])
    assert "0 matches at 0 separate places" in empty.reason
    assert not empty.left_out
    with pytest.raises(ValueError, match="two images or more, got 1"):
        stitch([noise])


def test_files_of_each_format(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 4), np.uint8)
    pixels[:2] = 255, 128, 0, 255
    made = Panorama(pixels, "", {}, ())
    for suffix in (".png", ".tif"):
        made.save(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / f"a{suffix}")), pixels)
    made.save(tmp_path / "a.JPG")
    assert opened(tmp_path / "a.JPG").mode == "RGB"
    with pytest.raises(geomatch.ImageError, match=r"written as one of: \.png"):
        made.save(tmp_path / "a.gif")


def test_command(
    turning: list[Photo], noise: Photo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files and folders; 0 with all in the picture, 1 with some or without a picture, 2 for bad input."""
    for number, view in enumerate(turning):
        PILImage.fromarray(view).save(tmp_path / f"view{number}.png")
    out, stranger = tmp_path / "panorama.png", tmp_path / "more" / "stranger.png"
    line = ["panorama", str(tmp_path), "--out", str(tmp_path), "--detector", "sift", "--max-keypoints", "300"]
    assert main(line) == 0, capsys.readouterr().err
    assert f"wrote       {out}" in capsys.readouterr().out
    assert opened(out).mode == "RGBA"
    assert main(line) == 2
    assert f"geomatch: {out} exists already" in capsys.readouterr().err
    line.append("--overwrite")
    assert main(line) == 0, capsys.readouterr().err  # the first picture, in that folder, is none of the views
    stranger.parent.mkdir()
    PILImage.fromarray(noise).save(stranger)
    assert main([*line, str(stranger)]) == 1
    assert f"left out    {stranger}: belongs to none of those in the picture" in capsys.readouterr().out
    assert main(["panorama", str(tmp_path / "view0.png"), *line[2:], str(stranger)]) == 1
    assert "geomatch: no panorama: no two of 2 images fit together" in capsys.readouterr().err
    (tmp_path / "masks").mkdir()
    unmasked = [*line, "--masks", str(tmp_path / "masks")]
    alone = ["panorama", str(stranger), *line[2:]]
    for wrong in ([*line, "--out", str(stranger)], alone, [*line, "nowhere.png"], unmasked):
        assert main(wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1

"""Edits carried to other photographs: blending by hand, views with known truth, and the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

import geomatch
from geomatch.cli import main
from geomatch.dift import PRESETS, FeatureMap, cached_extractor
from geomatch.editing.blending import blend_edit, load_edit
from geomatch.editing.edit import EditResult, PreparedEdit, carry_edit, prepare_edit
from geomatch.errors import ImageError
from geomatch.estimators import OpenCVEstimator
from geomatch.geometry import resize_homography, warp_points
from geomatch.images import Image, reduce_image, write_png
from geomatch.synthetic import render_view
from geomatch.types import Features, Traits

PAIR = geomatch.bundled_pair()
SIZE = (320, 240)
BOX = (115, 65, 195, 120)
"""Left, top, right and bottom of the sticker on the bundled photograph, reduced."""
VIEW = np.array([[0.95, -0.12, 20.0], [0.10, 0.90, 6.0], [12e-5, -8e-5, 1.0]])
MILD = np.array([[1.0, 0.02, 4.0], [-0.02, 1.0, 7.0], [0.0, 0.0, 1.0]])
FEW = geomatch.Pipeline(descriptor="dift-tiny", max_keypoints=800)
DENSE = geomatch.Pipeline(descriptor="dift-tiny-dense", max_keypoints=800, threshold=5)


def painted(size: tuple[int, int] = SIZE, box: tuple[int, int, int, int] = BOX) -> NDArray[np.uint8]:
    """A plain red rectangle."""
    edit = np.zeros((size[1], size[0], 4), np.uint8)
    edit[box[1] : box[3] + 1, box[0] : box[2] + 1] = (255, 0, 0, 255)
    return edit


def corners(box: tuple[float, float, float, float] = BOX) -> NDArray[np.float64]:
    left, top, right, bottom = box
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def blended(
    edit: NDArray[np.uint8], target: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> NDArray[np.uint8]:
    picture = blend_edit(edit, matrix, target)
    assert picture is not None
    return picture


@pytest.fixture(scope="module")
def small(photo0: Image) -> Image:
    return reduce_image(photo0, SIZE[0])


@pytest.fixture(scope="module")
def prepared(small: Image) -> PreparedEdit:
    return prepare_edit(painted(), small, FEW)


def test_blending_by_hand() -> None:
    target = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4
    edit = np.zeros((4, 5, 4), np.uint8)
    edit[1, 2] = (200, 100, 0, 255)
    edit[2, 2] = (255, 255, 255, 51)  # a fifth
    edit[0, 0] = (255, 255, 255, 0)  # nothing, whatever the colour
    expected = target.copy()
    expected[1, 2] = (200, 100, 0)
    expected[2, 2] = np.round(0.2 * 255 + 0.8 * target[2, 2])
    np.testing.assert_array_equal(blended(edit, target, np.eye(3)), expected)
    right = np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    expected = target.copy()
    expected[1, 3] = (200, 100, 0)
    expected[2, 3] = np.round(0.2 * 255 + 0.8 * target[2, 3])
    np.testing.assert_array_equal(blended(edit, target, right), expected)


def test_half_a_pixel_leaves_no_fringe() -> None:
    """White on black that is transparent: between pixels the alpha falls, the colour does not."""
    edit = np.zeros((20, 20, 4), np.uint8)
    edit[5:15, 5:15] = 255
    half = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    white = np.full((20, 20, 3), 255, np.uint8)
    np.testing.assert_array_equal(blended(edit, white, half), white)
    dark = blended(edit, np.zeros((20, 20, 3), np.uint8), half)
    assert dark[10, 5].tolist() == [128] * 3
    assert dark[5, 5].tolist() == [64] * 3
    assert dark[10, 6].tolist() == [255] * 3
    assert not dark[10, 4].any()


def test_outside_the_edit_every_bit_stays(rng: np.random.Generator) -> None:
    target = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    picture = blended(painted(), target, VIEW)
    alpha = blended(painted(), np.zeros_like(target), VIEW)[:, :, 0] / 255  # red over black
    np.testing.assert_array_equal(picture[alpha == 0], target[alpha == 0])
    assert (picture[alpha == 1] == (255, 0, 0)).all()
    outline = BOX[0] - 0.5, BOX[1] - 0.5, BOX[2] + 0.5, BOX[3] + 0.5  # of pixels, not of their centres
    area = cv2.contourArea(warp_points(VIEW, corners(outline)).astype(np.float32))
    assert alpha.sum() == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize(("sx", "sy"), [(0.1, 0.1), (0.5, 0.15), (0.3, 1.0), (0.26, 0.26)])
def test_shrinking_averages(sx: float, sy: float) -> None:
    """Stripes of one pixel become their mean, in whatever direction they shrink."""
    edit = np.full((400, 400, 4), 255, np.uint8)
    edit[:, ::2, :3] = 0
    view = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    size = round(400 * sx), round(400 * sy)
    picture = blended(edit, np.zeros((size[1], size[0], 3), np.uint8), view)[3:-3, 3:-3]
    assert picture.shape[0] > 30
    assert np.abs(picture.astype(float) - 127.5).max() < 26
    assert picture.mean() == pytest.approx(127.5, abs=3)


def test_a_homography_through_infinity_is_refused() -> None:
    target = np.zeros((*SIZE[::-1], 3), np.uint8)
    with pytest.raises(ValueError, match="through infinity"):
        blend_edit(painted(), np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 150, 0, 1]]), target)
    assert blend_edit(painted(), np.array([[1.0, 0, 900], [0, 1, 0], [0, 0, 1]]), target) is None


def check(result: EditResult, target: Image, truth: NDArray[np.float64], tolerance: float) -> None:
    """The corners by the homography, and the middle of what is painted in the picture."""
    assert result.homography
    moved, right = (warp_points(matrix, corners()) for matrix in (result.homography.matrix, truth))
    assert np.linalg.norm(moved - right, axis=1).max() < tolerance
    assert result.picture is not None
    assert result.picture.shape == target.pixels.shape
    np.testing.assert_array_equal(result.picture, blended(painted(), target.pixels, result.homography.matrix))
    wanted = blended(painted(), target.pixels, truth)
    middles = [
        np.argwhere((picture != target.pixels).any(2)).mean(0)[::-1] for picture in (result.picture, wanted)
    ]
    assert np.linalg.norm(middles[0] - middles[1]) < tolerance
    assert result.points0.shape == result.points1.shape == (len(result.homography.inliers), 2)


@pytest.mark.parametrize("refine", [True, False])
def test_keypoints_find_a_known_view(prepared: PreparedEdit, small: Image, refine: bool) -> None:
    view = Image(render_view(small.pixels, VIEW, SIZE), "view")
    result = carry_edit(replace(prepared, pipeline=replace(FEW, refine_homography=refine)), view)
    check(result, view, VIEW, 0.5 if refine else 2.0)


@pytest.mark.parametrize("refine", [True, False])
def test_pixels_find_a_known_view(small: Image, refine: bool) -> None:
    view = Image(render_view(small.pixels, MILD, SIZE), "view")
    result = carry_edit(prepare_edit(painted(), small, replace(DENSE, refine_homography=refine), 150), view)
    check(result, view, MILD, 0.5 if refine else 3.0)
    assert len(result.points0) == len(np.unique(result.points0, axis=0)) == 150
    assert (result.points0 >= BOX[:2]).all()
    assert (result.points0 <= BOX[2:]).all()
    np.testing.assert_array_equal(result.points1, np.round(result.points1))


def test_an_estimator_object_has_its_own_threshold(prepared: PreparedEdit, small: Image) -> None:
    """Inliers of the refined homography are counted by it, not by the default."""
    view = Image(render_view(small.pixels, VIEW, SIZE), "view")
    strict = replace(FEW, estimator=OpenCVEstimator(threshold=0.4))
    result = carry_edit(replace(prepared, pipeline=strict), view)
    assert result.homography
    errors = np.linalg.norm(warp_points(result.homography.matrix, result.points0) - result.points1, axis=1)
    np.testing.assert_array_equal(result.homography.inliers, errors <= 0.4)
    assert 0 < (errors <= 0.4).sum() < (errors <= 3).sum()


class OwnDense:
    """A user's describer that samples a map of the whole image."""

    traits = Traits(dense=True)

    def dense(self, image: Image) -> FeatureMap:
        return cached_extractor(PRESETS["dift-tiny-dense"]).dense(image)

    def describe(self, image: Image, features: Features) -> Features:
        raise AssertionError("pixels need no descriptors of keypoints")


def test_a_users_dense_describer_matches_pixels(small: Image) -> None:
    view, own = render_view(small.pixels, MILD, SIZE), replace(DENSE, descriptor=OwnDense())
    found, ours = (carry_edit(prepare_edit(painted(), small, one, 60), view) for one in (own, DENSE))
    np.testing.assert_array_equal(found.points1, ours.points1)


def test_pixels_are_drawn_by_the_seed(photo0: Image) -> None:
    tiny = reduce_image(photo0, 120)
    edit = painted(tiny.size, (40, 30, 70, 60))
    first, again, other = (prepare_edit(edit, tiny, DENSE, 50, seed).places for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    few = prepare_edit(painted(tiny.size, (10, 10, 14, 13)), tiny, DENSE)
    assert len(few.places) == 20  # all there are


def test_keypoints_are_below_the_edit_or_near(prepared: PreparedEdit, small: Image) -> None:
    reach = 0.5 * np.sqrt(81 * 56) + 0.75  # and the rounding of places to pixels
    left, top, right, bottom = BOX
    x, y = prepared.keypoints.keypoints.numpy().T
    away = np.hypot(
        np.maximum(np.maximum(left - x, x - right), 0), np.maximum(np.maximum(top - y, y - bottom), 0)
    )
    assert away.max() <= reach
    assert (away == 0).sum() > 30
    best = prepare_edit(painted(), small, FEW, 20).keypoints
    np.testing.assert_array_equal(best.keypoints, prepared.keypoints.keypoints[:20])


def test_an_unrelated_target_has_a_reason(prepared: PreparedEdit, rng: np.random.Generator) -> None:
    noise = cv2.GaussianBlur(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8), (0, 0), 2)
    for target in (noise, np.full((150, 200, 3), 90, np.uint8)):
        result = carry_edit(prepared, target)
        assert not result
        assert result.picture is None
        assert not result.homography
        assert result.homography.reason


def test_an_edit_that_falls_outside_has_a_reason(prepared: PreparedEdit, small: Image) -> None:
    """The target shows what is beside the edit, not what is below it."""
    view = np.array([[1.0, 0, 0], [0, 1, -122], [0, 0, 1]])
    result = carry_edit(prepared, Image(render_view(small.pixels, view, (320, 118)), "beside"))
    assert not result
    assert not result.homography
    assert "outside the target" in result.homography.reason


def test_options_that_make_no_sense_are_refused(small: Image) -> None:
    with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
        prepare_edit(painted(), small, FEW, 0)


def test_edits_are_read_by_the_rules_of_images(tmp_path: Path) -> None:
    edit = painted((8, 6), (1, 1, 3, 4))
    PILImage.fromarray(edit).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_edit(tmp_path / "a.png"), edit)
    np.testing.assert_array_equal(load_edit(PILImage.fromarray(edit)), edit)
    exif = PILImage.Exif()
    exif[0x0112] = 6  # turned by a quarter
    PILImage.fromarray(edit).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_edit(str(tmp_path / "turned.png")), np.rot90(edit, -1))
    grey = PILImage.fromarray(edit).convert("LA")
    grey.save(tmp_path / "grey.png")
    assert load_edit(tmp_path / "grey.png")[2, 2].tolist() == [76, 76, 76, 255]
    palette = PILImage.fromarray(edit[:, :, :3]).convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_edit(tmp_path / "palette.png")[..., 3], edit[..., 3])
    with pytest.raises(ImageError, match=r"expected \(H, W, 4\) uint8 RGBA, got \(6, 8, 3\)"):
        load_edit(edit[:, :, :3])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Image
) -> Run:
    monkeypatch.chdir(tmp_path)
    PILImage.fromarray(painted()).save("edit.png")
    write_png(Path("a.png"), small.pixels)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["propagate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_writes_pictures_and_a_record(run: Run, tmp_path: Path, photo1: Image) -> None:
    target = reduce_image(photo1, SIZE[0])
    write_png(Path("b.png"), target.pixels)
    code, out, err = run("edit.png", "a.png", "b.png", "--out", "out")
    assert code == 0, err
    assert out.startswith("wrote       out/b.png (")
    record = json.loads((tmp_path / "out" / "propagation.json").read_text())
    (row,) = record["targets"]
    assert (row["target"], row["picture"], row["reason"]) == ("b.png", "b.png", None)
    assert row["num_matches"] >= row["num_inliers"] > 30
    matrix, down = np.array(row["homography"]), resize_homography((640, 480), SIZE)
    truth = down @ PAIR.homography @ np.linalg.inv(down)
    assert np.linalg.norm(warp_points(matrix, corners()) - warp_points(truth, corners())) < 2
    with PILImage.open(tmp_path / "out" / "b.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), blended(painted(), target.pixels, matrix))
    assert record["settings"]["estimator"]["threshold"] == 3
    assert record["settings"]["descriptor"]["config"]["sampling"] == "patch"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.png", "propagation.json"}


def test_failures_are_counted_and_leave_no_picture(run: Run, tmp_path: Path) -> None:
    PILImage.new("RGB", (200, 150), "grey").save("blank.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    for name in ("blank", "broken", "gone", "other"):
        (tmp_path / "out" / f"{name}.png").write_text("an older picture")
    given = "edit.png", "a.png", "blank.png", "broken.jpg", "a.png", "gone.jpg", "--out", "out"
    code, _, err = run(*given)
    assert (code, err.count("\n")) == (2, 1)
    assert "out/blank.png exists already" in err
    code, out, err = run(*given, "--overwrite")
    assert code == 1
    assert out.count("matches agree") == 1
    reasons = [line for line in err.splitlines() if line.startswith("geomatch: ")]
    assert [line.split(": ")[1] for line in reasons] == ["blank.png", "broken.jpg", "gone.jpg"]
    for line, words in zip(
        reasons, ("matches", "not an image in a known format", "no such file"), strict=True
    ):
        assert words in line
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"other.png", "a.png", "propagation.json"}
    rows = json.loads((tmp_path / "out" / "propagation.json").read_text())["targets"]
    assert [row["picture"] for row in rows] == [None, None, "a.png", None]
    for row in rows:
        assert (row["picture"] is None) == bool(row["reason"]) == (row["homography"] is None)


def test_the_command_by_pixels(run: Run, tmp_path: Path) -> None:
    code, _, err = run(
        "edit.png", "a.png", "a.png", "--out", "out", "--descriptor", "dift-tiny-dense",
        "--max-points", 60, "--estimator", "ransac", "--seed", 5, "--device", "cpu", "--image-size", 256,
    )  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "propagation.json").read_text())
    assert record["targets"][0]["num_matches"] == 60
    np.testing.assert_allclose(record["targets"][0]["homography"], np.eye(3), atol=0.02)
    settings = record["settings"]
    assert (settings["estimator"]["method"], settings["estimator"]["threshold"]) == ("ransac", 5)
    assert settings["seed"] == settings["descriptor"]["config"]["seed"] == 5


def test_wrong_usage_is_one_line(
    run: Run, tmp_path: Path, small: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it loads a network or makes the folder."""

    def never(*_: object) -> None:
        raise AssertionError("a network is loaded")

    monkeypatch.setattr("geomatch.dift.extractor.load_model", never)
    monkeypatch.setattr("geomatch.pipeline.detect_features", never)
    PILImage.fromarray(painted((160, 120), (10, 10, 20, 20))).save("small.png")
    PILImage.fromarray(painted()[:, :, :3]).save("opaque.png")
    PILImage.new("RGBA", SIZE).save("empty.png")
    for arguments, words in (
        ("small.png a.png b.png", "the edit has 160x120 pixels"),
        ("opaque.png a.png b.png", "opaque.png: has no alpha channel (mode RGB)"),
        ("empty.png a.png b.png", "empty.png: is transparent everywhere"),
        ("none.png a.png b.png", "none.png: no such file"),
        ("edit.png none.jpg b.png", "none.jpg: no such file"),
        ("edit.png a.png", "Missing argument 'TARGET...'"),
        ("edit.png a.png a/x.jpg b/X.png", "would both become"),
        ("edit.png a.png out/x.png", "out/x.png is one of the images given"),
        ("edit.png a.png b.png --estimator magic", "unknown estimator 'magic'"),
        ("edit.png a.png b.png --descriptor magic", "unknown descriptor 'magic'"),
        ("edit.png a.png b.png --threshold -1", "threshold must be a positive"),
        ("edit.png a.png b.png --max-points 0", "max_points must be at least 1"),
        ("edit.png a.png b.png --seed -1", "seed must be a whole number"),
    ):
        code, out, err = run(*arguments.split(), "--out", "out")
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert words in err
    assert not (tmp_path / "out").exists()

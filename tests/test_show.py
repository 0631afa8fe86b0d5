"""Pictures of point transfer and principal components whose answer is known, and the command."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTExtractor, FeatureMap
from geomatch.dift.maps.transfer import Rule
from geomatch.drawing.similarity import SINGLE, draw_transfer, principal_components, show_points
from geomatch.images import Image, reduce_image, write_png


def test_components_of_three_known_directions() -> None:
    """Rows that vary along three directions, most along the first: one colour channel each."""
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 30), indexing="ij")
    waves = torch.stack([0.5 * xs, 0.3 * ys, 0.1 * torch.sin(9 * xs), torch.full_like(xs, 5.0)])
    shown = principal_components(FeatureMap((waves,), (30, 20)))
    assert shown.shape == (20, 30, 3)
    assert shown.dtype == np.uint8
    for channel, wave in enumerate(waves[:3]):
        correlation = np.corrcoef(shown[..., channel].ravel(), wave.numpy().ravel())[0, 1]
        assert abs(correlation) > 0.95
    assert shown.min() == 0
    assert shown.max() == 255


def test_flat_and_narrow_features_have_a_picture() -> None:
    assert principal_components(FeatureMap((torch.ones(2, 4, 4),), (8, 8))).shape == (4, 4, 3)


@pytest.fixture(scope="module")
def extractor() -> DIFTExtractor:
    return DIFTExtractor(PRESETS["dift-tiny-dense"])


SIZE = (320, 240)
POINT = [240.0, 60.0]
TRUTH = [284.6, 76.5]
"""Where that point of the bundled pair, reduced, lies by the known homography."""


@pytest.fixture(scope="module")
def pair(photo0: Image, photo1: Image) -> tuple[Image, Image]:
    return reduce_image(photo0, SIZE[0]), reduce_image(photo1, SIZE[0])


@pytest.mark.parametrize("rule", ["argmax", "soft-argmax"])
def test_a_point_of_the_bundled_pair(extractor: DIFTExtractor, pair: tuple[Image, Image], rule: Rule) -> None:
    image0, image1 = pair
    (found,), picture = show_points(extractor, image0, [image1], np.array([POINT]), rule)
    assert np.linalg.norm(found.points[0] - TRUTH) < (4 if rule == "argmax" else 8)
    whole = bool((found.points == np.round(found.points)).all())
    assert whole == (rule == "argmax")
    assert picture.shape == (240, 640, 3)
    # the left half is the photograph but for the cross, the right one is under a map whose top is the match
    changed = np.argwhere((picture[:, :320] != image0.pixels).any(2))
    assert (np.abs(changed - POINT[::-1]) <= 17).all()
    assert tuple(picture[60, 240]) == SINGLE
    column, row = np.round(found.points[0]).astype(int)
    assert tuple(picture[row, 320 + column]) == SINGLE
    assert (picture[:, 320:] != image1.pixels).any(2).mean() > 0.9


def test_the_heat_map_is_highest_at_the_match(pair: tuple[Image, Image]) -> None:
    heat = np.zeros((240, 320), np.float32)
    heat[150:, 200:] = 1
    picture = draw_transfer(pair[0], pair[0], np.array([[5, 5]]), np.array([[250, 200]]), heat)[:, 320:]
    hot, cold = picture[160:230, 210:225].mean((0, 1)), picture[10:140, 10:190].mean((0, 1))
    assert hot[0] - cold[0] > 100


def test_several_points_in_several_targets_have_rows_colours_and_numbers(
    extractor: DIFTExtractor, pair: tuple[Image, Image]
) -> None:
    image0, image1 = pair
    small = reduce_image(image1, 200)  # 200x150, narrower and lower than image 0
    points = np.array([POINT, [50, 70], [319, 0]])
    own: Any = SimpleNamespace(dense=extractor.dense)  # a user's, without traits
    found, picture = show_points(own, image0, [image1, small], points)
    assert [len(places.points) for places in found] == [3, 3]
    assert np.linalg.norm(found[0].points[0] - TRUTH) < 4
    assert np.linalg.norm(found[1].points[0] * 1.6 - TRUTH) < 10
    assert picture.shape == (480, 640, 3)
    assert not picture[:240, 320:].max(2).min()  # crosses have black rims
    assert not picture[240:, 320 + 200 :].any()
    assert not picture[240 + 150 :, 320:].any()
    colours = {tuple(picture[y, x].tolist()) for x, y in points[:2].astype(int)}
    assert len(colours) == 2
    for top, places in zip((0, 240), found, strict=True):
        for (x0, y0), (x1, y1) in zip(points[:2].astype(int), places.points[:2].astype(int), strict=True):
            assert (picture[top + y0, x0] == picture[top + y1, 320 + x1]).all()
    # the photograph is as it was but for crosses and numbers
    touched = (picture[:240, :320] != image0.pixels).any(2)
    assert 0 < touched.mean() < 0.08
    assert touched[60 - 24 : 60 - 14, 246:260].any()  # the number, up and to the right
    assert touched[6:30, 290:313].any()  # in the corner it is inside


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pair: tuple[Image, Image],
) -> Run:
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("a.png", "b.png"), pair, strict=True):
        write_png(Path(name), image.pixels)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["show", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_prints_a_line_per_target_and_point(run: Run, tmp_path: Path) -> None:
    code, out, err = run("a.png", "b.png", "a.png", "--point", "240,60", "--point", "50,50", "--out", "p.png")
    assert (code, err) in ((0, ""), (0, "loading dift-tiny ...\n"))  # it may be loaded already
    lines = out.splitlines()
    pattern = re.compile(r"best match  ([\d.]+),([\d.]+) in (.+) \(similarity (-?[\d.]+)\)")
    rows = [found.groups() for line in lines if (found := pattern.fullmatch(line))]
    assert [row[2] for row in rows] == ["b.png"] * 2 + ["a.png"] * 2
    assert np.hypot(float(rows[0][0]) - TRUTH[0], float(rows[0][1]) - TRUTH[1]) < 4
    assert rows[2] == ("240.0", "60.0", "a.png", "1.0000")
    assert lines[4] == "wrote       p.png"
    with PILImage.open(tmp_path / "p.png") as picture:
        assert picture.size == (640, 480)


def test_wrong_use_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it loads a network."""

    def never(*_: object) -> None:
        raise AssertionError("a network is loaded")

    monkeypatch.setattr("geomatch.dift.cached_extractor", lambda config: DIFTExtractor(config))
    monkeypatch.setattr("geomatch.dift.extractor.load_model", never)
    for arguments, words in (
        ("a.png b.png --point 1,1 --point 320,0", "point (320, 0) lies outside image 0, whose last pixel"),
        ("a.png b.png --point 1,1 --point nan,0", "the point (nan, 0) lies outside image 0"),
        ("a.png b.png --point 1,1 --point 1", "'1' is no point; give x,y"),
        ("a.png b.png --point 1,1 --pca", "give either IMAGE0 IMAGE1 --point X,Y, or IMAGE0 --pca"),
        ("a.png b.png none.jpg --point 1,1", "none.jpg: no such file"),
        ("a.png b.png", "give either IMAGE0 IMAGE1 --point X,Y, or IMAGE0 --pca"),
        ("a.png b.png --point 1,1 --out no/p.png", "give a .png file in a folder that exists"),
        ("a.png --pca --soft", "--soft is about --point"),
    ):
        code, out, err = run(*arguments.split())
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
    assert not (tmp_path / "show.png").exists()

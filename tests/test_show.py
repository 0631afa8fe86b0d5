"""Pictures of point transfer and principal components whose answer is known, and the command."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTExtractor, FeatureMap
from geomatch.dift.maps.transfer import Rule, Transferred
from geomatch.drawing.canvas import GAP, SIDE, Words, photograph
from geomatch.drawing.similarity import (
    SINGLE,
    draw_components,
    draw_transfer,
    principal_components,
    show_points,
)
from geomatch.geometry import resize_points
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
RIGHT = SIDE + GAP
"""Where the second photograph begins in a picture."""


def shown(point: Sequence[float], size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """Row and column of a point in the photograph as it is drawn."""
    x, y = np.round(resize_points(np.array([point]), size, (SIDE, round(SIDE * size[1] / size[0]))))[0]
    return int(y), int(x)


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
    # the left half is the photograph but for the cross, the right one is under a map whose top is the match
    pixels = picture.pixels()[: SIDE * 3 // 4]
    row, column = shown(POINT)
    changed = np.argwhere((pixels[:, :SIDE] != photograph(image0)).any(2))
    assert (np.abs(changed - (row, column)) <= 17).all()
    assert tuple(pixels[row, column]) == SINGLE
    row, column = shown(found.points[0])
    assert tuple(pixels[row, RIGHT + column]) == SINGLE
    assert (pixels[:, RIGHT:] != photograph(image1)).any(2).mean() > 0.9


def test_the_heat_map_is_highest_at_the_match(pair: tuple[Image, Image]) -> None:
    heat = np.zeros((240, 320), np.float32)
    heat[150:, 200:] = 1
    heat[0, 0] = -0.5
    found = Transferred(np.array([[250.0, 200.0]]), np.ones(1, np.float32))
    picture = draw_transfer(pair[0], pair[0], np.array([[5, 5]]), found, heat)
    half = picture.pixels()[: SIDE * 3 // 4, RIGHT:]
    hot, cold = half[500:720, 660:700].mean((0, 1)), half[30:440, 30:590].mean((0, 1))
    assert hot[0] - cold[0] > 100
    words = [part.text for part, _, _ in picture.flat() if isinstance(part, Words)]
    assert words[0] == "5, 5 of image0.jpg found at 250.0, 200.0 of image0.jpg"
    assert set(words[1:]) == {"0.00", "similarity", "1.00"}


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
    pixels, height = picture.pixels(), SIDE * 3 // 4
    second = next(y for part, x, y in picture.flat() if getattr(part, "shape", ()) and y)
    assert not pixels[:height, RIGHT:].max(2).min()  # crosses have black rims
    places0 = [shown(point) for point in points[:2]]
    colours = {tuple(pixels[place].tolist()) for place in places0}
    assert len(colours) == 2
    for top, target, places in zip((0, second), (image1, small), found, strict=True):
        for (y0, x0), point in zip(places0, places.points[:2], strict=True):
            y1, x1 = shown(point, target.size)
            assert (pixels[top + y0, x0] == pixels[top + y1, RIGHT + x1]).all()
    # the photograph is as it was but for crosses and numbers
    touched = (pixels[:height, :SIDE] != photograph(image0)).any(2)
    assert 0 < touched.mean() < 0.08
    row, column = places0[0]
    assert touched[row - 40 : row - 18, column + 18 : column + 40].all()  # the number, up and to the right
    assert touched[18:40, SIDE - 40 : SIDE - 18].all()  # in the corner it is inside
    numbers = [part.text for part, _, _ in picture.flat() if isinstance(part, Words)]
    assert sorted(numbers)[:12] == sorted(["1", "2", "3"] * 4)


def test_components_are_drawn_smoothly(pair: tuple[Image, Image]) -> None:
    """Neighbouring pixels of a picture of 8x6 cells differ by little, and the cells have their colours."""
    values = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    coarse = FeatureMap((values,), pair[0].size)
    pixels = draw_components(pair[0], coarse).pixels()[: SIDE * 3 // 4, RIGHT:].astype(int)
    assert np.abs(np.diff(pixels, axis=1)).max() < 12
    centres = pixels[SIDE // 16 :: SIDE // 8, SIDE // 16 :: SIDE // 8]
    assert np.abs(centres - principal_components(coarse)).max() < 30


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
    arguments = ["a.png", "b.png", "a.png", "--point", "240,60", "--point", "50,50", "--out", "new/p"]
    code, out, err = run(*arguments)
    assert (code, err) in ((0, ""), (0, "loading dift-tiny ...\n"))  # it may be loaded already
    lines = out.splitlines()
    pattern = re.compile(r"best match  ([\d.]+),([\d.]+) in (.+) \(similarity (-?[\d.]+)\)")
    rows = [found.groups() for line in lines if (found := pattern.fullmatch(line))]
    assert [row[2] for row in rows] == ["b.png"] * 2 + ["a.png"] * 2
    assert np.hypot(float(rows[0][0]) - TRUTH[0], float(rows[0][1]) - TRUTH[1]) < 4
    assert rows[2] == ("240.0", "60.0", "a.png", "1.0000")
    assert lines[4] == "wrote       new/p/points.png"
    with PILImage.open(tmp_path / "new/p/points.png") as picture:
        assert picture.size == (SIDE + RIGHT, 2 * 810 + GAP)
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "new/p/points.png exists already; give another folder, or --overwrite" in err
    code, out, _ = run("a.png", "--pca", "--out", "new/p")
    assert code == 0
    assert "wrote       new/p/pca.png" in out


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
        (
            "a.png b.png --point 1,1 --pca",
            "give IMAGE0 IMAGE1 --point X,Y, IMAGE0 IMAGE1 --html, or IMAGE0 --pca",
        ),
        ("a.png b.png none.jpg --point 1,1", "none.jpg: no such file"),
        ("a.png b.png", "give IMAGE0 IMAGE1 --point X,Y, IMAGE0 IMAGE1 --html, or IMAGE0 --pca"),
        ("a.png b.png --point 1,1 --out a.png", "'a.png' is a file"),
        ("a.png --pca --soft", "--soft is about --point"),
    ):
        code, out, err = run(*arguments.split())
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err
    assert not (tmp_path / "show-out").exists()
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    code, _, err = run("a.png", "--pca")
    assert (code, err) == (2, "geomatch: show-out: nothing can be written to this folder; name another one\n")

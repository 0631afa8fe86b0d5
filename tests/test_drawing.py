"""Pictures of a result whose answer is known, and the three formats."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from geomatch.cli import main
from geomatch.drawing.canvas import GAP, SIDE, Line, Picture, Words, captioned, framed, photograph
from geomatch.drawing.pair import draw_matches, draw_overlay
from geomatch.drawing.result import save_result
from geomatch.errors import MissingDependencyError
from geomatch.images import Image
from geomatch.results import MatchResult
from geomatch.types import (
    EstimationFailure,
    Features,
    Geometry,
    HomographyEstimate,
    Matches,
    RelativePose,
    TwoViewGeometry,
)

SIZE = (500, 400)
ZOOM = np.array([[0.5, 0, 100], [0, 0.5, 50], [0, 0, 1]])
"""Image 0 lies in image 1, half as large, from (100, 50) on."""
SETTINGS = {"model": {"type": "Homography", "name": "homography"}, "estimator": {"threshold": 4.0}}


@pytest.fixture
def images(rng: np.random.Generator) -> tuple[Image, Image]:
    """Smooth noise, and image 0 as it lies in image 1 on other noise."""
    one, two = (
        cv2.GaussianBlur(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8), (0, 0), 6) for _ in "01"
    )
    one, two = (cv2.normalize(part, part, 0, 255, cv2.NORM_MINMAX) for part in (one, two))
    two[50:250, 100:350] = cv2.resize(one, (250, 200), interpolation=cv2.INTER_AREA)
    return Image(np.asarray(one, np.uint8), "a/one.png"), Image(np.asarray(two, np.uint8), "two.png")


Make = Callable[..., MatchResult]


@pytest.fixture
def make(images: tuple[Image, Image]) -> Make:
    def result(
        points0: NDArray[np.floating], points1: NDArray[np.floating], geometry: Geometry
    ) -> MatchResult:
        scores, count = np.ones(len(points0)), np.arange(len(points0))
        features = [Features(points, scores, SIZE) for points in (points0, points1)]
        matches = Matches(np.stack([count, count], axis=1), scores)
        return MatchResult(*images, *features, matches, geometry, {}, SETTINGS)

    return result


def words_of(picture: Picture) -> str:
    return " ".join(part.text for part, _, _ in picture.flat() if isinstance(part, Words))


def lines_of(picture: Picture, width: int) -> list[Line]:
    return [part for part, _, _ in picture.flat() if isinstance(part, Line) and part.width == width]


def found(inliers: NDArray[np.bool_], matrix: NDArray[np.float64] = ZOOM) -> HomographyEstimate:
    return HomographyEstimate(matrix, inliers, np.array([0.1, 0.44, 0.2, 0.3]))


def test_matches_are_coloured_by_their_error_and_counted(make: Make) -> None:
    """Errors of 0, 2 and 4 px of a threshold of 4: the ends of the bar, and its middle."""
    points0 = np.array([[50, 50], [250, 200], [450, 300], [20, 20.0]])
    points1 = points0 * 0.5 + [100, 50]
    points1[:, 0] += [0, 2, 4, 80]
    result = make(points0, points1, found(np.array([True, True, True, False])))
    picture = draw_matches(result)
    assert words_of(picture).startswith(
        "3 of 4 matches are inliers · homography, mean error 2 px · corner deviation 0.44 px"
    )
    assert "4 px" in words_of(picture)
    bar = next(part for part, _, _ in picture.flat() if getattr(part, "shape", ())[:1] == (22,))[0]
    colours = {
        tuple(np.round(np.array(line.points)[0]).astype(int)): line.colour for line in lines_of(picture, 2)
    }
    for x, share in ((100, 0), (500, 0.5), (900, 1)):
        own = next(colour for (left, _), colour in colours.items() if abs(left - x) < 3)
        assert np.abs(np.subtract(own, bar[round(share * 419)].astype(int))).max() < 6
    (grey,) = lines_of(picture, 1)
    assert len(set(grey.colour)) == 1
    # drawn where the points lie: x' = 2 (x + 0.5) - 0.5, the second photograph beside the first
    pixels = picture.pixels()
    assert tuple(pixels[round(2 * 50.5 - 0.5), round(2 * 50.5 - 0.5)]) == colours[(100, 100)]
    assert tuple(pixels[round(2 * 75.5 - 0.5), SIDE + GAP + round(2 * 125.5 - 0.5)]) == colours[(100, 100)]
    assert (pixels[:800, SIDE + 2 : SIDE + GAP - 2] == 255).mean() > 0.9  # the gap


def test_many_matches_are_thinned_all_over_the_image(make: Make, rng: np.random.Generator) -> None:
    """The best 200 lie in one corner; lines are drawn in all others, too."""
    points0 = rng.uniform(0, 1, (1000, 2)) * SIZE
    points0[:200] *= 0.2
    result = make(points0, points0 * 0.5 + [100, 50], found(np.ones(1000, np.bool_)))
    picture = draw_matches(result)
    lines = lines_of(picture, 2)
    assert 75 <= len(lines) <= 150
    assert f"1,000 of 1,000 matches are inliers ({len(lines)} drawn)" in words_of(picture)
    starts = np.array([np.array(line.points)[0] for line in lines])
    counts = np.histogram2d(*starts.T, bins=3, range=((0, 1000), (0, 800)))[0]
    assert counts.min() >= 4


def test_points_in_the_order_of_rows_are_thinned_down_to_the_last_row(make: Make) -> None:
    points0 = np.stack(np.meshgrid(np.arange(0, SIZE[0], 10), np.arange(0, SIZE[1], 10)), -1).reshape(-1, 2)
    picture = draw_matches(make(points0, points0 * 0.5, found(np.ones(len(points0), np.bool_))))
    starts = np.array([np.array(line.points)[0] for line in lines_of(picture, 2)])
    assert len(starts) <= 150
    assert starts[:, 1].max() > 0.9 * SIDE * SIZE[1] / SIZE[0]


def test_a_refusal_is_grey_with_its_reason(make: Make, rng: np.random.Generator) -> None:
    points = rng.uniform(0, 400, (300, 2))
    picture = draw_matches(make(points, points, EstimationFailure("they " + "do not agree, " * 30)))
    assert {line.colour for line in lines_of(picture, 1)} == {(200, 200, 200)}
    assert not lines_of(picture, 2)
    text = words_of(picture)
    assert re.match(r"300 matches \(\d+ drawn\) · homography not found: they do not agree", text)
    assert text.count("do not agree") == 30  # in lines
    assert words_of(draw_matches(make(points[:0], points[:0], EstimationFailure("x")))).startswith(
        "0 matches ·"
    )


def test_other_geometries(make: Make, rng: np.random.Generator) -> None:
    """Rows that are the epipolar lines have an error, a pose has none in pixels."""
    points = rng.uniform(50, 350, (9, 2))
    moved, inliers = np.add(points, (30, 1)), np.ones(9, np.bool_)
    rows = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])
    picture = draw_matches(make(points, moved, TwoViewGeometry("uncalibrated", rows, inliers)))
    assert "homography, mean error 1 px" in words_of(picture)  # the settings name what was asked for
    picture = draw_matches(make(points, moved, RelativePose(np.eye(3), inliers, 0.123)))
    assert words_of(picture) == "9 of 9 matches are inliers · homography · rotation uncertain by 0.12°"
    assert len({line.colour for line in lines_of(picture, 2)}) == 1


def test_wide_images_stand_below_each_other_and_small_ones_are_enlarged(make: Make) -> None:
    points = np.zeros((1, 2))
    result = make(points, points, EstimationFailure("x"))
    for size, places in (
        ((500, 100), (0, SIDE // 5 + GAP)),
        ((3, 2), (SIDE + GAP, 0)),
        ((1, 400), (3 + GAP, 0)),
    ):
        image = Image(np.full((size[1], size[0], 3), 9, np.uint8), "x")
        picture = draw_matches(replace(result, image0=image, image1=image))
        photos = [(x, y) for part, x, y in picture.flat() if not isinstance(part, Line | Words)]
        assert photos == [(0, 0), places] or size[0] == 1
        assert picture.pixels().shape[1::-1] == picture.size


def test_the_overlay_shows_image_0_where_it_lies_in_image_1(make: Make, images: tuple[Image, Image]) -> None:
    """Image 1 holds image 0 there, so that every style shows image 1, and the outline is known."""
    points = np.zeros((4, 2))
    result = make(points, points, found(np.ones(4, np.bool_)))
    below = photograph(images[1]).astype(int)
    picture = draw_overlay(result, ("blend", "red-cyan", "checkerboard", "quad"))
    assert "image 0 (one.png) warped onto image 1 (two.png) · blend, red-cyan, checkerboard" in words_of(
        picture
    )
    photos = [part for part, _, _ in picture.flat() if getattr(part, "shape", ()) == (800, 1000, 3)]
    grey = cv2.cvtColor(photograph(images[1]), cv2.COLOR_RGB2GRAY)[:, :, None].astype(int)
    for photo, wanted in zip(photos, (below, grey, below, below), strict=True):
        assert np.abs(photo.astype(int) - wanted).mean() < 1.5
    corners = np.array([line.points for line in lines_of(picture, 3)[:4]])[:, 0]
    np.testing.assert_allclose(corners, [[200, 100], [699, 100], [699, 499], [200, 499]], atol=1.1)
    # elsewhere a wrong homography shows: the halves of the checkerboard, and red and cyan
    shifted = replace(
        result, geometry=found(np.ones(4, np.bool_), ZOOM + np.array([[0, 0, 40], [0, 0, 20], [0, 0, 0]]))
    )
    wrong = [
        part.astype(int)
        for part, _, _ in draw_overlay(shifted, ("checkerboard", "red-cyan")).flat()
        if getattr(part, "shape", ()) == (800, 1000, 3)
    ]
    inside = (slice(150, 530), slice(290, 770))
    changed = (np.abs(wrong[0] - below)[inside].max(2) > 12).mean()
    assert 0.2 < changed < 0.6
    assert np.abs(wrong[1][inside][..., 0] - wrong[1][inside][..., 1]).mean() > 10
    with pytest.raises(ValueError, match="no homography: because"):
        draw_overlay(replace(result, geometry=EstimationFailure("because")))


def test_the_three_formats(make: Make, tmp_path: Path) -> None:
    """Words remain text in vectors, and equal pictures give equal files."""
    points = np.array([[50.0, 50]])
    flat = Image(np.zeros((4, 30, 3), np.uint8), "x")  # soon written
    result = make(points, points, EstimationFailure('caf\u00e9 <b> & "$x$" \udce9\n'))
    result = replace(result, image0=flat, image1=flat)
    reason = 'café &lt;b&gt; &amp; "$x$" ??'
    for suffix in ("png", "svg", "pdf"):
        folders = tmp_path / suffix, tmp_path / f"{suffix}2"
        for folder in folders:
            save_result(result, folder, suffix=suffix)
        one, two = (next(folder.glob("matches.[!n]*")).read_bytes() for folder in folders)
        assert one == two
    svg = (tmp_path / "svg/matches.svg").read_text(encoding="utf-8")
    assert f"homography not found: {reason}</text>" in svg
    assert svg.count("<image") == 2
    assert not re.search(r"""(href|src)=["']https?:""", svg)
    assert b"/Subtype /Image" in (tmp_path / "pdf/matches.pdf").read_bytes()
    save_result(result, tmp_path / "pdf")
    assert not (tmp_path / "pdf/matches.pdf").exists()  # of the earlier result


def test_vectors_need_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """The command says so before it works."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"geomatch-dift\[report\]"):
        Picture((9, 9)).write(tmp_path / "x.svg")
    assert main(["match", "none.jpg", "none.jpg", "--out", str(tmp_path / "x"), "--format", "pdf"]) == 2
    assert "writing SVG and PDF" in capsys.readouterr().err
    Picture((9, 9)).write(tmp_path / "x.png")
    assert not list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize("width", [1, 900, 2000])
def test_a_caption_is_never_cut(width: int) -> None:
    """Right of the text the page stays white, for words that are longer than a line, too."""
    for text in ("many words " * 40, "W" * 300, "i" * 300):
        picture = captioned(framed(np.zeros((5, width, 3), np.uint8)), text)
        below = picture.pixels()[5 + GAP :]
        assert (below[:, -5:] == 255).all()
        assert (below < 128).any()

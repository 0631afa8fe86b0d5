"""The page of `geomatch show --html`: what its bytes keep of the features, and the page in a browser."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import axe_findings, launched, opened, serious
from numpy.typing import NDArray

import geomatch
from geomatch.cli import main
from geomatch.dift import PRESETS, FeatureMap, cached_extractor
from geomatch.dift.maps.feature_map import cell_centres
from geomatch.drawing.page import EMBEDDED, PageMap, encode_maps, page_maps, write_page
from geomatch.images import Image, reduce_image, write_png
from geomatch.results import MatchResult

CONFIG = PRESETS["dift-tiny-dense"]
HOSTILE = "</script><script>alert(1)</script>'&.jpg"
Features = list[NDArray[np.float64]]


@pytest.fixture(scope="module")
def pair(photo0: Image, photo1: Image) -> list[Image]:
    return [reduce_image(photo0, 320), reduce_image(photo1, 320)]


@pytest.fixture(scope="module")
def maps(pair: list[Image]) -> list[PageMap]:
    return page_maps(CONFIG, pair, *EMBEDDED)


@pytest.fixture(scope="module")
def result(pair: list[Image]) -> MatchResult:
    return geomatch.match(*pair)


@pytest.fixture(scope="module")
def page_file(maps: list[PageMap], result: MatchResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "show.html"
    write_page(path, result, maps, "dift-tiny-dense")
    return path


def decoded(one: PageMap) -> Features:
    """What the page makes of the bytes."""
    found = []
    for text in one.codes:
        codes = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, len(one.low))
        values = np.zeros((len(codes), max(one.components) + 1))
        np.add.at(values.T, one.components, (np.array(one.low) + np.array(one.step) * codes).T)
        found.append(values)
    return found


def similarities(one: PageMap) -> NDArray[np.float64]:
    """Of all cells of image 0 to all of image 1, as the page computes them."""
    own, others = decoded(one)
    squares = [np.frombuffer(base64.b64decode(text), "<f4") for text in one.squares]
    distance = np.maximum(squares[0][:, None] + squares[1] - 2 * own @ others.T, 0)
    return -np.sqrt(distance) if one.metric == "l2" else 1 - distance / 2


def exact(maps: list[FeatureMap], one: PageMap) -> Features:
    return [
        own.sample(cell_centres(grid, own.image_size, own.maps[0]).numpy(), one.metric).astype(float)
        for own, grid in zip(maps, one.grids, strict=True)
    ]


def test_bytes_keep_the_best_cells_of_photographs(pair: list[Image], maps: list[PageMap]) -> None:
    own, others = exact(cached_extractor(CONFIG).dense_many(pair), maps[0])
    truth, found = own @ others.T, similarities(maps[0])
    assert np.abs(truth - found).max() < 0.02
    assert (truth.argmax(1) == found.argmax(1)).mean() > 0.96
    assert maps[0].grids == [(80, 60), (80, 60)]
    timesteps, layers = EMBEDDED
    named = [(timestep, layer) for timestep in timesteps for layer in layers]
    assert [(one.timestep, one.layers) for one in maps[1:]] == named
    config = replace(CONFIG, timestep=timesteps[1], layers=layers, head=False)
    raw = cached_extractor(config).dense_many(pair)
    for place, one in enumerate(maps[3:]):
        own, others = exact([replace(each, maps=each.maps[place : place + 1]) for each in raw], one)
        assert ((own @ others.T).argmax(1) == similarities(one).argmax(1)).mean() > 0.9


def test_other_grids_distances_and_flat_features(rng: np.random.Generator) -> None:
    values = [
        torch.from_numpy(rng.normal(size=(5, *cells)).astype(np.float32)) for cells in ((30, 9), (7, 20))
    ]
    features = [FeatureMap((values[0],), (90, 300)), FeatureMap((values[1],), (2000, 700))]
    one = encode_maps(replace(CONFIG, head=False, metric="l2"), features)
    assert one.grids == [(9, 30), (20, 7)]  # no finer than the maps are
    own, others = (layer.flatten(1).T.double().numpy() for layer in values)
    truth = -np.linalg.norm(own[:, None] - others, axis=2)
    np.testing.assert_allclose(similarities(one), truth, atol=0.01)
    flat = [FeatureMap((torch.ones(2, 4, 4),), (8, 8))] * 2
    np.testing.assert_allclose(similarities(encode_maps(CONFIG, flat)), 1, atol=1e-6)


def test_ratios_are_those_of_the_ratio_test(result: MatchResult, page_file: Path) -> None:
    rows = np.array(content_of(page_file)["matches"])
    descriptors = [one.descriptors for one in (result.features0, result.features1)]
    assert descriptors[0] is not None
    assert descriptors[1] is not None
    for limit in (0.8, 0.95):
        kept = geomatch.matching.match_mutual(descriptors[0], descriptors[1], "cosine", None, limit)
        assert abs((rows[:, 5] < limit).sum() - len(kept)) <= 2  # rounding
        assert 0 < len(kept) < len(rows)


def content_of(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_page_asks_for_nothing(result: MatchResult, maps: list[PageMap], tmp_path: Path) -> None:
    named = replace(result, image0=replace(result.image0, name=HOSTILE))
    write_page(tmp_path / "p.html", named, maps[:1], HOSTILE)
    text = (tmp_path / "p.html").read_text()
    assert not re.search(r"https?://|@import|url\(|import\(|fetch\(|XMLHttp|WebSocket", text)
    assert "default-src 'none'" in text
    assert len(re.findall("<script", text)) == 2
    assert (tmp_path / "p.html").stat().st_size < 1.4e6
    assert content_of(tmp_path / "p.html")["images"][0]["name"] == Path(HOSTILE).name


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


def click(page: Any, stage: str, x: float, y: float) -> None:
    """A click at a pixel of a picture of 320 x 240."""
    page.locator(stage).scroll_into_view_if_needed()
    box = page.locator(stage).bounding_box()
    page.mouse.click(box["x"] + (x + 0.5) / 320 * box["width"], box["y"] + (y + 0.5) / 240 * box["height"])
    page.wait_for_timeout(60)


def told(page: Any) -> list[str]:
    """The point, its best match and the similarity, as the page writes them."""
    return [str(text) for text in page.locator("#told b").all_inner_texts()]


def expected(one: PageMap, cell: int, side: int = 0) -> list[str]:
    """The same by numpy, from a cell of image ``side``."""
    table = similarities(one) if side == 0 else similarities(one).T
    best = int(table[cell].argmax())
    places = [(number % 80 * 4 + 1.5, number // 80 * 4 + 1.5) for number in (cell, best)]
    point, match = (f"{x:.0f}, {y:.0f}" for x, y in [(x + 1e-9, y + 1e-9) for x, y in places])
    return [f"Point {point}", match, f"{table[cell, best]:.3f}"]


def test_clicks_and_keys_find_what_numpy_finds(browser: Any, page_file: Path, maps: list[PageMap]) -> None:
    with opened(browser, page_file) as found:
        page = found.page
        click(page, "#stage0", 200, 120)
        assert told(page) == expected(maps[0], 30 * 80 + 50)
        page.keyboard.press("Tab")  # focus goes on from where was clicked
        page.locator("#stage0").focus()
        for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        page.wait_for_timeout(600)
        assert told(page) == expected(maps[0], 31 * 80 + 46)
        assert page.inner_text("#live") == page.inner_text("#told")
        click(page, "#stage1", 100, 60)
        assert told(page) == expected(maps[0], 15 * 80 + 25, side=1)
        best = told(page)[1]
        page.click("#swap")
        page.wait_for_timeout(60)
        assert told(page)[0] == f"Point {best}"
        page.check("input[value=layer]")
        page.locator("#layer").fill("1")
        page.locator("#timestep").fill("1")
        assert (page.inner_text("#timestep-is"), page.inner_text("#layer-is")) == ("200", "mid_block")
        page.locator("#layer").fill("0")
        click(page, "#stage0", 200, 120)
        assert told(page) == expected(maps[3], 30 * 80 + 50)
        page.check("input[value=parts]")
        page.wait_for_timeout(60)
        assert page.evaluate("[...document.querySelectorAll('.pick canvas')].map(c => c.width)") == [80, 80]
        spent = page.evaluate(
            "Math.min(...[...Array(20).keys()].map(i => { const start = performance.now();"
            "similarities(data.maps[0], 0, i); return performance.now() - start; }))"
        )
        assert spent < 16  # milliseconds; about 1 on an idle core
        assert not found.errors
        assert not found.requests


def test_sliders_count_matches(browser: Any, page_file: Path, result: MatchResult) -> None:
    matches = np.array(content_of(page_file)["matches"])
    errors = np.linalg.norm(
        geomatch.warp_points(result.homography.matrix, matches[:, :2]) - matches[:, 2:4], axis=1
    )

    def counted() -> list[int]:
        numbers = re.match(r"([\d,]+) of ([\d,]+) .*?; ([\d,]+) of them", page.inner_text("#counts"))
        assert numbers
        return [int(number.replace(",", "")) for number in numbers.groups()]

    with opened(browser, page_file, 390, dark=True, touch=True) as found:
        page = found.page
        total = len(result.matches)
        assert counted() == [total, total, int((errors <= 3).sum())]
        page.locator("#threshold").fill("1")
        assert counted() == [total, total, int((errors <= 1).sum())]
        page.locator("#ratio").fill("0.8")
        kept = matches[:, 5] < 0.8
        assert counted() == [int(kept.sum()), total, int((kept & (errors <= 1)).sum())]
        page.locator("#swipe").fill("25")
        assert "75%" in page.locator("#warp").get_attribute("style")
        page.click("#flicker")  # motion is to be reduced: one image at a press
        assert page.inner_text("#shown") == Path(result.image0.name).name
        page.tap("#stage1")
        page.wait_for_timeout(60)
        assert "the point" in page.locator("#stage1").get_attribute("aria-label")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not found.errors
        assert not found.requests


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_axe_finds_nothing_serious(browser: Any, page_file: Path, width: int, dark: bool) -> None:
    with opened(browser, page_file, width, dark=dark) as found:
        found.page.check("input[value=layer]")
        assert not serious(axe_findings(found.page))


def test_a_refusal_is_told_and_its_matches_are_drawn(
    browser: Any, maps: list[PageMap], result: MatchResult, tmp_path: Path
) -> None:
    refused = replace(result, geometry=geomatch.types.EstimationFailure("no plane agrees with 6 matches"))
    write_page(tmp_path / "p.html", refused, maps[:1], "dift-tiny-dense")
    empty = replace(
        refused, features0=geomatch.Features(np.zeros((0, 2)), np.zeros(0), result.image0.size),
        matches=geomatch.Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32)),
    )  # fmt: skip
    write_page(tmp_path / "empty.html", empty, maps[:1], "dift-tiny-dense")
    with opened(browser, tmp_path / "p.html") as found:
        assert "no plane agrees with 6 matches" in found.page.inner_text("#reason")
        assert found.page.inner_text("#counts").startswith(f"{len(result.matches):,} of")
        assert not found.page.is_visible("#threshold")
        assert not found.page.is_visible("#wipe")
        assert not found.page.is_visible("#maps")
        assert not found.errors
    with opened(browser, tmp_path / "empty.html") as found:
        assert found.page.inner_text("#counts").startswith("0 of 0 matches")
        assert not found.errors


def test_the_command_writes_the_page(
    pair: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("a.png", "b.png"), pair, strict=True):
        write_png(Path(name), reduce_image(image, 160).pixels)
    line = ["show", "a.png", "b.png", "--html", "--maps", "100", "mid_block", "--out", "page"]
    assert main(line) == 0
    content = content_of(tmp_path / "page" / "show.html")
    assert [(one["timestep"], one["layers"]) for one in content["maps"][1:]] == [(100, "mid_block")]
    assert content["images"][1]["name"] == "b.png"
    assert main(line) == 2
    assert "show.html exists already" in capsys.readouterr().err
    for wrong in (
        ["a.png", "--html"],
        ["a.png", "b.png", "b.png", "--html"],
        ["a.png", "--pca", "--maps", "1", "x"],
    ):
        assert main(["show", *wrong]) == 2
    assert main(["show", "a.png", "b.png", "--html", "--maps", "a", "mid_block"]) == 2

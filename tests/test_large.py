"""Large images: tiles that a first, reduced answer pairs."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PILImage
from small_photos import FAST, write

import geomatch
from geomatch import Pipeline, corner_error, large, warp_points
from geomatch.images import Image, ImageFile
from geomatch.pairs import match_pair
from geomatch.synthetic import render_view


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LARGE", 100_000), ("SIDE", 240), ("TILE", 160)):
        monkeypatch.setattr(f"geomatch.large.{name}", value)


@pytest.mark.usefixtures("tiled")
def test_large_images_are_matched_in_tiles(photo0: Image, tmp_path: Path) -> None:
    truth = np.array([[0.98, -0.06, 20.0], [0.05, 1.01, -9.0], [2e-5, 1e-5, 1.0]])
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path, pixels in zip(
        paths, (photo0.pixels, render_view(photo0.pixels, truth, photo0.size)), strict=True
    ):
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb")
    result = geomatch.match(*paths, **FAST)  # type: ignore[arg-type]
    assert isinstance(result.geometry, geomatch.HomographyEstimate)
    assert corner_error(result.geometry.matrix, truth, photo0.size) < 0.2
    assert result.features0.image_size == photo0.size
    assert max(result.image0.size) == 240
    places = warp_points(truth, result.points0)
    assert np.median(np.linalg.norm(places - result.points1, axis=1)) < 1
    assert "tiles" in result.seconds
    assert result.to_dict()["settings"]["image0"]["size"] == list(photo0.size)
    masked = ImageFile(paths[0], ignore_border=150)
    inner = match_pair(Pipeline(**FAST), masked, ImageFile(paths[1]))  # type: ignore[arg-type]
    low, high = inner.points0.min(0), inner.points0.max(0)
    assert (low >= 149.5).all()
    assert (high <= np.array(photo0.size) - 150.5).all()
    files = [ImageFile(path) for path in paths]
    assert [large.are_large(Pipeline(model=model), *files) for model in ("auto", "fundamental")] == [
        True,
        False,
    ]


@pytest.mark.usefixtures("tiled")
def test_masks_of_large_images_are_turned_with_them(photo0: Image, tmp_path: Path) -> None:
    stored = np.ascontiguousarray(np.rot90(photo0.pixels))  # whose columns are the rows of the picture
    tifffile.imwrite(
        tmp_path / "a.tif", stored, tile=(64, 64), photometric="rgb", extratags=[(274, 3, 1, 6, True)]
    )
    mask = np.zeros(stored.shape[:2], np.uint8)
    mask[:320] = 255  # the right half of the picture
    PILImage.fromarray(mask).save(tmp_path / "mask.png")
    file = ImageFile(tmp_path / "a.tif", tmp_path / "mask.png")
    left = photo0.size[0] - 320
    with ExitStack() as stack:
        source = large._opened(stack, file)
        images = source.overview(), source.window(left - 50, 100, 100, 60)
    for image, first in zip(images, (left * 240 // photo0.size[0], 50), strict=True):
        assert image.mask is not None
        assert image.mask[:, first:].all()
        assert not image.mask[:, : first - 1].any()


@pytest.mark.usefixtures("tiled")
def test_large_images_that_have_nothing_in_common(photo0: Image, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, photo0.pixels.shape, np.uint8)
    result = geomatch.match(
        write(tmp_path / "a.png", photo0.pixels), write(tmp_path / "b.png", noise), **FAST
    )  # type: ignore[arg-type]
    assert not result.geometry
    assert result.geometry.reason


@pytest.mark.parametrize(("zoom", "some"), [(50.0, True), (1.0, True), (0.02, False)])
def test_tiles_of_a_large_image_and_one_of_any_size(zoom: float, some: bool) -> None:
    small, big = (120, 100), (6000, 5000)
    size0 = small if zoom > 1 else big
    size1 = big if zoom > 1 else (int(6000 * zoom), int(5000 * zoom))
    boxes = large._boxes(np.diag([zoom, zoom, 1.0]), size0, size1, 30.0)
    assert bool(boxes) == some
    assert len(boxes) <= large.MOST_TILES
    for left, top, width, height in (box for box, _ in boxes):
        assert min(left, top) >= 0
        assert (left + width, top + height) <= size0

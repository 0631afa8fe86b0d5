"""Image files in windows at full depth, warped, written, and placed on maps."""

import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image as PILImage
from rasterio.shutil import copy as copy_raster
from skimage.transform import warp

from geomatch import Conversion, GeomatchError, ImageError, load_image
from geomatch.geometry import warp_points
from geomatch.images import reduce_image
from geomatch.images.loading import raw_size
from geomatch.rasters import reading
from geomatch.rasters.maps import Georeference, georeference_of, geotiff_tags
from geomatch.rasters.reading import Raster, open_raster
from geomatch.rasters.warping import Block, canvas_of, through, warp_blocks
from geomatch.rasters.writing import suffix_for, write_raster

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
SMOOTH = cv2.normalize(cv2.GaussianBlur(NOISE, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
TURN = np.array([[0.9, 0.2, 5.3], [-0.15, 1.05, 8.7], [2e-4, 1e-4, 1]])
UTM = rasterio.CRS.from_epsg(32633).to_wkt()
GRID = np.array([[0.5, 0.01, 400000.25], [0.02, -0.5, 5.6e6], [0, 0, 1]])


def of_type(dtype: str, picture: NDArray[np.uint8] = SMOOTH) -> NDArray[Any]:
    """The same picture in another type, in its whole range."""
    if dtype.startswith("float"):
        return (picture / 255).astype(dtype)
    return picture.astype(dtype) * np.dtype(dtype).type(np.iinfo(dtype).max // 255)


def saved(path: Path, array: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "rgb", "metadata": None} | options)
    return path


def by_gdal(path: Path, array: NDArray[Any], **options: Any) -> Path:
    """Written by GDAL at a place on a map, without which rasterio warns."""
    profile = {"driver": "GTiff", "transform": rasterio.Affine(1, 0, 5, 0, -1, 9)} | options
    height, width, count = array.shape
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype=array.dtype, **profile
    ) as file:
        file.write(np.moveaxis(array, 2, 0))
    return path


def check_windows(path: Path, apply_exif: bool = True, near: int = 1) -> Raster:
    """Windows, the values and the overview are those of `load_image`."""
    whole = load_image(path, apply_exif=apply_exif)
    with open_raster(path, apply_exif=apply_exif) as raster:
        assert raster.size == whole.size
        values, opacity = raster.read(0, 0, *raster.size)
        assert values.shape == (*whole.size[::-1], raster.bands)
        assert values.dtype == raster.dtype
        for left, top, width, height in ((0, 0, *raster.size), (17, 5, 30, 40), (3, 11, 1, 1)):
            cut = slice(top, top + height), slice(left, left + width)
            np.testing.assert_array_equal(raster.window(left, top, width, height).pixels, whole.pixels[cut])
            part, clear = raster.read(left, top, width, height)
            np.testing.assert_array_equal(part, values[cut])
            if opacity is not None and clear is not None:
                np.testing.assert_array_equal(clear, opacity[cut])
        small, expected = raster.overview(25), reduce_image(whole, 25)
        assert small.size == expected.size
        assert np.abs(small.pixels.astype(int) - expected.pixels).max() <= near
    return raster


LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "deflate": {"compression": "deflate", "predictor": True, "rowsperstrip": 9},
    "deflate in tiles": {"compression": "deflate", "tile": (32, 16)},
    "planes": {"planarconfig": "separate", "tile": (16, 16), "compression": "deflate"},
    "BigTIFF": {"bigtiff": True, "byteorder": ">", "rowsperstrip": 5},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_windows_of_every_layout_are_slices_of_the_whole(tmp_path: Path, dtype: str, layout: str) -> None:
    options, values = dict(LAYOUTS[layout]), of_type(dtype)
    if dtype == "float32":
        options.pop("predictor", None)
    stored = np.moveaxis(values, 2, 0) if layout == "planes" else values
    raster = check_windows(saved(tmp_path / "x.tif", stored, **options))
    assert (raster.dtype, raster.bands, raster.opacity) == (values.dtype, 3, False)
    with open_raster(tmp_path / "x.tif") as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 80, 60)[0], values)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 32, "blockysize": 32},
        {"compress": "jpeg"},
        {"compress": "jpeg", "interleave": "band"},
        {"compress": "lzw", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "zstd"},
        {"SPARSE_OK": True, "tiled": True, "blockxsize": 16, "blockysize": 16},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_windows_of_what_gdal_writes(tmp_path: Path, options: dict[str, Any]) -> None:
    picture = SMOOTH.copy()
    picture[16:32, 32:48] = 0  # a tile that is left out
    check_windows(by_gdal(tmp_path / "x.tif", picture, **options))


def test_other_formats_keep_their_depth(tmp_path: Path) -> None:
    deep = of_type("uint16")
    opacity = np.full((60, 80, 1), 65535, np.uint16)
    opacity[:10] = 0
    for name, array, kind, alpha in (
        ("a.png", SMOOTH, "uint8", False),
        ("b.png", deep, "uint16", False),
        ("c.png", np.dstack([deep, opacity]), "uint16", True),
        ("d.png", deep[:, :, :1], "uint16", False),
        ("e.jpg", SMOOTH, "uint8", False),
    ):
        order = [2, 1, 0, 3][: array.shape[2]] if array.shape[2] > 1 else [0]
        cv2.imwrite(str(tmp_path / name), array[:, :, order])
        raster = check_windows(tmp_path / name)
        assert (raster.dtype, raster.bands, raster.opacity) == (kind, 3 - 2 * (name[0] == "d"), alpha)
        if alpha:
            with open_raster(tmp_path / name) as raster:
                np.testing.assert_array_equal(
                    raster.read(0, 5, 80, 10)[1], np.repeat([[0], [1]], 5, 0) + np.zeros((10, 80))
                )
    palette = PILImage.fromarray(SMOOTH).quantize(16)
    for name in ("p.png", "p.tif"):
        palette.save(tmp_path / name)
        assert check_windows(tmp_path / name).bands == 3
    PILImage.fromarray(SMOOTH[:, :, 0] > 100).save(tmp_path / "bits.tif")
    assert check_windows(tmp_path / "bits.tif").bands == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_windows(tmp_path: Path, orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    PILImage.fromarray(SMOOTH).save(tmp_path / "x.png", exif=exif)
    palette = PILImage.fromarray(SMOOTH).quantize(16)
    palette.save(tmp_path / "p.tif", tiffinfo={274: orientation})
    for tile in ((16, 32), None):
        tags = [(274, 3, 1, orientation, True)]
        saved(tmp_path / f"{tile}.tif", of_type("uint16"), tile=tile, extratags=tags)
    PILImage.fromarray(SMOOTH[:, :, 0]).save(tmp_path / "g.tif", tiffinfo={274: orientation})
    grey = load_image(tmp_path / "g.tif", apply_exif=False).pixels  # Pillow would map it wrongly
    np.testing.assert_array_equal(grey[..., 1], SMOOTH[:, :, 0])
    for name in ("x.png", "p.tif", "g.tif", "(16, 32).tif", "None.tif"):
        check_windows(tmp_path / name, apply_exif=False)
        check_windows(tmp_path / name)
        with open_raster(tmp_path / name) as raster, open_raster(tmp_path / name, apply_exif=False) as raw:
            assert raster.orientation == orientation
            x, y = raster.stored(np.array([[13, 21]]))[0].astype(int).tolist()
            np.testing.assert_array_equal(raster.read(13, 21, 1, 1)[0], raw.read(x, y, 1, 1)[0])


def test_opacity_and_bands(tmp_path: Path) -> None:
    path, deep = tmp_path / "x.tif", of_type("uint16")
    alpha = np.zeros((60, 80, 1), np.uint16)
    alpha[20:], alpha[40:] = 30000, 65535
    saved(path, np.dstack([deep, alpha]), extrasamples=["unassalpha"], tile=(16, 16))
    assert check_windows(path, near=2).opacity
    dimmed = np.rint(deep * (alpha / 65535)).astype(np.uint16)
    saved(path, np.dstack([dimmed, alpha]), extrasamples=["assocalpha"], tile=(16, 16))
    with open_raster(path) as raster:
        values, opacity = raster.read(0, 0, 80, 60)
        assert opacity is not None
        np.testing.assert_allclose(opacity, alpha[:, :, 0] / 65535, atol=1e-6)
        assert np.abs(values[20:].astype(int) - deep[20:]).max() <= 2
    saved(path, deep[:, :, 0], photometric="miniswhite")
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 80, 60)[0][..., 0], 65535 - deep[:, :, 0])
    floats = of_type("float32")
    floats[:5, :, 1] = np.nan
    check_opacity = np.arange(60)[:, None] >= 5
    with open_raster(saved(path, floats)) as raster:
        opacity = raster.read(0, 0, 80, 60)[1]
        assert opacity is not None
        np.testing.assert_array_equal(opacity, np.broadcast_to(check_opacity, (60, 80)))
        assert raster.read(0, 5, 80, 55)[1] is None
    five = np.dstack([deep, deep[:, :, :2]])
    by_gdal(path, five, nodata=7)
    with open_raster(path) as raster:
        assert (raster.bands, raster.opacity) == (5, True)
        np.testing.assert_array_equal(raster.read(1, 2, 30, 20)[0], five[2:22, 1:31])
        near = Conversion(bands=(4, 2, 1))
        np.testing.assert_array_equal(
            raster.window(1, 2, 30, 20, near).pixels, load_image(path, conversion=near).pixels[2:22, 1:31]
        )
        with pytest.raises(ImageError, match="5 bands"):
            raster.overview(50)


def test_masks_of_gdal_are_opacity(tmp_path: Path) -> None:
    mask = np.full((60, 80), 255, np.uint8)
    mask[:, :30] = 0
    path = tmp_path / "x.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        by_gdal(path, SMOOTH, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
        with rasterio.open(path, "r+") as file:
            file.write_mask(mask)
    with open_raster(path) as raster:
        assert raster.opacity
        opacity = raster.read(10, 10, 40, 40)[1]
        assert opacity is not None
        np.testing.assert_array_equal(opacity, mask[10:50, 10:50] / 255)
        assert "1800 pixels without a value filled" in raster.window(0, 0, 80, 60).note
        assert (raster.window(0, 0, 20, 20).pixels == 255).all()  # nothing there
    np.testing.assert_array_equal(load_image(path).pixels[:, 30:], SMOOTH[:, 30:])


def test_overviews_come_from_the_smallest_copy_that_is_large_enough(tmp_path: Path) -> None:
    picture = cv2.resize(SMOOTH, (640, 480), interpolation=cv2.INTER_CUBIC)
    plain, path = by_gdal(tmp_path / "plain.tif", picture, compress="deflate"), tmp_path / "cog.tif"
    copy_raster(plain, path, driver="COG", blocksize=128, overview_resampling="average")
    check_windows(path, near=2)
    with tifffile.TiffFile(path, mode="r+b") as file:  # another picture in the copy of half the size
        half = file.pages[1]
        assert half.shape == (240, 320, 3)
        half.tags["TileByteCounts"].overwrite([0] * len(half.databytecounts))
    with open_raster(path) as raster:
        assert (raster.overview(320).pixels == 0).all()
        assert raster.overview(321).pixels.any()


def test_the_stretch_is_decided_once_for_the_file(tmp_path: Path) -> None:
    deep = 3000 + 4 * SMOOTH.astype(np.uint16)
    deep[30:] += 500
    path = saved(tmp_path / "x.tif", deep, tile=(16, 16))
    whole = load_image(path)
    with open_raster(path) as raster:
        lower = raster.window(0, 30, 80, 30)
        np.testing.assert_array_equal(lower.pixels, whole.pixels[30:])
        assert lower.note == raster.window(0, 0, 80, 30).note == raster.overview(30).note == whole.note
        assert "stretched" in whole.note


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.tif", SMOOTH, tile=(16, 16), compression="deflate")
    data = path.read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:-100])
    with pytest.raises(ImageError, match=r"cut.tif: not a readable image, damaged or truncated"):
        open_raster(tmp_path / "cut.tif")
    width = struct.pack("<HHII", 256, 4, 1, 80)
    assert data.count(width) == 1
    for entry in (width[:4] + b"\2" + width[5:], width[:8] + bytes(4)):  # two numbers, none
        (tmp_path / "bad.tif").write_bytes(data.replace(width, entry))
        with pytest.raises(ImageError, match=r"bad.tif: not a readable image, damaged or truncated"):
            raw_size(tmp_path / "bad.tif")
    saved(tmp_path / "cmyk.tif", np.zeros((8, 8, 4), np.uint16), photometric="separated")
    with pytest.raises(ImageError, match="colour mode SEPARATED"):
        open_raster(tmp_path / "cmyk.tif")
    with open_raster(path) as raster, pytest.raises(ValueError, match="80 x 60"):
        raster.read(60, 0, 30, 10)
    PILImage.fromarray(SMOOTH).save(tmp_path / "x.png")
    monkeypatch.setattr(reading, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="gdal_translate -co TILED=YES"):
        open_raster(tmp_path / "x.png")
    with open_raster(path) as raster:
        np.testing.assert_array_equal(raster.read(0, 0, 80, 60)[0], SMOOTH)


def whole_of(blocks: Iterable[Block], size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    opacity = np.full(size[::-1], np.nan, np.float32)
    values: Any = None
    for block in blocks:
        height, width = block.opacity.shape
        values = (
            np.zeros((*size[::-1], block.values.shape[2]), block.values.dtype) if values is None else values
        )
        cut = slice(block.top, block.top + height), slice(block.left, block.left + width)
        values[cut], opacity[cut] = block.values, block.opacity
    assert (values[opacity == 0] == 0).all()
    return values, opacity


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_warps_are_exact_and_those_of_scikit_image(tmp_path: Path, dtype: str) -> None:
    values = of_type(dtype, NOISE)
    path = saved(tmp_path / "x.tif", values, tile=(16, 16))
    tolerance = 0.51 if np.dtype(dtype).kind in "ui" else 2e-7
    with open_raster(path) as raster:
        for kind, order in (("nearest", 0), ("linear", 1), ("cubic", 3)):
            same, opacity = whole_of(warp_blocks(raster, lambda p: p, (80, 60), kind, block=32), (80, 60))  # type: ignore[arg-type]
            np.testing.assert_array_equal(same, values)
            assert (opacity == 1).all()
            moved, _ = whole_of(warp_blocks(raster, lambda p: p, (30, 20), kind, (7, 9)), (30, 20))  # type: ignore[arg-type]
            np.testing.assert_array_equal(moved, values[9:29, 7:37])
            size = 90, 70
            blocks = warp_blocks(raster, through(TURN, raster.size), size, kind, block=32)  # type: ignore[arg-type]
            warped, opacity = whole_of(blocks, size)
            grid = np.stack(np.meshgrid(np.arange(90.0), np.arange(70.0)), -1).reshape(-1, 2)
            x, y = warp_points(TURN, grid).T.reshape(2, 70, 90)
            inside = (x >= -0.5) & (x <= 79.5) & (y >= -0.5) & (y <= 59.5)
            np.testing.assert_array_equal(opacity, inside)
            # order 3 of `warp` is Keys's kernel for matrices alone, whose places have 32 bits there
            how = TURN if order == 3 else through(TURN, raster.size)
            expected = warp(
                values.astype(float), how, output_shape=(70, 90), order=order, mode="edge", clip=False
            )
            if np.dtype(dtype).kind in "ui":
                expected = expected.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
            rough = 2e-4 * values.max() if order == 3 and values.itemsize > 2 else 0
            assert np.abs(warped - expected)[inside].max() <= tolerance + rough


def test_transparent_pixels_do_not_colour_others(tmp_path: Path) -> None:
    values = np.full((40, 40, 4), 60000, np.uint16)
    values[:, :20, :3], values[:, :20, 3] = 1, 0  # black, but transparent
    values[:, 20:, 3] = 65535
    path = saved(tmp_path / "x.tif", values, extrasamples=["unassalpha"])
    with open_raster(path) as raster:
        for send in (lambda p: p + 0.25, lambda p: p * (2.5, 1)):
            warped, opacity = whole_of(warp_blocks(raster, send, (40, 40)), (40, 40))
            assert (warped[opacity > 0] == 60000).all()
            assert ((opacity > 0) & (opacity < 1)).any()
        row = whole_of(warp_blocks(raster, lambda p: np.add(p, (0.25, 0)), (40, 40)), (40, 40))[1][5]
        np.testing.assert_allclose(row[[18, 19, 20, 39]], [0, 0.25, 1, 1])
    deep = of_type("float32")
    deep[:, 40:] = np.nan
    with open_raster(saved(path, deep)) as raster:
        warped, opacity = whole_of(warp_blocks(raster, lambda p: p + 0.5, (80, 60), "cubic"), (80, 60))
        assert np.isfinite(warped).all()
        assert opacity[10, 20] == 1
        assert (opacity[:, 42:] == 0).all()


def test_nothing_is_seen_beyond_the_horizon(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", SMOOTH)
    steep = np.array([[1.0, 0, 0], [0, 1, 0], [0.02, 0, 1]])  # x = -50 goes to infinity
    with open_raster(path) as raster:
        for sign in (1, -1):
            send = through(sign * steep, raster.size)
            assert np.isnan(send(np.array([[-51.0, 0.0]]))).all()
            blocks = warp_blocks(raster, send, (400, 100), offset=(-300, -20), block=64)
            opacity = whole_of(blocks, (400, 100))[1]
            assert (opacity[:, :250] == 0).all()
            assert opacity[20:70, 300:].all()


def test_what_is_reduced_is_averaged(tmp_path: Path) -> None:
    checks = np.indices((240, 320)).sum(0) % 2 * 60000
    path = saved(tmp_path / "x.tif", checks.astype(np.uint16), photometric="minisblack")
    with open_raster(path) as raster:
        for factor in (2, 4):  # means over the very pixels that lie in one
            size = 320 // factor, 240 // factor
            send = lambda p, f=factor: (p + 0.5) * f - 0.5  # noqa: E731
            small, opacity = whole_of(warp_blocks(raster, send, size, block=50), size)
            assert (small == 30000).all()
            assert (opacity == 1).all()
        for interpolation in ("linear", "cubic"):
            small = whole_of(warp_blocks(raster, lambda p: p * 5.3 + 4, (59, 44), interpolation), (59, 44))[0]  # type: ignore[arg-type]
            assert np.abs(small.astype(int) - 30000).max() < 2500
        labels = whole_of(warp_blocks(raster, lambda p: p * 5, (60, 44), "nearest"), (60, 44))[0]
        np.testing.assert_array_equal(labels[:, :, 0], checks[:220:5, :300:5])


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.tif", of_type("uint16"), tile=(16, 16))
    with open_raster(path) as raster:

        def bent(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return points + 3 * np.sin(points[:, ::-1] / 40)

        expected, opacity = whole_of(warp_blocks(raster, bent, (80, 60)), (80, 60))
        monkeypatch.setattr("geomatch.rasters.warping._MOST_VALUES", 300)
        parts, seen = whole_of(warp_blocks(raster, bent, (80, 60), block=33), (80, 60))
        np.testing.assert_array_equal(parts, expected)
        np.testing.assert_array_equal(seen, opacity)
        with pytest.raises(ValueError, match="nearest, linear, cubic"):
            next(warp_blocks(raster, bent, (80, 60), "sinc"))  # type: ignore[arg-type]


def test_a_union_canvas_has_room_for_all(tmp_path: Path) -> None:
    size = 80, 60
    places = {"left": (-30.5, 4), "right": (25.25, 0), "up": (3, -20), "down": (0, 33), "within": (0, 0)}
    others = [(size, lambda p, s=shift: p + s) for shift in places.values()]
    assert canvas_of(size, others, "reference") == (size, (0, 0))
    canvas, offset = canvas_of(size, others, "union")
    assert (canvas, offset) == ((31 + 80 + 26, 20 + 60 + 33), (-31, -20))
    path = saved(tmp_path / "x.tif", SMOOTH)
    with open_raster(path) as raster:
        for x, y in places.values():
            send = lambda p, s=(x, y): p - s  # noqa: E731
            opacity = whole_of(warp_blocks(raster, send, canvas, offset=offset), canvas)[1]
            assert abs(opacity.sum() - 80 * 60) <= 61  # half a pixel of a side may be a whole one
        back = through(np.linalg.inv(TURN), size)
        canvas, offset = canvas_of(size, [(size, back)], "union")
        on_reference = whole_of(warp_blocks(raster, through(TURN, size), canvas, offset=offset), canvas)[1]
        around = np.pad(on_reference, 1)
        wide = (canvas[0] + 80, canvas[1] + 80)
        more = whole_of(
            warp_blocks(raster, through(TURN, size), wide, offset=(offset[0] - 40, offset[1] - 40)), wide
        )[1]
        assert more.sum() == around.sum() > 0
    with pytest.raises(GeomatchError, match="image 2, warped, makes the union canvas more than 16 times"):
        canvas_of(size, [(size, back), (size, lambda p: p * 5)], "union")
    with pytest.raises(GeomatchError, match="--canvas reference"):
        canvas_of(size, [(size, through(np.array([[1.0, 0, 0], [0, 1, 0], [0.02, 0, -1]]), size))], "union")


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_pictures_come_back_as_they_were_written(tmp_path: Path, dtype: str, bands: int) -> None:
    size = 600, 540
    values = np.zeros((540, 600, bands), dtype)
    for top, left in ((0, 0), (440, 470)):  # across the edges of blocks
        noise = RNG.integers(0, 256, (80, 100, bands), dtype=np.uint8)
        values[top : top + 80, left : left + 100] = of_type(dtype, noise)
    opacity = np.zeros((540, 600), np.float32)
    opacity[:80, :100], opacity[:80, 50:100], opacity[440:520, 470:570] = 1, np.float32(128 / 255), 1
    blocks = [
        Block(
            left, top, values[top : top + 512, left : left + 512], opacity[top : top + 512, left : left + 512]
        )
        for top in (0, 512)
        for left in (0, 512)
    ]
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    alpha = opacity * most if dtype == "float32" else np.rint(opacity.astype(float) * most)
    suffix = suffix_for(dtype, bands, size)
    assert suffix == (".png" if bands in (1, 3) and dtype.startswith("uint") else ".tif")
    for name in {f"x{suffix}", "x.tif"}:
        write_raster(tmp_path / name, blocks, size, bands, dtype)
        with open_raster(tmp_path / name) as raster:
            assert (raster.size, raster.dtype, raster.opacity) == (size, dtype, True)
            back, seen = raster.read(0, 0, *size)
            np.testing.assert_array_equal(back if name == "x.tif" else back[:, :, :bands], values)
            np.testing.assert_allclose(seen, alpha / most, atol=1e-7)
        if name == "x.png":
            with PILImage.open(tmp_path / name) as picture:
                assert picture.mode == "RGBA"
                if dtype == "uint8":
                    colours = np.broadcast_to(values, (540, 600, 3))
                    np.testing.assert_array_equal(np.asarray(picture), np.dstack([colours, alpha]))
    stored = tifffile.imread(tmp_path / "x.tif")
    np.testing.assert_array_equal(stored, np.dstack([values, alpha]).astype(dtype))
    if bands in (1, 3):
        assert load_image(tmp_path / "x.tif").size == size


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    block = Block(0, 0, SMOOTH, np.ones((60, 80), np.float32))

    def breaking() -> Iterable[Block]:
        yield block
        raise OSError("the disk is gone")

    for path in (tmp_path / "x.png", tmp_path / "x.tif"):
        with pytest.raises(OSError, match="the disk is gone"):
            write_raster(path, breaking(), (600, 60), 3, np.uint8)
    for name, dtype in (("x.png", np.float32), ("x.jpg", np.uint8)):
        with pytest.raises(GeomatchError, match=r"\.tif"):
            write_raster(tmp_path / name, [block], (80, 60), 3, dtype)
    assert not list(tmp_path.iterdir())


def test_a_warped_geotiff_lies_in_the_grid_of_the_reference(tmp_path: Path) -> None:
    path, out = tmp_path / "x.tif", tmp_path / "out.tif"
    by_gdal(path, of_type("uint16"), crs=UTM, transform=rasterio.Affine(*GRID[:2].ravel()))
    with open_raster(path) as raster:
        found = georeference_of(raster)
        assert found is not None
        np.testing.assert_allclose(found.matrix, GRID, rtol=1e-12)
        canvas, offset = (100, 90), (-7, -11)
        write_raster(
            out,
            warp_blocks(raster, lambda p: p, canvas, offset=offset),
            canvas,
            3,
            np.uint16,
            found.shifted(offset),
        )
        with pytest.raises(GeomatchError, match="PNG holds no georeference"):
            write_raster(tmp_path / "x.png", [], canvas, 3, np.uint16, found)
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32633
        assert file.colorinterp[3].name == "alpha"
        for x, y in ((0, 0), (33, 20)):
            np.testing.assert_allclose(
                file.xy(y + 11, x + 7), warp_points(GRID, [[x + 0.5, y + 0.5]])[0], atol=1e-6
            )
            np.testing.assert_array_equal(file.read()[:3, y + 11, x + 7], of_type("uint16")[y, x])
    assert load_image(out).size == canvas
    saved(path, SMOOTH)
    with open_raster(path) as raster:
        assert georeference_of(raster) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_map_lies_where_its_pixels_do(tmp_path: Path, orientation: int) -> None:
    tags = [(274, 3, 1, orientation, True), *geotiff_tags(Georeference(UTM, GRID))]
    saved(tmp_path / "x.tif", SMOOTH, extratags=tags)
    points = RNG.random((9, 2)) * 50
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.orientation == orientation
        found = georeference_of(raster)
        assert found is not None
        there = warp_points(GRID, raster.stored(points) + 0.5)
    np.testing.assert_allclose(warp_points(found.matrix, points + 0.5), there, atol=1e-6)


LARGE = """
import sys, numpy as np, tifffile
from geomatch.rasters.reading import open_raster
from geomatch.rasters.warping import through, warp_blocks
from geomatch.rasters.writing import write_raster
size = 12_000, 9_000
def tiles():
    tile = np.add.outer(np.arange(256), np.arange(256))[:, :, None] // [2, 3, 4]
    for n in range(47 * 36):
        yield (tile + n % 30).astype(np.uint8)
options = {"dtype": np.uint8, "tile": (256, 256), "compression": "zlib", "photometric": "rgb"}
tifffile.imwrite(sys.argv[1], tiles(), shape=(*size[::-1], 3), **options)
with open_raster(sys.argv[1]) as raster:
    assert raster.overview(2000).size == (2000, 1500)
    for x in range(0, 12_000, 3000):
        assert raster.window(x, 8000, 640, 640).size == (640, 640)
    matrix = np.array([[0.995, -0.1, 200], [0.1, 0.995, -100], [1e-6, 0, 1]])
    write_raster(sys.argv[2], warp_blocks(raster, through(matrix, size), size), size, 3, np.uint8)
# not what resource counts, which begins with the parent's peak
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


@pytest.mark.slow
def test_a_large_picture_is_read_warped_and_written_within_a_gigabyte(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "x.tif", tmp_path / "y.tif"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 1024

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from fuzz_images import fuzz
from numpy.typing import NDArray
from PIL import EpsImagePlugin
from PIL import Image as PILImage

import geomatch
from geomatch import Conversion, Image, ImageError, load_image
from geomatch.benchmarks.tasks.temporal.data import read_mask
from geomatch.cli import main
from geomatch.collection.folder import position
from geomatch.editing.blending import load_edit
from geomatch.images import MAX_PIXELS, check_image_file, raw_size, reduce_image
from geomatch.video.masks import load_mask

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def test_arrays_files_and_pil_images_agree(tmp_path: Path) -> None:
    PILImage.fromarray(RGB).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    for source in (RGB, path, str(path), PILImage.fromarray(RGB), Image(RGB, "x")):
        loaded = load_image(source)
        np.testing.assert_array_equal(loaded.pixels, RGB)
        assert loaded.size == (32, 24)
    assert load_image(tmp_path / "a.png").name == str(tmp_path / "a.png")
    array = RGB.copy()
    image = load_image(array)
    array[:] = 0  # does not change the image
    np.testing.assert_array_equal(image.pixels, RGB)


def test_grey_files_become_rgb_and_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "bmp", "tif", "ppm", "webp"):
        PILImage.fromarray(np.full((16, 16), 90, np.uint8)).save(tmp_path / f"a.{suffix}")
        assert (np.abs(load_image(tmp_path / f"a.{suffix}").pixels.astype(int) - 90) <= 1).all()
    deep = GREY.astype(np.uint16) * 257
    PILImage.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(load_image(tmp_path / "deep.png").pixels[:, :, 1], GREY)
    np.testing.assert_array_equal(load_image(deep).pixels[:, :, 2], GREY)
    np.testing.assert_array_equal(load_image(RGB / 255).pixels, RGB)
    assert load_image(np.ones((2, 2), np.bool_)).pixels.max() == 255


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[:2, :, 3] = 255  # black above, nothing below
    PILImage.fromarray(layer).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", layer):
        pixels = load_image(source).pixels
        assert (pixels[:2] == 0).all()
        assert (pixels[2:] == 255).all()


def test_palettes_are_expanded(tmp_path: Path) -> None:
    picture = PILImage.fromarray(RGB).quantize(16)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(load_image(tmp_path / "p.png").pixels, np.asarray(picture.convert("RGB")))
    picture.info["transparency"] = 0
    picture.save(tmp_path / "t.png", transparency=0)
    expected = load_image(picture.convert("RGBA")).pixels
    np.testing.assert_array_equal(load_image(tmp_path / "t.png").pixels, expected)


def test_exif_orientation_is_applied_and_can_be_left(tmp_path: Path) -> None:
    picture = PILImage.fromarray(RGB)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png").pixels, np.rot90(RGB, -1))
    raw = load_image(tmp_path / "turned.png", apply_exif=False)
    np.testing.assert_array_equal(raw.pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_of_a_turned_tiff_are_those_in_the_file(tmp_path: Path, orientation: int) -> None:
    """Pillow turns TIFFs on loading, unlike other formats, and unlike COLMAP."""
    compression = "tiff_lzw" if orientation % 2 else None
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    PILImage.fromarray(RGB).save(tmp_path / "x.tif", exif=exif, compression=compression)
    raw = load_image(tmp_path / "x.tif", apply_exif=False)
    np.testing.assert_array_equal(raw.pixels, RGB)
    assert raw_size(tmp_path / "x.tif") == (RGB.shape[1], RGB.shape[0])
    PILImage.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    turned = load_image(tmp_path / "x.png")
    np.testing.assert_array_equal(load_image(tmp_path / "x.tif").pixels, turned.pixels)


def broken_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, and what the error says of each."""
    picture = PILImage.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    picture.save(folder / "whole.jpg", quality=95)
    data = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image at all\n" * 20)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    frames = [PILImage.fromarray(np.full((8, 8, 3), v, np.uint8)) for v in (0, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    PILImage.new("1", (9500, 9500)).save(folder / "huge.png")
    (folder / "folder.png").mkdir()
    return {
        "truncated.jpg": "truncated",
        "empty.png": "empty",
        "text.png": "not an image",
        "cmyk.jpg": "CMYK",
        "moving.gif": "animated",
        "huge.png": "million pixels",
        "folder.png": "folder",
        "missing.png": "no such file",
    }


def test_every_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(ImageError, match=words) as caught:
            load_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with PILImage.open(tmp_path / "truncated.jpg") as picture, pytest.raises(ImageError, match="truncated"):
        load_image(picture)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("x" * 300 + ".png")


def test_what_is_no_image_is_refused() -> None:
    for array in (
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.full((4, 4), 300.0),  # nothing to see
        np.full((4, 4), np.nan),
        np.arange(16).reshape(4, 4),  # 8 or 16 bit? nobody can tell
        np.zeros((4, 4), np.complex64),
        np.array([["a"]]),
    ):
        with pytest.raises(ImageError):
            load_image(array)
    with pytest.raises(ImageError, match="cannot use int"):
        load_image(3)  # type: ignore[arg-type]
    wide = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1, MAX_PIXELS + 1), (0, 0))
    with pytest.raises(ImageError, match="million pixels"):
        load_image(wide)
    closed = PILImage.fromarray(RGB)
    closed.close()
    with pytest.raises(ImageError, match="PIL image"):
        load_image(closed)


def test_reducing_bounds_the_long_side() -> None:
    image = load_image(np.zeros((300, 1000, 3), np.uint8))
    assert reduce_image(image, 100).size == (100, 30)
    assert reduce_image(image, 1000) is image
    assert reduce_image(image, None) is image


def saved(path: Path, array: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def stored(path: Path, **options: Any) -> NDArray[np.uint8]:
    return load_image(path, **options).pixels


LAYOUTS = {
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 16)},
    "deflate": {"compression": "deflate", "predictor": True, "rowsperstrip": 5},
    "tiles, deflate": {"compression": "deflate", "tile": (16, 32)},
    "big-endian": {"byteorder": ">", "compression": "deflate", "predictor": True},
    "BigTIFF": {"bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64"])
def test_tiffs_of_every_layout_hold_the_same_picture(tmp_path: Path, dtype: str, layout: str) -> None:
    """Of 8 bits by Pillow, of others by our own reader of strips and tiles; tifffile wrote them."""
    options = dict(LAYOUTS[layout])
    if dtype.startswith("float"):
        options.pop("predictor", None)
        values = (RGB / 255).astype(dtype)
    else:
        values = RGB * np.dtype(dtype).type(np.iinfo(dtype).max // 255)
    path, grey = tmp_path / "x.tif", np.repeat(GREY[:, :, None], 3, 2)
    np.testing.assert_array_equal(stored(saved(path, values, photometric="rgb", **options)), RGB)
    planes = np.moveaxis(values, 2, 0)
    saved(path, planes, photometric="rgb", planarconfig="separate", **options)
    np.testing.assert_array_equal(stored(path), RGB)
    assert raw_size(path) == (32, 24)
    for photometric, expected in (("minisblack", grey), ("miniswhite", 255 - grey)):
        saved(path, values[:, :, 0], photometric=photometric, **options)
        np.testing.assert_array_equal(stored(path), expected)


def test_compressions_that_tifffile_alone_cannot_read(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257
    for number in (5, 8, 32773):  # LZW and deflate with differences along the row, PackBits
        path = tmp_path / f"{number}.tif"
        code = cv2.imencode(".tif", deep[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, number])[1]
        path.write_bytes(code.tobytes())
        np.testing.assert_array_equal(stored(path), RGB)
    floats = (GREY / 255).astype(np.float32)
    for predictor in (1, 2, 3):
        PILImage.fromarray(floats).save(path, compression="tiff_lzw", tiffinfo={317: predictor})
        np.testing.assert_array_equal(stored(path)[..., 1], GREY)
    PILImage.fromarray(RGB).save(path, compression="jpeg", quality=100)
    assert np.abs(stored(path).astype(int) - RGB).mean() < 10
    twelve = (GREY.astype(np.uint16) << 4).astype(">u2").view(np.uint8).reshape(24, 32, 2)
    bits = np.unpackbits(twelve, axis=2)[..., 4:]
    saved(path, np.packbits(bits.reshape(24, -1), axis=1), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(32)
        tif.pages[0].tags["BitsPerSample"].overwrite(12)
    expected = np.round(GREY * (16 / 257))
    np.testing.assert_array_equal(stored(path, conversion=Conversion("never"))[..., 0], expected)


def test_colours_of_sixteen_bits_keep_their_lower_bytes(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of such PNGs and PPMs: of twelve bits four would be left."""
    deep = RGB.astype(np.uint16) << 4
    for suffix in ("png", "ppm"):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(cv2.imencode(f".{suffix}", deep[..., ::-1])[1].tobytes())
        image = load_image(path)
        assert "stretched" in image.note
        assert np.abs(image.pixels.astype(int) - RGB).max() <= 2
    layer = np.dstack([deep, np.full_like(GREY, 255).astype(np.uint16) * 257])
    layer[:3, :, 3] = 0
    path.write_bytes(cv2.imencode(".png", layer[..., [2, 1, 0, 3]])[1].tobytes())
    assert (stored(path)[:3] == 255).all()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated"):
        load_image(path)


def test_values_that_use_less_than_a_quarter_of_their_range_are_stretched() -> None:
    ramp = np.arange(1001).reshape(7, 143)
    for dtype in (np.uint16, np.int16, np.uint32, np.float32, np.float64):
        image = load_image(ramp.astype(dtype) + dtype(300))  # 1000 of 65535, or beyond [0, 1]
        assert image.note == "values from 305 to 1295 stretched to 0 to 255"  # the percentiles 0.5 and 99.5
        expected = np.round(np.clip((ramp - 5) * (255 / 990), 0, 255))
        np.testing.assert_array_equal(image.pixels[..., 0], expected)
    assert "stretched" in load_image(ramp.astype(np.uint16) * np.uint16(16)).note  # 14 bits
    whole = load_image(ramp.astype(np.uint16) * np.uint16(17))  # a little more than a quarter
    assert whole.note == ""
    np.testing.assert_array_equal(whole.pixels[..., 0], np.round(ramp * (17 / 257)))
    dim = ramp / 5000
    assert "0.199 stretched" in load_image(dim).note
    np.testing.assert_array_equal(stored(dim, conversion=Conversion("never"))[..., 0], np.round(dim * 255))
    np.testing.assert_array_equal(load_image((ramp % 50).astype(np.uint8)).pixels[..., 0], ramp % 50)
    always = load_image((ramp % 50).astype(np.uint8), conversion=Conversion("always"))
    assert (always.pixels.max(), always.note) == (255, "values from 0 to 49 stretched to 0 to 255")
    assert load_image(np.full((4, 4), 7, np.uint16)).note == ""  # nothing to stretch
    spots = np.zeros((100, 100), np.uint16)
    spots[::40, ::40] = 900  # fewer than the percentiles see
    assert load_image(spots).pixels.max() == 255
    colours = load_image(np.stack([ramp, ramp + 500, ramp + 1000], 2).astype(np.uint16)).pixels
    assert (colours[..., 2] - colours[..., 0].astype(int)).min() >= 0  # the bands together
    with pytest.raises(ImageError, match=r"must lie in \[0, 1\], got 0 to 1000; --stretch auto"):
        load_image(ramp.astype(float), conversion=Conversion("never"))
    for wrong in ({"stretch": "often"}, {"bands": (1, 2)}, {"bands": (0,)}):
        with pytest.raises(ValueError, match="must be"):
            Conversion(**wrong)


def test_pixels_without_a_value_are_filled_without_edges(tmp_path: Path) -> None:
    """NaN, infinity and GDAL's tag 42113: neither the frame of the data nor a hole becomes a feature."""
    y, x = np.mgrid[:60, :80]
    field = (280 + x / 8 + y / 12).astype(np.float32)
    for missing in (np.nan, np.inf, -9999.0):
        holed = field.copy()
        holed[20:35, 30:50] = holed[:, :9] = missing
        path = saved(tmp_path / "x.tif", holed, extratags=[(42113, 2, 0, "-9999", True)])
        for source in (path, *([holed] if missing != -9999 else [])):
            image = load_image(source)
            assert "840 pixels without a value filled" in image.note
            steps = np.abs(np.diff(image.pixels[..., 0].astype(int), axis=1))
            assert steps.max() <= 12  # at the edges of a hole of another value they would be 130
    colours = (np.stack([x, y, x + y], 2) * 400).astype(np.uint16)
    colours[:, :9] = 7
    image = load_image(
        saved(tmp_path / "y.tif", colours, photometric="rgb", extratags=[(42113, 2, 0, "7", True)])
    )
    assert "540 pixels without a value" in image.note
    small = saved(tmp_path / "z.tif", RGB, photometric="rgb", extratags=[(42113, 2, 0, "-9999", True)])
    np.testing.assert_array_equal(stored(small), RGB)  # which 8 bits cannot hold
    with pytest.raises(ImageError, match="no pixel has a value"):
        load_image(np.full((4, 4), np.nan))


def test_bands_are_chosen(tmp_path: Path) -> None:
    bands = np.stack([np.full((20, 30), 3000 * n, np.uint16) for n in range(1, 14)], 2)
    bands[:10] += 30000
    path = tmp_path / "x.tif"
    for planes, tile in ((False, None), (True, None), (False, (16, 16)), (True, (16, 16))):
        array = np.moveaxis(bands, 2, 0) if planes else bands
        how = "separate" if planes else "contig"
        saved(path, array, photometric="minisblack", planarconfig=how, tile=tile, compression="deflate")
        image = load_image(path, conversion=Conversion(bands=(4, 3, 2)))
        np.testing.assert_array_equal(image.pixels[15, 3], np.round(np.array([12000, 9000, 6000]) / 257))
        assert image.note == "bands 4, 3, 2 of 13"
        assert (stored(path, conversion=Conversion(bands=[13]))[15] == round(39000 / 257)).all()
    for source in (path, bands):
        with pytest.raises(ImageError, match="bands"):
            load_image(source)
        with pytest.raises(ImageError, match="there is no band 14; the image has 13"):
            load_image(source, conversion=Conversion(bands=(14,)))
    assert (stored(bands, conversion=Conversion(bands=(2, 2, 1)))[15, 3] == [23, 23, 12]).all()
    np.testing.assert_array_equal(stored(RGB, conversion=Conversion(bands=(2,)))[..., 0], RGB[..., 1])
    near = np.dstack([RGB, GREY]).astype(np.uint16) * 257  # red, green, blue and infrared
    saved(path, near, photometric="rgb", extrasamples=["unspecified"])
    image = load_image(path)
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.note == "bands 1, 2, 3 of 4"
    saved(path, near.astype(np.uint8), photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(stored(path, conversion=Conversion(bands=(4,)))[..., 2], near[..., 3] % 256)


def test_opacity_and_orientation_of_deep_tiffs(tmp_path: Path) -> None:
    deep = np.dstack([RGB, np.full_like(GREY, 255)]).astype(np.uint16) * 257
    deep[:5, :, 3] = 0
    path = saved(tmp_path / "x.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(stored(path), load_image(deep).pixels)
    assert (stored(path)[:5] == 255).all()
    deep[:5, :, :3] = 0
    saved(path, deep, photometric="rgb", extrasamples=["assocalpha"])  # colours multiplied by it
    assert (stored(path)[:5] == 255).all()
    np.testing.assert_array_equal(stored(path)[5:], RGB[5:])
    for orientation in range(1, 9):
        exif = PILImage.Exif()
        exif[0x0112] = orientation
        PILImage.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
        values = RGB.astype(np.uint16) * 257
        saved(path, values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        np.testing.assert_array_equal(stored(path), stored(tmp_path / "x.png"))
        np.testing.assert_array_equal(stored(path, apply_exif=False), RGB)


def test_reduced_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    """As in a cloud-optimised GeoTIFF: overviews, the mask of the image, and masks of the overviews."""
    for array in (RGB, RGB.astype(np.uint16) * 257):
        path = tmp_path / "x.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(array, photometric="rgb", tile=(16, 16), metadata=None)
            writer.write(np.ones_like(GREY, np.bool_), subfiletype=4, metadata=None)
            writer.write(array[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
            writer.write(np.ones_like(GREY[::2, ::2], np.bool_), subfiletype=5, metadata=None)
        np.testing.assert_array_equal(stored(path), RGB)
        assert raw_size(path) == (32, 24)
        with tifffile.TiffWriter(path) as writer:  # the preview first, as cameras do
            writer.write(array[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
            writer.write(array, photometric="rgb", metadata=None)
        np.testing.assert_array_equal(stored(path), RGB)
        for second in (0, 2):
            with tifffile.TiffWriter(path) as writer:
                writer.write(array, photometric="rgb", metadata=None)
                writer.write(array, photometric="rgb", subfiletype=second, metadata=None)
            with pytest.raises(ImageError, match="multi-page"):
                load_image(path)
        saved(path, array, photometric="rgb", subfiletype=1)
        with pytest.raises(ImageError, match="previews only"):
            load_image(path)


def test_deep_tiffs_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", np.zeros((8, 8, 4), np.uint16), photometric="separated")
    with pytest.raises(ImageError, match="colour mode SEPARATED"):
        load_image(path)
    saved(path, np.zeros((8, 8), np.complex64), photometric="minisblack")
    with pytest.raises(ImageError, match="complex64"):
        load_image(path)
    saved(path, np.zeros((64, 64, 3)), photometric="rgb", compression="deflate", rowsperstrip=64)
    tile = saved(tmp_path / "z.tif", np.zeros((64, 64, 3)), photometric="rgb", tile=(64, 64))
    for source, words, changes in (
        (path, "truncated", {"ImageWidth": 800, "ImageLength": 800}),
        (path, "1 GiB of values", {"ImageWidth": 9000, "ImageLength": 9000}),
        (path, "million pixels", {"ImageWidth": 99000, "ImageLength": 9000}),
        (path, "a strip or tile of", {"ImageWidth": 6000, "ImageLength": 8000, "RowsPerStrip": 8000}),
        (path, "compression JPEG2000", {"Compression": 34712}),
        (path, "strips or tiles are missing", {"RowsPerStrip": 1}),
        (path, "[0-9]+ strips or tiles", {"ImageWidth": 10, "ImageLength": 400_000, "RowsPerStrip": 1}),
        (path, "no pixels|truncated", {"ImageWidth": 0}),
        (tile, "tiles much larger", {"TileWidth": 100_000, "TileLength": 100_000}),
        (tile, "truncated", {"TileWidth": 0}),
    ):  # fmt: skip
        other = tmp_path / "y.tif"
        other.write_bytes(source.read_bytes())
        with tifffile.TiffFile(other, mode="r+b") as tif:
            for tag, value in changes.items():
                tif.pages[0].tags[tag].overwrite(value)
        one = Conversion(bands=(1,) if words.startswith("a strip") else None)
        with pytest.raises(ImageError, match=words):
            load_image(other, conversion=one)


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named photo.jpg it ran Ghostscript: whatever opens images takes only formats on a list."""
    path = tmp_path / "photo.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n")
    run: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: run.append(a))
    with PILImage.open(path) as picture, pytest.raises(AssertionError):
        picture.load()  # what Pillow would do
    assert run
    run.clear()
    for read in (load_image, raw_size, load_mask, load_edit, read_mask):
        with pytest.raises(ImageError, match=r"photo\.jpg: not an image in a known format"):
            read(path)
    assert position(path) is None
    assert not run


def test_heic_and_avif_are_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    smooth = PILImage.fromarray(cv2.resize(halved(0), (64, 48), interpolation=cv2.INTER_AREA))
    turned = PILImage.Exif()
    turned[0x0112] = 6
    heif.from_pillow(smooth).save(tmp_path / "a.heic", quality=95)
    smooth.save(tmp_path / "a.avif", quality=95, exif=turned)
    wanted = np.asarray(smooth).astype(int)
    assert np.abs(stored(tmp_path / "a.heic") - wanted).mean() < 6
    assert np.abs(stored(tmp_path / "a.avif") - np.rot90(wanted, -1)).mean() < 6
    assert raw_size(tmp_path / "a.heic") == raw_size(tmp_path / "a.avif") == (64, 48)
    assert "HEIF" not in PILImage.OPEN  # that would be for the whole process
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a\.heic: a HEIC image; .*pip install 'geomatch-dift\[heif\]'"):
        load_image(tmp_path / "a.heic")
    (tmp_path / "film.jpg").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100))
    with pytest.raises(ImageError, match="not an image"):
        load_image(tmp_path / "film.jpg")


def piped(data: bytes) -> str:
    """A path such as the shell's ``<(cat FILE)`` has."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    threading.Thread(target=write).start()
    return f"/dev/fd/{reading}"


def test_pipes_are_read(tmp_path: Path) -> None:
    PILImage.fromarray(np.tile(RGB, (20, 20, 1))).save(tmp_path / "a.png")  # larger than a pipe holds
    saved(tmp_path / "a.tif", RGB.astype(np.uint16) * 257, photometric="rgb")
    for name in ("a.png", "a.tif"):
        pipe = piped((tmp_path / name).read_bytes())
        check_image_file(Path(pipe))  # takes nothing out of it
        np.testing.assert_array_equal(stored(pipe), stored(tmp_path / name))
        os.close(int(pipe.rpartition("/")[2]))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    layer = PILImage.fromarray(np.dstack([RGB, GREY]))
    layer.save(tmp_path / "layer.png")
    for read in (load_edit, stored):  # which opens it once
        data = (tmp_path / "layer.png").read_bytes()
        threading.Thread(target=fifo.write_bytes, args=(data,)).start()
        np.testing.assert_array_equal(read(fifo), read(tmp_path / "layer.png"))
    for data, words in ((b"", "nothing came"), (b"no image at all", "not an image")):
        pipe = piped(data)
        with pytest.raises(ImageError, match=words):
            load_image(pipe)
        os.close(int(pipe.rpartition("/")[2]))


def register(image0: Any, image1: Any, **options: Any) -> tuple[float, geomatch.MatchResult]:
    """Corner error of a match of the bundled pair at half its size, in pixels."""
    pair, half = geomatch.bundled_pair(), np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])
    result = geomatch.match(image0, image1, detector="sift", max_keypoints=200, **options)
    assert result.homography, result.homography.reason
    truth = half @ pair.homography @ np.linalg.inv(half)
    return geomatch.corner_error(result.homography.matrix, truth, result.image0.size), result


def halved(number: int) -> NDArray[np.uint8]:
    pair = geomatch.bundled_pair()
    pixels = load_image((pair.image0, pair.image1)[number]).pixels
    return np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def test_planes_thermal_images_and_bands_register(tmp_path: Path) -> None:
    """The bundled pair as 16-bit planes, 12 bits with white zero, kelvin with holes, satellite bands."""
    first, second = halved(0), halved(1)
    grey0, grey1 = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (first, second))
    path0, path1 = tmp_path / "a.tif", tmp_path / "b.tif"
    planes = np.moveaxis(first.astype(np.uint16) * 257, 2, 0)
    saved(path0, planes, photometric="rgb", planarconfig="separate")
    saved(path1, 4095 - grey1.astype(np.uint16) * 16, photometric="miniswhite")
    error, result = register(path0, path1)
    assert error < 1
    assert result.to_dict()["settings"]["image1"]["note"].startswith("values from ")
    kelvin0, kelvin1 = (280 + grey.astype(np.float32) / 12 for grey in (grey0, grey1))
    kelvin0[:, :60], kelvin1[:40] = np.nan, -9999
    saved(path1, kelvin1, photometric="minisblack", extratags=[(42113, 2, 0, "-9999", True)])
    assert register(kelvin0, path1)[0] < 1
    noise = np.random.default_rng(0).integers(0, 4000, (*first.shape[:2], 10)).astype(np.uint16)
    for path, one in ((path0, first), (path1, second)):
        bands = np.dstack([noise[..., :1], one[..., ::-1].astype(np.uint16) * 12, noise[..., 1:]])
        saved(path, bands, photometric="minisblack", planarconfig="contig")
    error, result = register(path0, path1, conversion=Conversion(bands=(4, 3, 2)))
    assert error < 1
    assert result.to_dict()["settings"]["conversion"] == {"stretch": "auto", "bands": (4, 3, 2)}


def test_the_command_takes_pipes_and_bands_and_says_what_was_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        saved(tmp_path / f"{number}.tif", halved(number).astype(np.uint16) * 16, photometric="rgb")
    pipe = piped((tmp_path / "0.tif").read_bytes())
    command = ["match", pipe, str(tmp_path / "1.tif"), "--detector", "sift", "--max-keypoints", "200"]
    assert main([*command, "--bands", "2", "--out", str(tmp_path / "out")]) == 0
    os.close(int(pipe.rpartition("/")[2]))
    told = capfd.readouterr().out
    assert "image 0     bands 2 of 3; values from " in told
    assert "image 1     bands 2 of 3; values from " in told
    settings = json.loads((tmp_path / "out" / "result.json").read_text())["settings"]
    assert settings["conversion"] == {"stretch": "auto", "bands": [2]}
    assert "stretched" in settings["image1"]["note"]
    tifs = [str(tmp_path / f"{number}.tif") for number in (0, 1)]
    assert main(["match", *tifs, "--bands", "red"]) == 2
    assert main(["match", *tifs, "--bands", "1,2"]) == 2
    assert main(["match", *tifs, "--bands", "7"]) == 2
    assert "there is no band 7; the image has 3" in capfd.readouterr().err


def test_threads_leave_the_warnings_of_the_process_alone(tmp_path: Path) -> None:
    import warnings

    PILImage.fromarray(RGB).save(tmp_path / "a.png")
    before = list(warnings.filters)
    threads = [threading.Thread(target=load_image, args=(tmp_path / "a.png",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_what_a_mutated_file_gives_is_an_image_or_an_image_error(tmp_path: Path) -> None:
    outcomes, slowest = fuzz(340, 7, tmp_path)
    assert set(outcomes) == {"read", "refused"}
    assert min(outcomes.values()) > 100
    assert slowest < 2


@pytest.mark.slow
def test_thousands_of_mutated_files(tmp_path: Path) -> None:
    outcomes, slowest = fuzz(5000, 0, tmp_path)
    assert set(outcomes) == {"read", "refused"}
    assert slowest < 5

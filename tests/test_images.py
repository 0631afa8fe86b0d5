from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from geomatch import Image, ImageError, load_image
from geomatch.images import MAX_PIXELS, raw_size, reduce_image

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
        np.full((4, 4), 300.0),
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

"""Masks: keypoints come from where they allow, in every command and frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage
from small_photos import SIZE, write

import geomatch
from geomatch import Pipeline, load_image, warp_points
from geomatch.benchmarks.harness.task import Entry
from geomatch.benchmarks.methods.functions import FunctionMatcher
from geomatch.benchmarks.methods.method import Method
from geomatch.benchmarks.methods.strings import create_method
from geomatch.benchmarks.tasks.pairs.views import Views
from geomatch.errors import ImageError
from geomatch.images import Image, Masks, Reading
from geomatch.pairs import match_pair
from geomatch.store import Store
from geomatch.tensors import detect_features


def test_masked_keypoints_are_gone_and_others_take_their_place(photo0: Image) -> None:
    mask = np.zeros(photo0.pixels.shape[:2], np.uint8)
    mask[:, : mask.shape[1] // 2] = 255
    masked = load_image(photo0.pixels, mask=mask, ignore_border=20)
    detector = geomatch.keypoints.create_detector("sift", 200)
    found = detect_features(detector, masked).to_features()
    x, y = found.keypoints.T
    assert x.max() < mask.shape[1] / 2
    assert min(x.min(), y.min()) >= 19.5
    assert 150 < len(found) <= 200  # nearly as many as asked for, from the half that is left
    plain = detect_features(detector, photo0).to_features()
    assert (plain.keypoints[:, 0] > mask.shape[1] / 2).any()


def test_a_mask_leaves_the_answer_to_what_it_allows(photo0: Image, pipeline: Pipeline) -> None:
    """Two motions in one picture: each is found where the other is masked."""
    half = photo0.size[0] // 2
    moved = photo0.pixels.copy()
    moved[:, :half] = np.roll(photo0.pixels, 9, axis=0)[:, :half]
    moved[:, half:] = np.roll(photo0.pixels, -5, axis=0)[:, half:]
    mask = np.zeros(moved.shape[:2], bool)
    mask[:, : half - 20] = True
    still = replace(pipeline, model="translation")
    for allowed, shift in ((mask, 9.0), (~mask, -5.0)):
        result = match_pair(still, load_image(photo0.pixels, mask=allowed), load_image(moved))
        assert isinstance(result.geometry, geomatch.HomographyEstimate)
        assert result.geometry.matrix[1, 2] == pytest.approx(shift, abs=0.05)


def test_masks_are_turned_with_the_pixels_that_they_are_of(tmp_path: Path, small: NDArray[np.uint8]) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.fromarray(np.ascontiguousarray(np.rot90(small))).save(tmp_path / "a.png", exif=exif)
    mask = np.zeros((SIZE[0], SIZE[1]), np.uint8)  # of the file's pixels, which lie on their side
    mask[:50] = 255
    write(tmp_path / "stored.png", np.repeat(mask[..., None], 3, axis=2))
    upright = load_image(tmp_path / "a.png", mask=tmp_path / "stored.png")
    assert upright.size == SIZE
    assert upright.mask is not None
    assert upright.mask[:, -50:].all()
    assert not upright.mask[:, :-50].any()
    same = load_image(tmp_path / "a.png", mask=np.ascontiguousarray(upright.mask))  # of the upright picture
    np.testing.assert_array_equal(same.mask, upright.mask)
    with pytest.raises(ImageError, match="the mask has 9x9 pixels"):
        load_image(tmp_path / "a.png", mask=np.ones((9, 9), bool))


def test_names_of_masks(tmp_path: Path) -> None:
    for name in ("a/b.jpg.png", "c.png", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    masks = Masks(tmp_path)
    found = [masks.path(name) for name in ("a/b.jpg", "c.jpg", "d.jpg", "e.jpg")]
    assert found == [tmp_path / "a/b.jpg.png", tmp_path / "c.png", tmp_path / "d.jpg", None]
    masks.check(["e.jpg", "c.jpg"])
    with pytest.raises(ImageError, match=r"that of e\.jpg would be e\.jpg\.png"):
        masks.check(["e.jpg"])
    with pytest.raises(ImageError, match="no such folder of masks"):
        Masks(tmp_path / "no")
    with pytest.raises(ValueError, match="ignore_border"):
        Masks(ignore_border=-1)


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).touch()
    reading = Reading(masks=Masks(tmp_path))
    for folder, name in ((tmp_path, "a.png"), (tmp_path, "b.jpg"), (Path(), str(tmp_path / "b.jpg"))):
        assert reading.file(folder / name, name).mask is None
    with pytest.raises(ImageError, match="no mask of any image"):
        reading.masks.check(["b.jpg"], tmp_path)


@pytest.mark.parametrize("frame", ["original", "short200", "crop200x150"])
def test_masks_of_a_sequence_are_used(tmp_path: Path, small: NDArray[np.uint8], frame: str) -> None:
    """``masks/1.png.png`` beside ``1.png`` leaves out its left half, in every frame and in what is cached."""
    paths = write(tmp_path / "v_x/1.png", small), write(tmp_path / "v_x/2.png", small)
    method = create_method("sift", 200)
    entry, store = Entry(method, method.key()), Store.at(tmp_path / "store")
    plain = Views(entry, store).pair("v_x 1-2", paths, frame, False)
    left = np.zeros_like(small)
    left[:, 160:] = 255
    write(tmp_path / "v_x/masks/1.png.png", left)
    masked = Views(entry, store).pair("v_x 1-2", paths, frame, False)
    x, _ = warp_points(np.linalg.inv(masked.matrix0), masked.features0.keypoints).T
    assert x.min() >= 158
    assert len(masked.features0) > 50
    assert masked.features1 == plain.features1
    assert plain.features0.keypoints[:, 0].min() < 60
    matcher = FunctionMatcher(lambda image0, image1: (np.full((2, 2), [[50], [200]]),) * 2)
    given = Method("own", pair_matcher=matcher)
    masked = Views(Entry(given, given.key()), store).pair("v_x 1-2", paths, "original", False)
    assert masked.features0.keypoints.tolist() == [[200, 200]]

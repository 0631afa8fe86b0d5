"""The embedded detector: geometry, shares, its labels and its training."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from geomatch import Image, WeightsError, warp_points
from geomatch.benchmarks.training import detector as training
from geomatch.benchmarks.training.detector import (
    VIEW_SIZE,
    DetectorConfig,
    cell_targets,
    seen_again,
    stable_points,
    train_detector,
)
from geomatch.devices import find_device, upload_pixels
from geomatch.keypoints import MixedDetector, OpenCVDetector, TinyDetector, create_detector, folding, tiny
from geomatch.keypoints.folding import folded
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import dominant_orientations, load_network, save_network, weights_file
from geomatch.provenance import cache_key
from geomatch.synthetic import random_homography, render_view
from geomatch.training import checkpoint
from geomatch.training.bank import BankImage


def test_keypoints_are_found_again(photo0: Image) -> None:
    """Under rotation, scale and perspective two fifths of what both images show, within 2 px."""
    detector = TinyDetector(max_keypoints=500)
    first = detector.detect(photo0)
    assert len(first) == 500
    assert (np.diff(first.scores) <= 0).all()
    for seed in range(2):
        matrix = random_homography(np.random.default_rng(seed), photo0.size, "rotated")
        second = detector.detect(Image(render_view(photo0.pixels, matrix, photo0.size), "view"))
        moved = warp_points(matrix, first.keypoints)
        shown = ((moved >= 8) & (moved < np.array(photo0.size) - 8)).all(1)
        nowhere = np.random.default_rng(seed).uniform(0, photo0.size, (500, 2))  # by chance one in ten
        right, chance = (
            (np.linalg.norm(points[:, None] - second.keypoints[None], axis=2).min(1) < 2).mean()
            for points in (moved[shown], nowhere)
        )
        assert right > 0.4, seed
        assert chance < 0.15


def angle(difference: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.abs(np.angle(np.exp(1j * difference)))


def orientations(pixels: np.ndarray, points: np.ndarray, scales: np.ndarray) -> np.ndarray:
    tensors = (torch.tensor(array, dtype=torch.float32) for array in (points, scales))
    return dominant_orientations(upload_pixels(pixels, "cpu"), *tensors).numpy()


def test_orientations_turn_with_the_image(photo0: Image) -> None:
    """By quarter turns exactly, with the keypoints."""
    features = OpenCVDetector("sift", max_keypoints=300).detect(photo0)
    assert features.scales is not None
    assert features.orientations is not None
    height = photo0.size[1]
    turned = np.ascontiguousarray(np.rot90(photo0.pixels, -1))  # clockwise: (x, y) to (height - 1 - y, x)
    points = np.stack([height - 1 - features.keypoints[:, 1], features.keypoints[:, 0]], axis=1)
    before = orientations(photo0.pixels, features.keypoints, features.scales)
    after = orientations(turned, points, features.scales)
    assert (
        np.mean(angle(after - before - np.pi / 2) < 1e-3) > 0.98
    )  # odd borders of pyramid levels move a few
    # and they are SIFT's, for most: its own neighbourhood differs a little
    assert np.median(angle(before - features.orientations)) < 0.2


def test_orientation_of_an_edge() -> None:
    """It points to where the image gets lighter."""
    x, y = np.meshgrid(np.arange(101) - 50, np.arange(101) - 50)
    for true in (0.0, 0.7, 2.0, -2.5):
        ramp = 128 + 2 * (x * np.cos(true) + y * np.sin(true))
        pixels = np.repeat(np.clip(ramp, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        found = orientations(pixels, np.array([[50.0, 50.0]]), np.array([5.0]))
        assert angle(found - true) < 0.05


def test_shares_of_the_levels() -> None:
    for found, total in (([900, 300, 80], 500), ([900, 0, 0], 500), ([10, 10, 10], 30), ([], 0)):
        kept = tiny._shares(found, 500)
        assert all(0 <= k <= f for k, f in zip(kept, found, strict=True))
        assert sum(kept) == total
        assert kept == sorted(kept, reverse=True)
    assert tiny._shares([7], None) == [7]


def test_small_and_flat_images_have_no_keypoints() -> None:
    for name in ("superpoint-tiny", "mixed"):
        detector = create_detector(name, 100)
        for size in ((1, 1), (7, 300), (200, 100)):
            flat = Image(np.full((size[1], size[0], 3), 90, np.uint8), "flat")
            found = detector.detect(flat)
            assert (len(found), found.image_size) == (0, size)


def test_folding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do strips: with scales of either sign, and sides that do not halve."""
    monkeypatch.setattr(folding, "_STRIP", 2**13)
    torch.manual_seed(0)
    network = SuperPointNetwork((8, 8, 8, 8), 16).eval()
    for name, value in network.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():
        if ".bn." in name:
            torch.nn.init.normal_(parameter)
    grey = torch.rand(1, 1, 131, 90)
    with torch.inference_mode():
        wanted = network(grey)
        for found, value in zip(folded(network)(grey), wanted, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)
    assert not [name for name, _ in network.named_modules() if name.endswith("bn")]


def test_levels_are_means_of_areas(rng: np.random.Generator) -> None:
    image = rng.uniform(0, 1, (97, 131)).astype(np.float32)
    for size in ((131, 97), (93, 69), (65, 49), (12, 50), (1, 1)):
        wanted = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(tiny.resize_area(torch.tensor(image), *size), wanted, atol=2e-6)


def test_an_enlarged_image_has_enlarged_keypoints(photo0: Image) -> None:
    """Detection in an image reduced to its limit, in pixels of the original."""
    small = Image(cv2.resize(photo0.pixels, (320, 240), interpolation=cv2.INTER_AREA), "small")
    here = TinyDetector(max_keypoints=50).detect(small)
    there = TinyDetector(max_keypoints=50, max_image_side=320).detect(photo0)
    np.testing.assert_allclose(there.keypoints, here.keypoints * 2 + 0.5, atol=1e-3)
    np.testing.assert_allclose(there.scales, here.scales * 2, rtol=1e-6)  # type: ignore[operator]


def test_mixed_is_interleaved(photo0: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = MixedDetector(max_keypoints=301)
    sift, tiny = (part.detect(photo0) for part in mixed.parts)
    found = mixed.detect(photo0)
    assert len(found) == 301
    np.testing.assert_array_equal(found.keypoints[::2], sift.keypoints[:151])
    np.testing.assert_array_equal(found.keypoints[1::2], tiny.keypoints[:150])
    assert (np.diff(found.scores) < 0).all()
    monkeypatch.setattr("geomatch.devices.device_kind", lambda name: "cuda")
    assert mixed.detect(photo0) == found  # with SIFT in a thread of its own
    monkeypatch.setattr(OpenCVDetector, "detect", Mock(side_effect=RuntimeError("of the thread")))
    with pytest.raises(RuntimeError, match="of the thread"):
        mixed.detect(photo0)


def test_weights_are_part_of_the_cache_key(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_network(tiny.new_network(), tmp_path / "other.safetensors")
    for kind in (TinyDetector, MixedDetector):
        own, other = cache_key(kind()), cache_key(kind(weights=tmp_path / "other.safetensors"))
        assert own != other
        assert own == cache_key(kind(weights=weights_file())) == cache_key(kind(device=find_device("auto")))
        assert (
            cache_key(kind(device="cpu"))
            != cache_key(kind(device="cuda"))
            == cache_key(kind(device="cuda:1"))
        )
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    shipped = bytearray(weights_file().read_bytes())
    shipped[-1000] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(shipped)
    for name in ("broken", "none", "flipped"):
        with pytest.raises(WeightsError, match="not a readable file of weights of the embedded detector"):
            load_network(tmp_path / f"{name}.safetensors")


def test_stable_points_are_placed_by_a_parabola() -> None:
    x, y = np.meshgrid(np.arange(60), np.arange(40))
    true = np.array([[12.3, 9.6], [40.0, 20.25]])
    shares = np.zeros((40, 60), np.float32)
    for a, b in true:
        shares = np.maximum(shares, 0.8 - 0.05 * ((x - a) ** 2 + (y - b) ** 2)).astype(np.float32)
    np.testing.assert_allclose(stable_points(shares), true, atol=1e-3)
    assert len(stable_points(shares, 0.9)) == 0


def test_adaptation_finds_what_is_there(rng: np.random.Generator) -> None:
    """The corners of a bright square, and nothing on the flat ground."""
    pixels = np.full((240, 320, 3), 60, np.uint8)
    pixels[80:160, 120:220] = 200
    shares = training.found_again(pixels, np.eye(3), rng, warps=12).astype(np.float32) / 255
    points = stable_points(shares, 0.5)
    corners = np.array([[119.5, 79.5], [219.5, 79.5], [119.5, 159.5], [219.5, 159.5]])
    distance = np.linalg.norm(corners[:, None] - points[None], axis=2)
    assert (distance.min(1) < 2).all()
    assert (distance.min(0) < 2).all()


def test_targets_of_cells() -> None:
    """A cell's shares sum to one, and their mean is the point where the cell holds all four pixels."""
    points = np.array([[19.25, 10.5], [20.0, 11.0], [3.0, 4.0], [0.2, 5.0]])
    target = cell_targets(points, (40, 24))
    assert target.shape == (3, 5, 65)
    np.testing.assert_allclose(target.sum(-1), 1)
    rows, columns = np.divmod(np.arange(64), 8)
    cell = target[1, 2, :64]
    np.testing.assert_allclose([16 + cell @ columns, 8 + cell @ rows], points[0], atol=1e-6)
    assert target[0, 0, 4 * 8 + 3] == 1
    # the second point shares a cell, the fourth is too near the edge
    assert (target[..., 64] == 1).sum() == 13


def label(photo: Image) -> training.Label:
    view = cv2.resize(photo.pixels, VIEW_SIZE, interpolation=cv2.INTER_AREA)
    points = OpenCVDetector("sift", max_keypoints=80).detect(Image(view, "view")).keypoints
    return np.asarray(view, np.uint8), points.astype(np.float64)


def test_targets_follow_the_view(photo0: Image) -> None:
    """What the network is to find in a crop are points of the view, under the crop's homography."""
    view, points = label(photo0)
    blurred = np.zeros_like(view)
    for x, y in points:
        cv2.circle(blurred, (round(x), round(y)), 2, (255, 255, 255), -1)
    crop, target, weights = seen_again((blurred, points), (192, 144), np.random.default_rng(3), 1)
    assert crop.shape == (144, 192)
    row, column = np.nonzero((target[..., 64] < 0.5) & (weights > 0))
    assert len(row) > 5
    for r, c in zip(row, column, strict=True):
        pixel = int(target[r, c, :64].argmax())
        y, x = 8 * r + pixel // 8, 8 * c + pixel % 8
        assert crop[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max() > np.percentile(crop, 80)


def test_interrupted_training_ends_as_if_undisturbed(
    photo0: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    labels = [label(photo0)]
    config = DetectorConfig(crop_size=(64, 48), batch_size=2, steps=6)

    def train(name: str) -> Any:
        return train_detector(labels, config, tmp_path / name)

    monkeypatch.setattr(checkpoint, "EVERY", 2)
    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "seen_again", dying(training.seen_again, 9))
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    resumed = train("cut")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    save_network(whole, tmp_path / "saved.safetensors")
    again = load_network(tmp_path / "saved.safetensors")
    grey = torch.rand(1, 1, 48, 64)
    torch.testing.assert_close(again.cells(grey), whole.cells(grey), rtol=1e-2, atol=1e-2)


def test_labels_are_cached(photo0: Image, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    cv2.imwrite(str(good), cv2.resize(photo0.pixels, VIEW_SIZE, interpolation=cv2.INTER_AREA))
    bad.write_bytes(good.read_bytes()[:3000])
    images = [BankImage(good, "0" * 64, 1), BankImage(bad, "1" * 64, 1)]
    unreadable = training.make_labels(tmp_path / "labels", images, workers=1)
    assert list(unreadable) == [images[1]]
    [(view, points)] = training.load_labels(tmp_path / "labels", images[:1])
    assert view.shape == (VIEW_SIZE[1], VIEW_SIZE[0], 3)
    assert len(points) > 20
    [file] = (tmp_path / "labels").iterdir()
    before = file.stat().st_mtime_ns
    training.make_labels(tmp_path / "labels", images[:1], workers=1)
    assert file.stat().st_mtime_ns == before

"""The embedded detector: geometry, shares, orientations and its file."""

from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from network_heads import halved
from numpy.typing import NDArray

from geomatch import Image, WeightsError, warp_points
from geomatch.devices import find_device, upload_pixels
from geomatch.keypoints import MixedDetector, OpenCVDetector, TinyDetector, create_detector, folding, tiny
from geomatch.keypoints.folding import folded
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import dominant_orientations, load_network, weights_file
from geomatch.provenance import cache_key
from geomatch.synthetic import random_homography, render_view
from geomatch.weights.tensors import save_tensors


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


def test_weights_are_part_of_the_cache_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    save_tensors(tmp_path / "other.safetensors", halved(tiny.new_network().state_dict()), {})
    for kind in (TinyDetector, MixedDetector):
        own = cache_key(kind())
        with monkeypatch.context() as patch:
            patch.setattr(tiny, "weights_file", lambda: tmp_path / "other.safetensors")
            assert own != cache_key(kind())
        assert own == cache_key(kind(device=find_device("auto")))
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


def test_peaks_are_placed_by_a_parabola() -> None:
    true, near = torch.tensor([-0.4, 0.0, 0.3]), torch.tensor([-1.0, 0.0, 1.0])
    before, peak, after = (0.8 - 0.05 * (near[:, None] - true) ** 2).unbind()
    torch.testing.assert_close(tiny.peak_shift(before, peak, after), true, atol=1e-4, rtol=0)

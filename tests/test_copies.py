"""Rotated and scaled copies: geometry, choice, and what they are good for."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from geomatch import DIFTConfig, DIFTExtractor, Features, Image, match_mutual
from geomatch.dift import PRESETS
from geomatch.dift.maps.copies import REFERENCE_SCALE, choose_copies, needed_copies, turn_image
from geomatch.geometry import image_corners, warp_points
from geomatch.images import reduce_image
from geomatch.keypoints import OpenCVDetector

SIZE = (128, 96)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DIFTConfig:
    """A small random network without noise, which would not turn with the image."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).save_pretrained(folder)
    return DIFTConfig(
        str(folder), 20, ("up_blocks.0", "up_blocks.1"), noise=False, image_size=None, device="cpu"
    )


def scene(size: tuple[int, int] = SIZE, seed: int = 0) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image(np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1.5)), "blurred noise")


def oriented(size: tuple[int, int], n: int = 30) -> Features:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (n, 2)) * (np.array(size) - 1)
    return Features(points, np.ones(n), size, rng.uniform(2, 20, n), rng.uniform(0, 2 * math.pi, n))


def described(config: DIFTConfig, image: Image, features: Features) -> NDArray[np.float32]:
    return DIFTExtractor(config).describe(image, features).descriptors


def quarter_turn(image: Image, features: Features) -> tuple[Image, Features]:
    """Clockwise on the screen, as orientations count."""
    x, y = features.keypoints.T
    points = np.stack([image.size[1] - 1 - y, x], axis=1)
    angles = features.orientations + np.float32(math.pi / 2)
    turned = Image(np.rot90(image.pixels, -1), "turned")
    return turned, replace(features, keypoints=points, orientations=angles, image_size=turned.size)


@pytest.mark.parametrize(("size", "scales"), [(SIZE, 1), ((118, 85), 3)], ids=["exact", "resized"])
def test_quarter_turns_change_nothing(config: DIFTConfig, size: tuple[int, int], scales: int) -> None:
    image, features = scene(size), oriented(size)
    settings = replace(config, rotations=4, scales=scales)
    turned = quarter_turn(image, features)
    first, second = described(settings, image, features), described(settings, *turned)
    # of unit length; only Pillow's rounding between rows and columns leaves a difference, where it resizes
    np.testing.assert_allclose(first, second, atol=1e-5 if size == SIZE and scales == 1 else 0.05)
    assert np.abs(first - described(config, *turned)).max() > 0.1


def test_one_copy_is_the_image_itself(config: DIFTConfig) -> None:
    """Features that want nothing turned or reduced get what they get without copies, bit by bit."""
    image, features = scene((118, 85)), oriented((118, 85))
    plain = described(config, image, features)
    asking = replace(config, rotations=8, scales=3)
    bare = replace(features, scales=None, orientations=None)
    upright = replace(features, scales=np.full(30, REFERENCE_SCALE), orientations=np.full(30, 2 * math.pi))
    for wanting_nothing in (bare, upright):
        np.testing.assert_array_equal(described(asking, image, wanting_nothing), plain)


def test_each_keypoint_is_described_by_itself(config: DIFTConfig) -> None:
    image, features = scene(), oriented(SIZE)
    order = np.random.default_rng(2).permutation(30)
    settings = replace(config, rotations=3, scales=2)
    whole = described(settings, image, features)
    np.testing.assert_allclose(described(settings, image, features[order[:11]]), whole[order[:11]], atol=1e-5)
    assert len(described(settings, image, features[:0])) == 0


def test_choice() -> None:
    turns = np.array([0, 0.1, 0.49, 0.51, 3, 7.6, -1, 8 + 2]) * (2 * math.pi / 8)
    scales = REFERENCE_SCALE * np.array([0.1, 1, 1.4, 1.5, 2, 4, 5.6, 100])
    features = Features(np.zeros((8, 2)), np.ones(8), (9, 9), scales, turns)
    levels, rotations = choose_copies(features, 8, 3).T
    assert rotations.tolist() == [0, 0, 0, 1, 3, 0, 7, 2]
    assert levels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert choose_copies(features, 8, 3, factor=0.5)[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert not choose_copies(replace(features, scales=None), 8, 3)[:, 0].any()
    assert not choose_copies(replace(features, orientations=None), 8, 3)[:, 1].any()
    assert not choose_copies(features, 1, 1).any()


def test_only_needed_copies_are_made_and_reduced_ones_are_smaller() -> None:
    image = scene((400, 300))
    scales = REFERENCE_SCALE * np.array([2, 4, 8, 8])  # in the original, which enters at half its size
    features = Features(np.zeros((4, 2)), np.ones(4), image.size, scales, np.zeros(4))
    copies = needed_copies(image, features, (200, 152), 8, 3, 8)
    assert [copy.image.size for copy in copies] == [(200, 152), (104, 80), (56, 40)]
    assert [copy.members.tolist() for copy in copies] == [[0], [1], [2, 3]]


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.0, -math.pi / 2])
def test_the_canvas_holds_the_image(angle: float) -> None:
    for size in ((61, 40), (1, 1), (3, 200)):
        pixels, matrix = turn_image(np.zeros((size[1], size[0], 3), np.uint8), angle, 8)
        canvas, corners = np.array(pixels.shape[1::-1]), warp_points(matrix, image_corners(size))
        assert not (canvas % 8).any()
        assert ((corners >= -1e-6) & (corners <= canvas - 1 + 1e-6)).all()
        assert (canvas < np.ptp(corners, axis=0) + 1 + 8 + 1e-6).all()
        np.testing.assert_allclose(matrix[:2, 0], [math.cos(angle), math.sin(angle)], atol=1e-9)


def test_points_stay_on_what_they_are_on() -> None:
    """A smooth image that shows coordinates shows the same ones in every copy."""
    size = (200, 160)
    xs, ys = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = Image(np.stack([xs, ys, 0 * xs], axis=2).astype(np.uint8), "ramp")
    rng = np.random.default_rng(0)
    n = 200
    points = rng.uniform([20, 20], [179, 139], (n, 2))
    features = Features(points, np.ones(n), size, np.exp(rng.uniform(0, 3.4, n)), rng.uniform(0, 6.3, n))
    copies = needed_copies(image, features, size, 7, 3, 8)
    assert len(copies) == 21
    for copy in copies:
        where = warp_points(copy.matrix, points[copy.members]).astype(np.float32)
        seen = cv2.remap(copy.image.pixels, where[None, :, 0], where[None, :, 1], cv2.INTER_LINEAR)[0]
        np.testing.assert_allclose(seen[:, :2], points[copy.members], atol=1.6)


def test_heads_know_copies_only_when_there_are_some() -> None:
    plain, turned = DIFTConfig().feature_settings(), DIFTConfig(rotations=8).feature_settings()
    assert not {"rotations", "scales"} & set(plain)
    assert turned == plain | {"rotations": 8}


def test_a_turned_photograph(photo0: Image) -> None:
    """In a photograph turned by 75 degrees, eight rotations match many times as many keypoints rightly."""
    image = reduce_image(photo0, 240)
    pixels, matrix = turn_image(image.pixels, math.radians(75), 8)
    images = image, Image(pixels, "turned")
    features = [OpenCVDetector("sift", max_keypoints=300).detect(picture) for picture in images]

    def right(rotations: int) -> int:
        config = replace(PRESETS["dift-tiny-dense"], rotations=rotations, device="cpu")
        rows = [described(config, *pair) for pair in zip(images, features, strict=True)]
        i, j = match_mutual(*rows).indices.T
        there = warp_points(matrix, features[0].keypoints[i])
        return int((np.linalg.norm(there - features[1].keypoints[j], axis=1) < 3).sum())

    plain, rotated = right(1), right(8)
    assert rotated > 3 * plain
    assert rotated > 60

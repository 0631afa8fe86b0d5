"""Every protocol on synthetic pairs with known answers."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from geomatch.benchmarks.tasks.homography.evaluation import evaluate
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS, HomographyProtocol
from geomatch.benchmarks.tasks.homography.task import HPATCHES
from geomatch.benchmarks.tasks.pairs.views import FramedPair, framed
from geomatch.dift import FeatureMap
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.matching import match_mutual
from geomatch.types import Features, Matches

TRUTH = np.array([[1.02, 0.03, 4.0], [-0.02, 0.98, 6.0], [1e-5, 2e-5, 1.0]])
SIZE = (640, 480)


class Pair(NamedTuple):
    features0: Features
    features1: Features
    truth: np.ndarray


def synthetic_pair(
    rng: np.random.Generator, noise: float = 0.0, count: int = 300, truth: np.ndarray = TRUTH
) -> Pair:
    """Points on a lattice, well inside both images, with descriptors far apart."""
    x, y = np.meshgrid(np.arange(60, 560, 20.0), np.arange(60, 420, 20.0))
    points0 = rng.permutation(np.column_stack([x.ravel(), y.ravel()]))[:count]
    points1 = warp_points(truth, points0) + rng.normal(0, 1, points0.shape) * noise
    rows = rng.normal(size=(count, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = np.linspace(1, 0.1, count)
    order = rng.permutation(count)
    return Pair(
        Features(points0, scores, SIZE, descriptors=rows),
        Features(points1[order], scores, SIZE, descriptors=rows[order]),
        truth,
    )


def match(features0: Features, features1: Features) -> Matches:
    assert features0.descriptors is not None
    assert features1.descriptors is not None
    return match_mutual(features0.descriptors, features1.descriptors)


def row_of(protocol: HomographyProtocol, pair: Pair, split: str = "viewpoint") -> dict[str, object]:
    own = FramedPair(pair.features0, pair.features1, np.eye(3), np.eye(3))
    return {"split": split, **evaluate(protocol, own, pair.truth, match, own)}


def scores(protocol: HomographyProtocol, rows: list[dict[str, object]]) -> dict[str, float]:
    found = HPATCHES.summarise(protocol, rows)[-1]
    return {key: value for key, value in found.items() if "@" in key and "spread" not in key}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_perfect_matches_give_100_and_none_give_0(name: str, rng: np.random.Generator) -> None:
    protocol = PROTOCOLS[name]
    # exact pixels of float32 keypoints: whole numbers and a shift
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    pair = synthetic_pair(rng, truth=shift)
    for value in scores(protocol, [row_of(protocol, pair)]).values():
        assert value == pytest.approx(100, abs=1e-6)
    nothing = Features(np.zeros((0, 2)), np.zeros(0), SIZE)
    empty = row_of(protocol, Pair(nothing, nothing, shift))
    assert empty["reason"]
    assert set(scores(protocol, [empty]).values()) == {0}


def test_splits_and_failures_are_counted(rng: np.random.Generator) -> None:
    protocol = PROTOCOLS["geomatch"]
    row = row_of(protocol, synthetic_pair(rng), "illumination")
    nothing = Features(np.zeros((0, 2)), np.zeros(0), SIZE)
    broken = row_of(protocol, Pair(nothing, nothing, np.eye(3)))
    light, view, both = HPATCHES.summarise(protocol, [row, broken, broken])
    assert (light["pairs"], light["failures"], light["accuracy@1"]) == (1, 0, 100)
    assert (view["pairs"], view["failures"], view["accuracy@1"]) == (2, 2, 0)
    assert (both["pairs"], both["failures"], both["accuracy@1"]) == (3, 2, pytest.approx(100 / 3))
    (only, _, _) = HPATCHES.summarise(protocol, [broken])
    assert (only["pairs"], "accuracy@1" in only) == (0, False)


def test_noise_puts_mma_where_the_rayleigh_distribution_says(rng: np.random.Generator) -> None:
    rows = [row_of(PROTOCOLS["mma"], synthetic_pair(rng, noise=1.5)) for _ in range(30)]
    found = scores(PROTOCOLS["mma"], rows)
    for t in (1, 2, 3, 5):
        assert found[f"MMA@{t}"] == pytest.approx(100 * (1 - np.exp(-(t**2) / (2 * 1.5**2))), abs=1.5)


@pytest.mark.parametrize("name", ["auc480-poselib", "geomatch"])
def test_noise_puts_the_corner_error_where_least_squares_says(name: str, rng: np.random.Generator) -> None:
    """A solver near the optimum has the error of a least-squares fit to the same noise."""
    protocol, errors, expected = PROTOCOLS[name], [], []
    for _ in range(15):
        pair = synthetic_pair(rng, noise=0.5)
        row = row_of(protocol, pair)
        errors.append(row["errors_px"][0])  # type: ignore[index]
        p = pair.features0.keypoints.astype(float)
        noisy = warp_points(TRUTH, p) + rng.normal(0, 0.5, p.shape)
        # the affine-plus-perspective fit, linearised: good enough for a mean over draws
        zero = np.zeros_like(p[:, :1])
        one = zero + 1
        design = np.vstack([
            np.hstack([p, one, zero, zero, zero, -p * noisy[:, :1]]),
            np.hstack([zero, zero, zero, p, one, -p * noisy[:, 1:]]),
        ])  # fmt: skip
        h = np.linalg.lstsq(design, np.r_[noisy[:, 0], noisy[:, 1]], rcond=None)[0]
        corners = np.array([[0.0, 0], [639, 0], [639, 479], [0, 479]])
        apart = warp_points(np.append(h, 1).reshape(3, 3), corners) - warp_points(TRUTH, corners)
        expected.append(np.linalg.norm(apart, axis=1).mean())
    assert 0.5 < np.mean(errors) / np.mean(expected) < 1.6


def test_order_of_images_does_not_matter_where_the_protocol_is_symmetric(rng: np.random.Generator) -> None:
    pair = synthetic_pair(rng, noise=1.0)
    turned = Pair(pair.features1, pair.features0, np.linalg.inv(pair.truth))
    protocol = PROTOCOLS["superpoint"]
    one, two = (row_of(protocol, each) for each in (pair, turned))
    assert one["keypoints"] == two["keypoints"][::-1]  # type: ignore[index]
    assert one["matches"] == two["matches"]
    precision = PROTOCOLS["auc480-poselib"]
    assert row_of(precision, pair)["precision@1"] == pytest.approx(row_of(precision, turned)["precision@1"])


def test_relative_errors_are_those_of_the_480_frame(rng: np.random.Generator) -> None:
    pair = synthetic_pair(rng, noise=1.0)
    double = np.diag([2.0, 2.0, 1.0])
    big = [
        Features(2 * f.keypoints, f.scores, (1280, 960), descriptors=f.descriptors)
        for f in (pair.features0, pair.features1)
    ]
    large = Pair(*big, double @ TRUTH @ np.linalg.inv(double))
    roma, small = PROTOCOLS["roma"], row_of(PROTOCOLS["roma"], pair)["errors_px"]
    # the half pixel of the origin is not doubled
    assert row_of(roma, large)["errors_px"] == pytest.approx(small, abs=0.05)


@pytest.mark.parametrize("frame", ["original", "short480", "crop640x480", "crop320x240"])
@pytest.mark.parametrize("size", [(800, 640), (300, 420), (640, 480)])
def test_frames_say_where_pixels_go(frame: str, size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.empty((height, width, 3), np.uint8)
    ramp[:] = np.linspace(0, 255, width)[None, :, None]
    image, matrix = framed(Image(ramp, "ramp"), frame)  # type: ignore[arg-type]
    if frame == "short480":
        assert min(image.size) == 480
    if frame.startswith("crop"):
        assert f"crop{image.size[0]}x{image.size[1]}" == frame
    middle = np.array([[width // 2, height // 2]])
    x, y = warp_points(matrix, middle)[0]
    assert 0 <= x < image.size[0]
    seen = float(image.pixels[round(y), round(x), 0])
    step = 255 / width * max(1, 1 / matrix[0, 0])
    assert seen == pytest.approx(float(ramp[0, width // 2, 0]), abs=2 + step)


def test_paper_sampling_is_that_of_the_published_code(rng: np.random.Generator) -> None:
    width, height = 200, 120
    layer = torch.from_numpy(rng.normal(size=(8, 15, 25)).astype(np.float32))
    points = np.r_[rng.uniform(0, 1, (50, 2)) * (width - 1, height - 1), [[0, 0], [width - 1, height - 1]]]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    grid = torch.from_numpy(((points - centre) / centre).astype(np.float32))[None, None]
    expected = torch.nn.functional.grid_sample(layer[None], grid, align_corners=False)[0, :, 0].T.numpy()
    found = FeatureMap((layer,), (width, height)).sample(points, "l2", paper_sampling=True)
    assert np.array_equal(found, expected)
    exact = FeatureMap((layer,), (width, height)).sample(points, "l2")
    assert not np.allclose(found, exact, atol=0.01)
    middle = centre[None]
    both = [FeatureMap((layer,), (width, height)).sample(middle, "l2", rule) for rule in (False, True)]
    assert np.allclose(*both, atol=1e-5)
    assert [p.name for p in PROTOCOLS.values() if p.paper_sampling] == ["dift", "dift-adm"]


def test_unknown_protocols_are_refused() -> None:
    assert [p.name for p in HPATCHES.find_protocols("mma,dift")] == ["mma", "dift"]
    assert len(HPATCHES.find_protocols("all")) == len(PROTOCOLS)
    with pytest.raises(ValueError, match="unknown protocol 'hpatches'; choose from: dift"):
        HPATCHES.find_protocols("mma,hpatches")

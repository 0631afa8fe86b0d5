"""Transfer of points against brute force, and on maps whose answer is known."""

import numpy as np
import pytest
import torch

import geomatch
from geomatch.dift import PRESETS, DIFTExtractor, FeatureMap
from geomatch.dift.maps.transfer import (
    SOFT_RADIUS,
    SOFT_TEMPERATURE,
    PixelFeatures,
    target_of,
    transfer_points,
)
from geomatch.images import Image
from geomatch.synthetic import render_view
from geomatch.types import Metric

SIZE = (43, 31)


PIXELS = np.stack(np.meshgrid(np.arange(43.0), np.arange(31.0)), axis=-1).reshape(-1, 2)


def random_map(seed: int, *shapes: tuple[int, int, int]) -> FeatureMap:
    generator = torch.Generator().manual_seed(seed)
    return FeatureMap(tuple(torch.randn(shape, generator=generator) for shape in shapes), SIZE)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("shapes", [((7, 9, 12),), ((5, 60, 80),), ((5, 8, 9), (3, 31, 43), (4, 1, 2))])
def test_similarities_are_those_of_all_vectors(
    metric: Metric, shapes: tuple[tuple[int, int, int], ...]
) -> None:
    """Maps smaller and larger than the image, one and several layers."""
    map0, map1 = random_map(1, *shapes), random_map(2, *shapes)
    queries = map0.sample(np.array([[3.0, 4.0], [20.25, 11.5], [42.0, 30.0]]), metric)
    found = PixelFeatures(map1, metric).similarities(torch.from_numpy(queries)).numpy()
    rows = map1.sample(PIXELS, metric)
    brute = rows @ queries.T if metric == "cosine" else -np.linalg.norm(rows[:, None] - queries, axis=2)
    np.testing.assert_allclose(found, brute.T.reshape(found.shape), atol=1e-4)
    places = transfer_points(map0, map1, np.array([[3.0, 4.0]]), metric)
    best = brute[:, 0].argmax()
    assert places.points[0].tolist() == [best % SIZE[0], best // SIZE[0]]
    assert places.similarity[0] == pytest.approx(brute[best, 0], abs=1e-4)


def test_an_image_against_itself() -> None:
    """Cells of random codes: every pixel but those of the border, which is level, finds itself."""
    image = random_map(3, (24, 31, 43))
    found = transfer_points(image, image, PIXELS)
    np.testing.assert_array_equal(found.points, PIXELS)
    np.testing.assert_allclose(found.similarity, 1, atol=1e-5)


def test_order_of_points_and_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    map0, map1 = random_map(4, (6, 8, 9)), random_map(5, (6, 8, 9))
    points = np.random.default_rng(0).uniform(0, 30, (17, 2))
    whole = transfer_points(map0, map1, points)
    order = np.random.default_rng(1).permutation(17)
    monkeypatch.setattr("geomatch.dift.maps.transfer._AT_ONCE", 3 * SIZE[0] * SIZE[1])
    parts = transfer_points(map0, target_of(map1), points[order])
    np.testing.assert_array_equal(parts.points, whole.points[order])


def test_soft_argmax_by_hand() -> None:
    map0, map1 = random_map(6, (4, 12, 16)), random_map(7, (4, 12, 16))
    point = np.array([[20.0, 13.0]])
    query = map0.sample(point)[0]
    cells = torch.nn.functional.normalize(map1.maps[0], dim=0).permute(1, 2, 0).numpy() @ query
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    ys, xs = np.mgrid[:12, :16]
    near = (abs(ys - row) <= SOFT_RADIUS) & (abs(xs - column) <= SOFT_RADIUS)
    weights = np.exp((cells[near] - cells.max()) / SOFT_TEMPERATURE)
    mean = weights @ np.stack([xs[near], ys[near]], axis=1) / weights.sum()
    expected = (mean + 0.5) * np.array(SIZE) / [16, 12] - 0.5
    found = transfer_points(map0, map1, point, rule="soft-argmax")
    np.testing.assert_allclose(found.points[0], expected, atol=1e-3)


def test_points_outside_are_refused_and_none_is_fine() -> None:
    image = random_map(8, (3, 4, 4))
    for point in ((-1.0, 0.0), (43.0, 3.0), (3.0, float("nan"))):
        with pytest.raises(ValueError, match=r"outside image 0, whose last pixel is \(42, 30\)"):
            transfer_points(image, image, np.array([point]))
    assert transfer_points(image, image, np.zeros((0, 2))).points.shape == (0, 2)


def test_a_known_view_of_a_photograph(photo0: Image) -> None:
    """The embedded model under a mild homography: half of a grid of points within two pixels."""
    matrix = np.array([[0.96, -0.06, 20.0], [0.05, 0.97, -8.0], [2e-5, -1e-5, 1.0]])
    view = Image(render_view(photo0.pixels, matrix, photo0.size), "view")
    extractor = DIFTExtractor(PRESETS["dift-tiny-dense"])
    map0, map1 = extractor.dense_many([photo0, view])
    points = np.stack(np.meshgrid(np.arange(60, 600, 60), np.arange(60, 440, 60)), -1).reshape(-1, 2)
    found = transfer_points(map0, map1, points.astype(np.float64))
    apart = np.linalg.norm(found.points - geomatch.warp_points(matrix, points), axis=1)
    assert np.median(apart) < 2
    assert (apart < 10).mean() > 0.7

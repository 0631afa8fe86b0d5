"""Label propagation against the formula of its authors, and laws of labels, masks and points."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from geomatch.dift import FeatureMap
from geomatch.errors import ShapeError
from geomatch.video.propagation import (
    LabelPropagator,
    PropagationConfig,
    features_on,
    grid_for,
    mask_labels,
    mask_of,
    point_labels,
    points_of,
)


def frames(count: int, shape: tuple[int, int] = (23, 37), channels: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [normalize(torch.randn(channels, *shape, generator=generator), dim=0) for _ in range(count)]


def reference(config: PropagationConfig, frame: Tensor, context: list[tuple[Tensor, Tensor]]) -> Tensor:
    """All affinities at once, those far away or small set to zero, columns divided by their sums."""
    channels, rows, columns = frame.shape
    queries = frame.reshape(channels, -1).T
    affinity = torch.stack(
        [torch.exp(queries @ f.reshape(channels, -1) / config.temperature) for f, _ in context]
    )
    y, x = (
        axis.flatten() for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    )
    near = ((y[:, None] - y).abs() <= config.radius) & ((x[:, None] - x).abs() <= config.radius)
    affinity = affinity * near
    affinity = affinity.transpose(1, 2).reshape(-1, rows * columns)
    least = affinity.topk(config.top_k, dim=0)[0].amin(0)
    affinity = torch.where(affinity < least, 0.0, affinity)
    labels = torch.cat([own.reshape(len(own), -1) for _, own in context], dim=1)
    return (labels @ (affinity / affinity.sum(0))).reshape(-1, rows, columns)


@pytest.mark.parametrize("radius", [4, 0, 40])
def test_every_step_follows_the_formula(radius: int) -> None:
    config = PropagationConfig(context=3, top_k=1 if radius == 0 else 5, radius=radius, temperature=0.1)
    first, *others = frames(7)
    labels = torch.rand(3, 23, 37, generator=torch.Generator().manual_seed(1))
    propagator, last = LabelPropagator(config, first, labels), list[tuple[Tensor, Tensor]]()
    for frame in others:
        expected = reference(config, frame, [(first, labels), *last[-3:]])
        found = propagator.step(frame)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        last.append((frame, expected))


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        PropagationConfig(temperature=0)


def test_shares_stay_shares_and_known_frames_can_be_added() -> None:
    config = PropagationConfig(context=2, top_k=4, radius=6)
    first, *others = frames(5)
    labels = torch.rand(3, 23, 37).softmax(0)
    propagator = LabelPropagator(config, first, labels)
    steps = [propagator.step(frame) for frame in others]
    for found in steps:
        torch.testing.assert_close(found.sum(0), torch.ones(23, 37))
    resumed = LabelPropagator(config, first, labels)
    for frame, known in list(zip(others, steps, strict=True))[:3]:
        resumed.add(frame, known)
    assert torch.equal(resumed.step(others[3]), steps[3])


def test_labels_follow_a_moving_map() -> None:
    """Codes of cells moved by whole cells: with one neighbour the labels move exactly."""
    (codes,) = frames(1, (20, 30), 40)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:12, 6:14] = 1
    mask[8:15, 18:24] = 2
    propagator = LabelPropagator(PropagationConfig(3, 1, 5, 0.1), codes, mask_labels(mask, (30, 20)))
    for step in range(1, 4):
        found = mask_of(propagator.step(codes.roll((step, -step), (1, 2))), (30, 20))
        expected = np.roll(mask, (step, -step), (0, 1))
        inside = slice(4, -4), slice(4, -4)  # what rolls round the edge is new
        np.testing.assert_array_equal(found[inside], expected[inside])


def test_wrong_shapes_and_settings() -> None:
    first, second = frames(2)
    with pytest.raises(ShapeError, match="labels must have shape"):
        LabelPropagator(PropagationConfig(), first, torch.zeros(2, 3, 4))
    propagator = LabelPropagator(PropagationConfig(), first, torch.zeros(2, 23, 37))
    with pytest.raises(ShapeError, match="features must have shape"):
        propagator.step(second[:, :5])
    for wrong in ({"top_k": 0}, {"radius": -1}, {"context": -1}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="must"):
            PropagationConfig(**wrong)  # type: ignore[arg-type]


def test_masks_to_labels_and_back() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 24:56] = 1
    mask[44:52, 8:16] = 2
    for smooth in (True, False):
        labels = mask_labels(mask, (20, 15), smooth)
        assert labels.shape == (3, 15, 20)
        torch.testing.assert_close(labels.sum(0), torch.ones(15, 20))
        # edges of cells are edges of the mask, and bilinear steps cross in their middle; corners are cut
        wrong = np.argwhere(mask_of(labels, (80, 60)) != mask)
        corners = [(y, x) for rows, columns in (((20, 39), (24, 55)), ((44, 51), (8, 15)))
                   for y in rows for x in columns]  # fmt: skip
        assert {tuple(place) for place in wrong} <= set(corners)
    assert mask_labels(mask, (80, 60)).argmax(0).numpy().tolist() == mask.tolist()


def test_an_object_that_left_stays_away_unless_the_protocol_stretches() -> None:
    """DINO's protocol gives every label its full height, however little is left of it."""
    labels = torch.stack([torch.full((6, 8), 1.0), torch.zeros(6, 8)])
    labels[:, 2, 3] = torch.tensor([0.999, 0.001])
    assert not mask_of(labels, (80, 60)).any()
    stretched = mask_of(labels, (80, 60), via=(64, 48))
    assert stretched[25, 35] == 1
    assert stretched.shape == (60, 80)
    labels[1] = 0
    assert not mask_of(labels, (80, 60), via=(64, 48)).any()


def test_points_to_labels_and_back() -> None:
    points = np.random.default_rng(2).uniform([20, 20], [140, 100], (30, 2))
    labels = point_labels(points, (160, 120), (40, 30))
    assert labels.shape == (30, 30, 40)
    found, amounts = points_of(labels, (160, 120))
    assert np.abs(found - points).max() < 0.1  # cells have four pixels
    np.testing.assert_allclose(amounts, 2 * np.pi, rtol=0.05)
    found, amounts = points_of(torch.zeros(2, 30, 40), (160, 120))
    assert np.isnan(found).all()
    assert not amounts.any()


def test_layers_are_resampled_to_one_grid() -> None:
    exact = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(3))
    alone = features_on(FeatureMap((exact,), (80, 60)), (8, 6))
    torch.testing.assert_close(alone, normalize(exact, dim=0))
    both = features_on(
        FeatureMap((exact, exact.repeat_interleave(4, 1).repeat_interleave(4, 2)), (80, 60)), (8, 6)
    )
    torch.testing.assert_close(both.norm(dim=0), torch.ones(6, 8))
    torch.testing.assert_close(both[:5] * 2**0.5, alone, atol=1e-5, rtol=0)
    assert grid_for((1920, 1080), 60) == (107, 60)
    assert grid_for((480, 640), 60) == (60, 80)

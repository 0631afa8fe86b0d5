"""Nearest neighbours and radius search: those of all distances in float64, and OpenCV's."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import geomatch.candidates
import geomatch.distances
from geomatch import ShapeError, match_mutual
from geomatch.search import nearest_neighbours, within_radius

Rows = NDArray[np.float32]


def random(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    return rng.normal(size=(37, d)).astype(np.float32), rng.normal(size=(53, d)).astype(np.float32)


def ties(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    """Small whole numbers: most distances occur many times."""
    return rng.integers(0, 2, (37, d)).astype(np.float32), rng.integers(0, 2, (53, d)).astype(np.float32)


def duplicates(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    rows = rng.normal(size=(9, d)).astype(np.float32)
    return rows[rng.integers(0, 9, 37)], rows[rng.integers(0, 9, 53)]


def far_away(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    """Where the squares are a million times as large as the differences."""
    a, b = random(rng, d)
    return a + np.float32(1000), b + np.float32(1000)


def nearly_equal(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    """Differences at the last bits of float32, far below those of bfloat16."""
    centre = rng.normal(size=d)
    return (
        (centre + 1e-6 * rng.normal(size=(37, d))).astype(np.float32),
        (centre + 1e-6 * rng.normal(size=(53, d))).astype(np.float32),
    )


def large_and_small(rng: np.random.Generator, d: int) -> tuple[Rows, Rows]:
    """Norms over thirty orders of magnitude."""
    a, b = random(rng, d)
    scale = 10.0 ** rng.uniform(-15, 15, (53, 1))
    return a * scale[:37].astype(np.float32), b * scale.astype(np.float32)


DATA = [random, ties, duplicates, far_away, nearly_equal, large_and_small]
Make = Callable[[np.random.Generator, int], tuple[Rows, Rows]]


@pytest.fixture(params=[1 << 11, 1 << 24])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (geomatch.candidates, geomatch.distances):
        monkeypatch.setattr(module, "CHUNK_BYTES", request.param)


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def _precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of choosing candidates, whatever this processor is quick at."""
    monkeypatch.setattr(geomatch.candidates, "_native_bfloat16", lambda: request.param)
    monkeypatch.setattr(geomatch.candidates, "BFLOAT16_WIDTH", 1)


def all_distances(a: Rows, b: Rows) -> NDArray[np.float64]:
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=2)


def assert_nearest(indices: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
    """Each chosen neighbour is as near as the true one of its rank, but for the last bit of float64."""
    order = np.argsort(distances, axis=1, kind="stable")[:, : indices.shape[1]]
    chosen, wanted = (np.take_along_axis(distances, index, 1) for index in (indices, order))
    np.testing.assert_allclose(chosen, wanted, rtol=1e-13)
    assert all(len(set(row)) == len(row) for row in indices.tolist())


@pytest.mark.usefixtures("_chunk", "_precision")
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("d", [3, 64, 700])
@pytest.mark.parametrize("k", [1, 2, 5, 99])
def test_nearest_are_those_of_all_distances(rng: np.random.Generator, make: Make, d: int, k: int) -> None:
    a, b = make(rng, d)
    indices, distances = nearest_neighbours(a, b, k)
    true = all_distances(a, b)
    assert indices.shape == distances.shape == (37, min(k, 53))
    assert_nearest(indices, true)
    np.testing.assert_allclose(distances, np.take_along_axis(true, indices, 1), rtol=1e-6)


@pytest.mark.usefixtures("_chunk", "_precision")
def test_of_equal_distances_the_first_counts(rng: np.random.Generator) -> None:
    """Whole numbers are exact in float64: the order is that of the index, to the last one."""
    for d in (2, 700):
        a, b = ties(rng, d)
        order = np.argsort(all_distances(a, b), axis=1, kind="stable")
        np.testing.assert_array_equal(nearest_neighbours(a, b, 53)[0], order)
        np.testing.assert_array_equal(nearest_neighbours(a, b, 4)[0], order[:, :4])
        rows = duplicates(rng, d)[0]
        first = [np.flatnonzero((rows == row).all(1))[0] for row in rows]
        np.testing.assert_array_equal(nearest_neighbours(rows, rows, 1)[0][:, 0], first)


@pytest.mark.usefixtures("_chunk", "_precision")
@pytest.mark.parametrize("make", DATA)
def test_mask(rng: np.random.Generator, make: Make) -> None:
    a, b = make(rng, 16)
    mask = rng.random((37, 53)) < 0.1
    mask[5] = False
    distances = np.where(mask, all_distances(a, b), np.inf)
    indices, found = nearest_neighbours(a, b, 3, mask)
    for row in range(37):
        allowed = min(3, int(mask[row].sum()))
        assert (indices[row, allowed:] == -1).all()
        assert np.isinf(found[row, allowed:]).all()
        if allowed:
            assert mask[row, indices[row, :allowed]].all()
            assert_nearest(indices[row : row + 1, :allowed], distances[row : row + 1])


@pytest.mark.usefixtures("_chunk", "_precision")
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("d", [6, 600])
@pytest.mark.parametrize("masked", [False, True])
def test_radius(rng: np.random.Generator, make: Make, d: int, masked: bool) -> None:
    a, b = make(rng, d)
    mask = rng.random((37, 53)) < 0.5 if masked else None
    true = all_distances(a, b)
    allowed = np.ones_like(true, bool) if mask is None else mask
    for radius in (0.0, 1.0, float(np.median(true)) * (1 + 1e-9), 1e200, np.inf):
        rows, columns, distances = within_radius(a, b, radius, mask)
        wanted = {(int(i), int(j)) for i, j in np.argwhere((true <= radius) & allowed)}
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == wanted
        assert (np.diff(rows) >= 0).all()
        found = true[rows, columns]
        assert (np.diff(found)[np.diff(rows) == 0] >= -1e-12 * found.max(initial=0)).all()
        np.testing.assert_allclose(distances, true[rows, columns], rtol=1e-6)
    assert len(within_radius(a, b, -1.0)[0]) == 0


@pytest.mark.parametrize("make", [random, ties, duplicates])
def test_the_same_as_opencv(rng: np.random.Generator, make: Make) -> None:
    """Whole numbers to the last tie, others where float32 tells the neighbours apart."""
    a, b = make(rng, 24)
    found = cv2.BFMatcher().knnMatch(a, b, 3)
    theirs = [[match.trainIdx for match in row] for row in found]
    ours = nearest_neighbours(a, b, 3)[0]
    if make is duplicates:  # of one distance, which OpenCV's float32 leaves in order as well
        assert (ours == theirs).mean() > 0.95
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("make", DATA)
def test_threads_and_blocks_change_nothing(
    rng: np.random.Generator, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make(rng, 600)
    threads = torch.get_num_threads()
    found = []
    try:
        for number, size in ((1, 1 << 24), (2, 1 << 24), (2, 1 << 12)):
            torch.set_num_threads(number)
            monkeypatch.setattr(geomatch.candidates, "CHUNK_BYTES", size)
            found.append((*nearest_neighbours(a, b, 2), match_mutual(a, b, "l2"), match_mutual(a, b)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_mutual_is_what_both_searches_agree_on(rng: np.random.Generator, make: Make, metric: str) -> None:
    a, b = make(rng, 600)
    kept0, kept1 = np.arange(len(a)), np.arange(len(b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        kept0, kept1 = (np.flatnonzero((rows != 0).any(1)) for rows in (a, b))
        x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x[kept0], y[kept1]))
    true = np.linalg.norm(x[:, None] - y[None], axis=2)
    if make in (nearly_equal, ties) and metric == "cosine":  # beyond float64's own rounding
        true = np.round(true, 12)
    forward, backward = true.argmin(1), true.argmin(0)
    wanted = {(int(kept0[i]), int(kept1[j])) for i, j in enumerate(forward) if backward[j] == i}
    found = set(map(tuple, match_mutual(a, b, metric).indices.tolist()))  # type: ignore[arg-type]
    if make in (ties, duplicates) and metric == "cosine":  # equal directions of unequal lengths
        assert len(found ^ wanted) <= 0.1 * len(wanted) + 1
    else:
        assert found == wanted


def test_torchs_defaults_change_nothing(rng: np.random.Generator) -> None:
    a, b = random(rng, 20)
    before = nearest_neighbours(a, b, 2)[0]
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(nearest_neighbours(a, b, 2)[0], before)
        with torch.device("meta"):
            np.testing.assert_array_equal(nearest_neighbours(a, b, 2)[0], before)
            assert len(match_mutual(a, b))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_precision")
def test_autocast_changes_nothing(rng: np.random.Generator) -> None:
    a = rng.normal(size=(200, 64)).astype(np.float32)
    b = np.concatenate([a + 0.05 * rng.normal(size=a.shape) for _ in range(3)]).astype(np.float32)
    before = nearest_neighbours(a, b, 2)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(nearest_neighbours(a, b, 2)[0], before)


def test_nothing_to_find() -> None:
    rows = np.ones((3, 4), np.float32)
    for a, b in ((rows[:0], rows), (rows, rows[:0]), (np.zeros((0, 0), np.float32), rows)):
        indices, distances = nearest_neighbours(a, b, 2)
        assert indices.shape == distances.shape == (len(a), min(2, len(b)))
        assert [len(part) for part in within_radius(a, b, 1.0)] == [0, 0, 0]
        assert len(match_mutual(a, b)) == 0


def test_wrong_input() -> None:
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="k must be at least 1"):
        nearest_neighbours(rows, rows, 0)
    with pytest.raises(ValueError, match="radius must be a number"):
        within_radius(rows, rows, float("nan"))
    with pytest.raises(ShapeError, match="train must have shape"):
        nearest_neighbours(rows, rows[:, :3], 1)
    with pytest.raises(ShapeError, match="at least one column"):
        nearest_neighbours(rows[:, :0], rows[:, :0], 1)
    numbers = np.eye(3, dtype=np.uint8)
    np.testing.assert_array_equal(nearest_neighbours(rows, rows, 1, numbers)[0][:, 0], [0, 1, 2])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="mask must have shape"):
        nearest_neighbours(rows, rows, 1, np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="query must be finite"):
        nearest_neighbours(rows * np.nan, rows, 1)

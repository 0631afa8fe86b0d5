import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import geomatch.candidates
import geomatch.distances
from geomatch import ShapeError, match_mutual
from geomatch.types import Metric

METRICS: list[Metric] = ["cosine", "l2"]


def brute_force(a: NDArray[np.float64], b: NDArray[np.float64], metric: Metric) -> set[tuple[int, int]]:
    """Mutual nearest neighbours by their definition, in double precision."""
    if metric == "cosine":
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        b = b / np.linalg.norm(b, axis=1, keepdims=True)
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    forward, backward = distance.argmin(1), distance.argmin(0)
    return {(i, int(j)) for i, j in enumerate(forward) if backward[j] == i}


@pytest.fixture(params=[1 << 8, 1 << 12, geomatch.candidates.CHUNK_BYTES])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (geomatch.candidates, geomatch.distances):
        monkeypatch.setattr(module, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(40, 60, 8), (61, 17, 3), (1, 5, 4), (5, 1, 4)])
def test_agrees_with_the_definition(
    metric: Metric, shape: tuple[int, int, int], rng: np.random.Generator
) -> None:
    n0, n1, d = shape
    a, b = rng.normal(0, 2, (n0, d)), rng.normal(0, 2, (n1, d))
    found = match_mutual(a, b, metric)
    assert set(map(tuple, found.indices.tolist())) == brute_force(a, b, metric)
    assert (np.diff(found.similarity) <= 0).all()
    i, j = found.indices.T
    if metric == "cosine":
        lengths = np.linalg.norm(a[i], axis=1) * np.linalg.norm(b[j], axis=1)
        expected = (a[i] * b[j]).sum(1) / lengths
    else:
        expected = -np.linalg.norm(a[i] - b[j], axis=1)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_swapping_the_images_swaps_the_columns(metric: Metric, rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 1, (50, 6)), rng.normal(0, 1, (70, 6))
    one, other = match_mutual(a, b, metric), match_mutual(b, a, metric)
    assert set(map(tuple, one.indices.tolist())) == set(map(tuple, other.indices[:, ::-1].tolist()))


@pytest.mark.parametrize("metric", METRICS)
def test_permutation_is_recovered(metric: Metric, rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (300, 16)).astype(np.float32)
    order = rng.permutation(300)
    found = match_mutual(a, a[order], metric)
    assert len(found) == 300
    np.testing.assert_array_equal(order[found.indices[:, 1]], found.indices[:, 0])


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_rows_the_first_counts(metric: Metric) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (4, 40)).astype(np.float32)
    a = np.repeat(rows, 6, axis=0)  # six copies of each of four rows
    found = match_mutual(a, a, metric)
    assert sorted(map(tuple, found.indices.tolist())) == [(0, 0), (6, 6), (12, 12), (18, 18)]


def test_rows_without_direction_match_nothing() -> None:
    a = np.array([[0.0, 0], [1, 0]])
    assert match_mutual(a, a).indices.tolist() == [[1, 1]]
    assert len(match_mutual(np.zeros((2, 2)), a)) == 0
    assert len(match_mutual(a, a, "l2")) == 2


@pytest.mark.parametrize("metric", METRICS)
def test_ratio_and_similarity_are_filters(metric: Metric, rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 1, (80, 5)), rng.normal(0, 1, (90, 5))
    if metric == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    everything = match_mutual(a, b, metric)
    distance = np.sort(np.linalg.norm(a[:, None] - b[None], axis=2), axis=1)
    ratio = distance[:, 0] / distance[:, 1]
    kept = match_mutual(a, b, metric, max_ratio=0.8)
    assert kept == everything[ratio[everything.indices[:, 0]] < 0.8]
    middle = float(np.median(everything.similarity))
    assert match_mutual(a, b, metric, min_similarity=middle) == everything[everything.similarity >= middle]


def test_ratio_with_a_single_candidate_keeps_it() -> None:
    assert len(match_mutual(np.ones((3, 2)), np.ones((1, 2)), max_ratio=0.5)) == 1


def test_empty_inputs_give_empty_matches() -> None:
    for a, b in ((0, 5), (5, 0), (0, 0)):
        found = match_mutual(np.zeros((a, 4)), np.ones((b, 4)))
        assert len(found) == 0
        assert found.indices.shape == (0, 2)
    assert len(match_mutual(np.zeros((0, 1)), np.ones((5, 4)))) == 0


def test_half_precision_is_computed_in_single(rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (50, 64)).astype(np.float16)
    b = rng.normal(0, 1, (60, 64)).astype(np.float16)
    assert match_mutual(a, b) == match_mutual(a.astype(np.float32), b.astype(np.float32))


def test_wrong_input_is_refused() -> None:
    good = np.ones((3, 4))
    with pytest.raises(ShapeError, match=r"descriptors1 must have shape \(N1, 4\), got \(3, 5\)"):
        match_mutual(good, np.ones((3, 5)))
    with pytest.raises(ShapeError):
        match_mutual(good[0], good)
    with pytest.raises(ValueError, match="descriptors1 must be finite"):
        match_mutual(good, np.full((3, 4), np.inf))
    with pytest.raises(ValueError, match="metric"):
        match_mutual(good, good, "hamming")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_ratio"):
        match_mutual(good, good, max_ratio=1.5)


def test_input_is_not_written(rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (30, 4)).astype(np.float32)
    a.flags.writeable = False
    before = a.copy()
    match_mutual(a, a[::-1])
    np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_l2_is_exact_far_from_the_origin(offset: float, rng: np.random.Generator) -> None:
    a, b = (rng.normal(0, 1, (200, 32)).astype(np.float32) + np.float32(offset) for _ in range(2))
    found = match_mutual(a, b, "l2")
    assert set(map(tuple, found.indices.tolist())) == brute_force(a.astype(float), b.astype(float), "l2")


def test_ratio_of_near_copies_is_exact(rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (30, 16))
    b = np.concatenate([a, a + rng.normal(0, 1e-2, a.shape)])
    assert len(match_mutual(a, b, max_ratio=0.5)) == 30


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' memory high-water mark")
@pytest.mark.parametrize("options", ["", ", 'l2', max_ratio=0.9"])
def test_ten_thousand_by_ten_thousand_stays_in_memory(options: str) -> None:
    """In a process of its own, whose high-water mark is reset after the descriptors exist."""
    code = f"""
import numpy as np
from geomatch import match_mutual
def status(name):
    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(name)) / 1024
rng = np.random.default_rng(0)
a = rng.standard_normal((10_000, 1280), dtype=np.float32)
b = a[rng.permutation(10_000)]
a.flags.writeable = False  # as the arrays of Features are
match_mutual(a[:100], b[:100])
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
assert len(match_mutual(a, b{options})) == 10_000
print(status('VmHWM') - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 150

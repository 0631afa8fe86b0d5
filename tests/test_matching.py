"""The matcher: agreement with all distances in float64, ties, memory, and torch's settings."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import geomatch.matching
from geomatch import ShapeError, match_mutual
from geomatch.matching import as_rows, match_many
from geomatch.types import Metric

METRICS: list[Metric] = ["cosine", "l2"]
Rows = NDArray[np.float32]


def random(rng: np.random.Generator, n: int, d: int) -> Rows:
    return rng.normal(size=(n, d)).astype(np.float32)


def ties(rng: np.random.Generator, n: int, d: int) -> Rows:
    """Small whole numbers: most distances occur many times."""
    return rng.integers(0, 2, (n, d)).astype(np.float32)


def duplicates(rng: np.random.Generator, n: int, d: int) -> Rows:
    return np.eye(9, d, dtype=np.float32)[rng.integers(0, 9, n)] * np.float32(3)


def far_away(rng: np.random.Generator, n: int, d: int) -> Rows:
    """Squares a million times as large as the differences, which float32 cannot subtract."""
    return random(rng, n, d) + np.float32(1000)


def large(rng: np.random.Generator, n: int, d: int) -> Rows:
    """Norms over two orders of magnitude."""
    return random(rng, n, d) * np.float32(10.0) ** rng.uniform(-1, 1, (n, 1)).astype(np.float32)


DATA = [random, ties, duplicates, far_away, large]


def distances(a: Rows, b: Rows, metric: str = "l2") -> NDArray[np.float64]:
    """(N0, N1) in float64, infinite for rows of zeros under the cosine."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        with np.errstate(invalid="ignore"):
            x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    apart = np.linalg.norm(x[:, None] - y[None], axis=2)
    return np.where(np.isnan(apart), np.inf, np.round(apart, 12))


def pairs_of(found: Any) -> set[tuple[int, int]]:
    return set(map(tuple, found.indices.tolist()))


@pytest.fixture(params=[1 << 9, 1 << 22], ids=["many chunks", "one chunk"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geomatch.matching, "CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("make", DATA)
@pytest.mark.parametrize("metric", METRICS)
def test_mutual_agrees_with_the_definition(make: Any, metric: Metric, rng: np.random.Generator) -> None:
    for n0, n1, d in ((37, 53, 16), (60, 41, 600), (1, 5, 9), (5, 1, 9)):
        a, b = make(rng, n0, d), make(rng, n1, d)
        true = distances(a, b, metric)
        forward, backward = true.argmin(1), true.argmin(0)
        wanted = {(i, int(j)) for i, j in enumerate(forward) if backward[j] == i and true[i, j] < np.inf}
        found, swapped = match_mutual(a, b, metric), match_mutual(b, a, metric)
        if metric == "cosine" and make is ties:  # equal directions of unequal lengths round apart
            assert len(pairs_of(found) ^ wanted) <= 2
            continue
        if metric == "cosine" and make is far_away:  # directions that float32 cannot tell apart
            continue
        assert pairs_of(found) == wanted
        assert {(i, j) for j, i in pairs_of(swapped)} == wanted, "the same with the images swapped"
        assert (np.diff(found.similarity) <= 0).all()
        apart = true[tuple(found.indices.T)]
        similarity = 1 - apart**2 / 2 if metric == "cosine" else -apart
        np.testing.assert_allclose(found.similarity, similarity, rtol=1e-6, atol=1e-7)


def test_sift_distances_are_exact(rng: np.random.Generator) -> None:
    """Whole numbers of norm 512: the float32 nearest to the root of a whole number."""
    a, b = (rng.integers(0, 256, (40, 128)) for _ in range(2))
    squares = ((a[:, None] - b[None]) ** 2).sum(2)
    found = match_mutual(a, b, "l2")
    i, j = found.indices.T
    np.testing.assert_array_equal(j, squares.argmin(axis=1)[i])
    np.testing.assert_array_equal(-found.similarity, np.sqrt(squares[i, j]).astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_matched_to_the_first(metric: Metric, rng: np.random.Generator) -> None:
    """Also when there are more of them than are compared."""
    rows = np.repeat(random(rng, 4, 40), 60, axis=0)
    found = match_mutual(rows, rows, metric)
    assert sorted(map(tuple, found.indices.tolist())) == [(i, i) for i in (0, 60, 120, 180)]
    assert len(match_mutual(rows, rows, metric, max_ratio=1.0)) == 0, "the second is as near"
    assert match_mutual(rows[:60], rows[:60], metric).indices.tolist() == [[0, 0]]


def test_rows_of_zeros_match_nothing_under_the_cosine() -> None:
    a = np.array([[0.0, 0], [1, 0]])
    assert match_mutual(a, a).indices.tolist() == [[1, 1]]
    assert match_mutual(-a, a).indices.tolist() == [[1, 1]]
    assert len(match_mutual(np.zeros((2, 2)), a)) == len(match_mutual(a * 0, a * 0)) == 0
    assert len(match_mutual(a, a, "l2")) == 2


@pytest.mark.parametrize("metric", METRICS)
def test_ratio_and_similarity_are_filters(metric: Metric, rng: np.random.Generator) -> None:
    a, b = random(rng, 80, 5), random(rng, 90, 5)
    everything = match_mutual(a, b, metric)
    apart = np.sort(distances(a, b, metric), axis=1)
    kept = match_mutual(a, b, metric, max_ratio=0.8)
    assert 0 < len(kept) < len(everything)
    assert kept == everything[(apart[:, 0] < 0.8 * apart[:, 1])[everything.indices[:, 0]]]
    middle = float(np.median(everything.similarity))
    assert match_mutual(a, b, metric, min_similarity=middle) == everything[everything.similarity >= middle]
    assert len(match_mutual(a, b[:1], metric, max_ratio=0.5)) == 1, "without a second nearest it is kept"


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("metric", METRICS)
def test_many_pairs_are_matched_as_each_alone(metric: Metric, rng: np.random.Generator) -> None:
    """Also with images without rows, one of zeros, and a pair twice."""
    images = [random(rng, n, 12) for n in (70, 0, 130, 65)]
    images.append(np.concatenate([images[0][:40], np.zeros((1, 12), np.float32)]))
    images[2][5] = images[2][9] = images[0][3]
    pairs = [(0, 2), (1, 0), (2, 0), (3, 1), (0, 4), (0, 2), (3, 3)]
    middle = float(np.median(match_mutual(images[0], images[2], metric).similarity))
    for least, ratio in ((None, None), (middle, None), (None, 0.9), (middle, 0.8)):
        found = match_many([as_rows(rows) for rows in images], pairs, metric, least, ratio)
        assert len(found) == len(pairs)
        for (one, two), (every, distinct) in zip(pairs, found, strict=True):
            assert every == match_mutual(images[one], images[two], metric, least)
            assert every[distinct] == match_mutual(images[one], images[two], metric, least, ratio)
    assert match_many([], [], metric) == []


def test_half_precision_is_computed_in_single_and_input_is_not_written(rng: np.random.Generator) -> None:
    a, b = random(rng, 50, 64), random(rng, 60, 64)
    a.flags.writeable = b.flags.writeable = False
    before = match_mutual(a, b)
    assert match_mutual(a.astype(np.float64), b) == before
    half = a.astype(np.float16)
    assert match_mutual(half, b) == match_mutual(half.astype(np.float32), b)
    ((matches, _),) = match_many([torch.tensor(a, requires_grad=True), torch.tensor(b)], [(0, 1)])
    assert matches == before


@contextmanager
def changed(change: Any, value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


MKLDNN: Any = torch.backends.mkldnn.matmul
SETTINGS: list[Any] = [
    lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    lambda: torch.device("meta"),
    torch.inference_mode,
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    lambda: changed(torch.set_float32_matmul_precision, "medium", "highest"),
    lambda: changed(partial(setattr, MKLDNN, "fp32_precision"), "bf16", MKLDNN.fp32_precision),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_process_wide_settings_change_nothing(setting: Any, rng: np.random.Generator) -> None:
    a = random(rng, 200, 64)
    b = np.concatenate([a + 0.05 * random(rng, 200, 64) for _ in range(3)])

    def results() -> list[Any]:
        found = match_mutual(a, b, "cosine", None, 0.9), match_mutual(a, b, "l2")
        return [part for matches in found for part in (matches.indices, matches.similarity)]

    before = results()
    with setting():
        during = results()
    for one, two in zip(before, during, strict=True):
        np.testing.assert_array_equal(one, two)


def test_threads_and_chunks_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random(rng, 300, 200), random(rng, 300, 200)
    before, number = match_mutual(a, b, max_ratio=0.95), torch.get_num_threads()
    with changed(torch.set_num_threads, 3 - number if number < 3 else 1, number):
        assert match_mutual(a, b, max_ratio=0.95) == before
    monkeypatch.setattr(geomatch.matching, "CHUNK", 1 << 12)
    assert match_mutual(a, b, max_ratio=0.95) == before


def test_nothing_to_find() -> None:
    rows = torch.ones(3, 4)
    for a, b in ((rows[:0], rows), (rows, rows[:0]), (torch.zeros(0, 0), rows), (rows[:0], rows[:0])):
        assert match_mutual(a.numpy(), b.numpy(), max_ratio=0.8).indices.shape == (0, 2)


def test_wrong_input() -> None:
    good = np.ones((3, 4))
    with pytest.raises(ShapeError, match=r"shapes \(N0, D\) and \(N1, D\), got \(3, 4\) and \(3, 5\)"):
        match_mutual(good, np.ones((3, 5)))
    for other in (good[0], good[:, :0]):
        with pytest.raises(ShapeError):
            match_mutual(other, other)
    for number in (np.nan, np.inf, np.float32(1e30)):  # the square of the last is beyond float32
        with pytest.raises(ValueError, match="descriptors1 must be finite and below 1e"):
            match_mutual(good, good * number)
    for options in ({"metric": "hamming"}, {"max_ratio": 1.5}, {"min_similarity": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            match_mutual(good, good, **options)  # type: ignore[arg-type]


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
    # freed chunks go back at once: how far a heap splinters is not what is measured
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 0 < float(done.stdout) < 150

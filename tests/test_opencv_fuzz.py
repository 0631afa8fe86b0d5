"""Random calls: results that hold what they promise, or a TypeError or ValueError, and never a crash."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from geomatch import Features
from geomatch import opencv as gcv
from geomatch.images import Image

CALLS = 20
"""Per example, so that drawing the examples does not take most of the time."""


class Mean:
    """A describer that costs nothing: colour of the nearest pixel, and whether there is an orientation."""

    def describe(self, image: Image, features: Features) -> Features:
        width, height = image.size
        places = np.clip(np.round(features.keypoints), 0, [width - 1, height - 1]).astype(int)
        colours = image.pixels[places[:, 1], places[:, 0]] + 1.0
        rows = np.c_[colours, np.full(len(features), features.orientations is not None)]
        return replace(features, descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True))


CHEAP = [
    gcv.DIFT_create(descriptor=Mean()),
    gcv.DIFT_create(5, descriptor=Mean()),
    gcv.DIFT_create(detector="orb", descriptor=Mean()),
    gcv.DIFT_create(7, detector=cv2.FastFeatureDetector_create(), descriptor=Mean()),  # type: ignore[attr-defined]
    gcv.DIFT_create(detector=cv2.GFTTDetector_create(), descriptor=Mean()),  # type: ignore[attr-defined]
    gcv.Grid_create(8, descriptor=Mean()),
    gcv.Grid_create(3, 2, 9, descriptor=Mean()),
]
REAL = [gcv.DIFT_create(8), gcv.DIFT_create(4, detector="orb"), gcv.Grid_create(16, nfeatures=4)]

DTYPES = [np.uint8] * 12 + [
    np.bool_,
    np.int8,
    np.uint16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
]
NUMBERS = [0.0, -0.5, 1e-30, 3.7, 11.2, 39.5, 40.0, 1e4, 1e30, -1e30, -1.0, 360.0, float("inf"), float("nan")]


def random_array(rng: np.random.Generator, height: int, width: int, channels: int) -> NDArray[Any]:
    """Noise, blobs or one value; now and then transposed, strided, read-only or in Fortran order."""
    shape: tuple[int, ...] = (height, width) if channels == 0 else (height, width, channels)
    kind = rng.integers(4)
    if kind == 0:
        array = np.full(shape, rng.integers(256))
    elif kind == 1:
        array = rng.integers(0, 256, shape)
    else:
        coarse = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, *shape[2:]))
        array = np.kron(coarse, np.ones((5, 5, *[1] * (len(shape) - 2)), int))[:height, :width]
    with np.errstate(invalid="ignore"):
        array = array.astype(DTYPES[rng.integers(len(DTYPES))])
    layout = rng.integers(6)
    if layout == 0 and array.ndim == 3:
        array = array[:, :, ::-1]
    elif layout == 1:
        array = np.asfortranarray(array)
    elif layout == 2:
        array = np.repeat(array, 2, axis=1)[:, ::2]
    elif layout == 3:
        array = array[::-1, ::-1]
    elif layout == 4:
        array.flags.writeable = False
    return array


def random_image(rng: np.random.Generator) -> Any:
    kind = rng.integers(30)
    if kind == 0:
        return [None, "x", 3, [], [[1]], np.zeros(5, np.uint8), np.zeros((2, 3, 3, 3), np.uint8)][
            rng.integers(7)
        ]
    side = int(rng.choice([1, 2, 15, 16, 17, 40], p=[0.1, 0.1, 0.1, 0.2, 0.2, 0.3]))
    other = int(rng.choice([0, 1, 16, 33, 40], p=[0.04, 0.06, 0.3, 0.3, 0.3]))
    return random_array(
        rng, side, other, int(rng.choice([0, 1, 2, 3, 4, 5], p=[0.3, 0.1, 0.05, 0.4, 0.1, 0.05]))
    )


def random_mask(rng: np.random.Generator, image: Any) -> Any:
    if not isinstance(image, np.ndarray) or image.ndim < 2 or rng.random() < 0.4:
        return None
    kind = rng.integers(8)
    if kind == 0:
        return random_array(rng, image.shape[0] + 1, image.shape[1], 0)
    if kind == 1:
        return ["x", 3, [1], np.zeros((0, 0), np.uint8), np.zeros(4, np.uint8)][rng.integers(5)]
    mask = random_array(rng, image.shape[0], image.shape[1], int(rng.integers(2)))
    return mask.astype(np.uint8) if kind < 6 else mask


def random_number(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 40)) if rng.random() < 0.7 else NUMBERS[rng.integers(len(NUMBERS))]


def random_keypoints(rng: np.random.Generator) -> Any:
    kind = rng.integers(20)
    if kind == 0:
        return [None, (), "xy", 3, [1, 2], np.zeros((2, 2), np.float32), [None]][rng.integers(7)]
    points = [
        cv2.KeyPoint(
            *(random_number(rng) for _ in range(5)), int(rng.integers(-9, 999)), int(rng.integers(-2, 9))
        )
        for _ in range(rng.integers(6))
    ]
    return points if kind % 2 else tuple(points)


def check(image: Any, points: Any, rows: Any, width: int) -> None:
    assert isinstance(points, tuple)
    if isinstance(image, list):
        assert points == rows == ()
        return
    if rows is None:
        assert len(points) == 0 or image.size == 0
        return
    assert rows.dtype == np.float32
    assert rows.shape == (len(points), width)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)


def one_call(feature: gcv.Feature2D, rng: np.random.Generator, width: int) -> bool:
    """Whether it gave a result."""
    image = random_image(rng)
    try:
        kind = rng.integers(6)
        if kind == 0:
            points, mask = feature.detect(image, mask := random_mask(rng, image)), mask
            assert all(isinstance(point, cv2.KeyPoint) for point in points)
            if isinstance(mask, np.ndarray) and mask.size and not isinstance(image, list):
                assert all(mask[int(p.pt[1] + 0.5), int(p.pt[0] + 0.5)] for p in points)
        elif kind == 1:
            check(image, *feature.detectAndCompute(image, random_mask(rng, image)), width)
        elif kind == 2:
            images = [image, random_image(rng)]
            for one, points, rows in zip(
                images, *feature.compute(images, [random_keypoints(rng), random_keypoints(rng)]), strict=True
            ):
                check(one, points, rows, width)
        elif kind == 3:
            feature.detect([image, random_image(rng)][: rng.integers(3)], [None, None][: rng.integers(3)])
        else:
            check(image, *feature.compute(image, random_keypoints(rng)), width)
    except (TypeError, ValueError):
        return False
    return True


def run_calls(count: int, features: list[gcv.Feature2D]) -> None:
    results = [0, 0]
    widths = [feature.descriptorSize() for feature in features]

    @settings(
        max_examples=count // CALLS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**63))
    def calls(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(CALLS):
            which = int(rng.integers(len(features)))
            results[one_call(features[which], rng, widths[which])] += 1

    calls()
    assert sum(results) >= count
    assert min(results) > 0.15 * count, "both results and errors are common"


def test_thousands_of_calls() -> None:
    run_calls(6_000, CHEAP)


def test_calls_with_the_model() -> None:
    run_calls(100, REAL)


@pytest.mark.slow
def test_two_hundred_thousand_calls() -> None:
    run_calls(200_000, CHEAP)
    run_calls(4_000, REAL)


def matcher_call(rng: np.random.Generator, matcher: gcv.BFMatcher) -> bool:
    def rows() -> Any:
        kind = rng.integers(15)
        if kind == 0:
            return [None, "x", 3, [[1.0]], np.zeros(4, np.float32), np.zeros((1, 2, 2), np.float32)][
                rng.integers(6)
            ]
        array = rng.integers(0, 3, (rng.integers(6), 3 if kind > 1 else 2))
        if kind == 2:
            return np.full((2, 3), np.nan, np.float32)
        return np.asfortranarray(
            array.astype(rng.choice([np.float32, np.uint8, np.float64, np.int32], p=[0.6, 0.2, 0.1, 0.1]))
        )

    query, train = rows(), rows()
    mask = None
    if rng.random() < 0.3 and isinstance(query, np.ndarray) and isinstance(train, np.ndarray):
        mask = rng.integers(0, 2, (len(query), len(train) + int(rng.random() < 0.1))).astype(np.uint8)
    calls: list[Callable[[], Any]] = [
        lambda: matcher.match(query, train, mask),
        lambda: matcher.knnMatch(query, train, int(rng.integers(-1, 4)), mask, bool(rng.integers(2))),
        lambda: matcher.radiusMatch(query, train, random_number(rng), mask),
        lambda: matcher.add([query, train]),
        lambda: matcher.match(query),
        lambda: matcher.knnMatch(query, 2),
        lambda: matcher.radiusMatch(query, 1.5),
        matcher.clear,
    ]
    try:
        which = int(rng.integers(len(calls)))
        found = calls[which]()
        if which == 0 and not matcher.crossCheck and query is not None and train is not None:
            apart = np.linalg.norm(query[:, None].astype(float) - train[None].astype(float), axis=2)
            if mask is not None:
                apart = np.where(mask, apart, np.inf)
            wanted = [
                (i, int(row.argmin())) for i, row in enumerate(apart) if row.size and row.min() < np.inf
            ]
            assert [(match.queryIdx, match.trainIdx) for match in found] == wanted
    except (TypeError, ValueError):
        return False
    return True


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 2**63), st.booleans())
def test_matcher_calls(seed: int, cross_check: bool) -> None:
    rng = np.random.default_rng(seed)
    matcher = gcv.BFMatcher(crossCheck=cross_check)
    assert sum(matcher_call(rng, matcher) for _ in range(CALLS)) > 3


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 2**63))
def test_homography_calls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    method = [0, 4, 8, 16, 32, 33, 35, 38, "ransac", "poselib", 77, None, "x"][rng.integers(13)]
    count = int(rng.integers(3, 12))
    points0, points1 = rng.choice([rng.uniform(0, 40, (2, count, 2)), rng.integers(0, 3, (2, count, 2))])
    if rng.random() < 0.2:
        points0[0, 0] = NUMBERS[rng.integers(len(NUMBERS))]
    if rng.random() < 0.3:
        points0, points1 = points0[:, None].astype(np.float32), points1[None]
    try:
        matrix, mask = gcv.findHomography(points0, points1, method, random_number(rng))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    assert mask.shape == (count, 1)
    assert mask.dtype == np.uint8
    if matrix is None:
        assert not mask.any()
    else:
        assert matrix.dtype == np.float64
        assert matrix[2, 2] == 1
        assert np.isfinite(matrix).all()

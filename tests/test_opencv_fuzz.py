"""Random calls: results that hold what they promise, or a TypeError or ValueError, and never a crash."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from geomatch import Features
from geomatch import opencv as gcv
from geomatch.images import Image
from geomatch.keypoints import GridDetector


class Mean:
    """A describer that costs nothing: colour of the nearest pixel, and 1 with an orientation."""

    def describe(self, image: Image, features: Features) -> Features:
        width, height = image.size
        places = np.clip(np.round(features.keypoints), 0, [width - 1, height - 1]).astype(int)
        colours = image.pixels[places[:, 1], places[:, 0]] + 1.0
        rows = np.c_[colours, np.full(len(features), features.orientations is not None)]
        return replace(features, descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True))


CHEAP = [
    gcv.DIFT_create(5, descriptor=Mean()),
    gcv.DIFT_create(detector="orb", descriptor=Mean()),
    gcv.DIFT_create(7, detector=cv2.FastFeatureDetector_create(), descriptor=Mean()),  # type: ignore[attr-defined]
    gcv.DIFT_create(detector=GridDetector(3, 9), descriptor=Mean()),
]
REAL = [gcv.DIFT_create(8), gcv.DIFT_create(4, detector="grid", descriptor="dift-tiny-dense")]
DTYPES = [np.uint8] * 9 + [np.bool_, np.uint16, np.int64, np.float16, np.float32]
NUMBERS = [0.0, -0.5, 1e-30, 3.7, 39.5, 40.0, 1e30, -1e30, -1.0, 360.0, float("inf"), float("nan")]


def random_array(rng: np.random.Generator, height: int, width: int, channels: int) -> NDArray[Any]:
    """Noise or one value; now and then strided, reversed, read-only or in Fortran order."""
    shape = (height, width, channels)[: 3 if channels else 2]
    array = rng.integers(0, 256, shape) if rng.random() < 0.7 else np.full(shape, rng.integers(256))
    with np.errstate(invalid="ignore"):
        array = array.astype(DTYPES[rng.integers(len(DTYPES))])
    strided = np.repeat(array, 2, axis=1)[:, ::2]
    array.flags.writeable = rng.random() < 0.8
    return [array, np.asfortranarray(array), strided, array[::-1, ::-1]][rng.integers(4)]


def random_image(rng: np.random.Generator) -> Any:
    if rng.random() < 0.03:
        wrong = [None, "x", 3, [], [[1]], np.zeros(5, np.uint8), np.zeros((2, 3, 3, 3), np.uint8)]
        return wrong[rng.integers(len(wrong))]
    height, width = (int(rng.choice([1, 2, 15, 16, 17, 40])) for _ in range(2))
    return random_array(rng, height, width * (rng.random() > 0.03), int(rng.choice([0, 0, 0, 1, 2, 3, 3, 4])))


def random_mask(rng: np.random.Generator, image: Any) -> Any:
    if not isinstance(image, np.ndarray) or image.ndim < 2 or rng.random() < 0.4:
        return None
    if rng.random() < 0.2:
        return ["x", 3, [1], np.zeros((0, 0), np.uint8), np.zeros((99, 3), np.uint8)][rng.integers(5)]
    mask = random_array(rng, image.shape[0], image.shape[1], int(rng.integers(2)))
    return mask.astype(np.uint8) if rng.random() < 0.7 else mask


def random_number(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 40)) if rng.random() < 0.7 else NUMBERS[rng.integers(len(NUMBERS))]


def random_keypoints(rng: np.random.Generator) -> Any:
    if rng.random() < 0.05:
        return [None, (), "xy", 3, [1, 2], np.zeros((2, 2), np.float32), [None]][rng.integers(7)]
    return [cv2.KeyPoint(*(random_number(rng) for _ in range(5))) for _ in range(rng.integers(6))]


def check(image: Any, points: Any, rows: Any, width: int) -> None:
    assert isinstance(points, tuple)
    if isinstance(image, list):
        assert points == rows == ()
    elif rows is None:
        assert len(points) == 0 or image.size == 0
    else:
        assert (rows.dtype, rows.shape) == (np.float32, (len(points), width))
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)


def one_call(feature: gcv.Feature2D, width: int, rng: np.random.Generator) -> bool:
    """True when it gave a result."""
    image = random_image(rng)
    mask, kind = random_mask(rng, image), rng.integers(4)
    try:
        if kind == 0:
            points = feature.detect(image, mask)
            if isinstance(mask, np.ndarray) and mask.size and not isinstance(image, list):
                assert all(mask[int(p.pt[1] + 0.5), int(p.pt[0] + 0.5)] for p in points)
        elif kind == 1:
            check(image, *feature.detectAndCompute(image, mask), width)
        elif kind == 2:
            images = [image, random_image(rng)]
            results = feature.compute(images, [random_keypoints(rng), random_keypoints(rng)])
            for one, points, rows in zip(images, *results, strict=True):
                check(one, points, rows, width)
        else:
            check(image, *feature.compute(image, random_keypoints(rng)), width)
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("times", [1, pytest.param(66, marks=pytest.mark.slow)])
def test_calls(times: int) -> None:
    """3,000 cheap ones and 60 real ones, or 200,000 and 4,000."""
    rng = np.random.default_rng(0)
    for count, features in ((3_000 * times, CHEAP), (60 * times, REAL)):
        widths = [feature.descriptorSize() for feature in features]
        each = list(zip(features, widths, strict=True))
        results = sum(one_call(*each[number % len(each)], rng) for number in range(count))
        assert 0.15 * count < results < 0.85 * count, "both results and errors are common"


@pytest.mark.filterwarnings("ignore::geomatch.opencv.HomographyWarning")
def test_homography_calls() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        method = [0, 4, 8, 16, 32, 33, 35, 38, "ransac", "poselib", 77, None, "x"][rng.integers(13)]
        count = int(rng.integers(3, 12))
        points0, points1 = rng.choice([rng.uniform(0, 40, (2, count, 2)), rng.integers(0, 3, (2, count, 2))])
        if rng.random() < 0.2:
            points0[0, 0] = NUMBERS[rng.integers(len(NUMBERS))]
        try:
            matrix, mask = gcv.findHomography(points0, points1, method, random_number(rng))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        assert (mask.shape, mask.dtype) == ((count, 1), np.uint8)
        assert not mask.any() if matrix is None else matrix[2, 2] == 1 and np.isfinite(matrix).all()

from pathlib import Path

import numpy as np
import pytest

from geomatch import EstimationFailure, Features, GeomatchError, HomographyEstimate, Matches, ShapeError
from geomatch.types import RelativePose, TwoViewGeometry


def features(n: int = 5) -> Features:
    rng = np.random.default_rng(n)
    points, scores, size = rng.uniform(0, 100, (n, 2)), rng.uniform(0, 1, n), (100, 100)
    return Features(points, scores, size, scores + 1, scores * 6, rng.normal(0, 1, (n, 8)))


RECORDS = [
    features(),
    features(0),
    Features(np.zeros((2, 2)), np.ones(2), (3, 4)),
    Matches(np.array([[0, 1], [2, 0]]), np.array([0.9, 0.5])),
    Matches(np.zeros((0, 2), np.int64), np.zeros(0)),
    HomographyEstimate(np.eye(3), np.array([True, False])),
    TwoViewGeometry("planar", np.eye(3), np.array([True, False])),
    RelativePose(np.eye(3), np.array([True, False]), 0.5),
    RelativePose(np.eye(3), np.array([True, False]), 0.5, np.array([0, 0, 1.0]), 2, np.eye(4)[:3], 1),
    EstimationFailure("too few matches"),
]


def test_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    for record in RECORDS:
        record.save(path)
        assert type(record).load(path) == record
    assert [p.name for p in tmp_path.iterdir()] == ["record.npz"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    EstimationFailure("x").save(tmp_path / "a.npz")
    with pytest.raises(GeomatchError, match=r"expected Features, the file holds EstimationFailure"):
        Features.load(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("b.npz", "missing.npz"):
        with pytest.raises(GeomatchError, match=name):
            Matches.load(tmp_path / name)
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, kind="Matches", indices=np.zeros((1, 2), int))
    with pytest.raises(GeomatchError, match="expected indices, similarity, found indices"):
        Matches.load(tmp_path / "a.npz")


def test_equality_sees_every_field() -> None:
    a = features()
    assert a == features()
    assert a != a[:4]
    assert a != Features(a.keypoints, a.scores, a.image_size)
    assert a != Features(a.keypoints, a.scores, (100, 101), a.scales, a.orientations, a.descriptors)
    assert a != 3
    assert EstimationFailure("a") != EstimationFailure("b")


def test_arrays_are_converted_and_cannot_be_written() -> None:
    points = np.ones((2, 2), np.float32)
    copied = Features(points, np.ones(2), (3, 3))
    points[:] = np.nan
    assert (copied.keypoints == 1).all()
    f = features()
    assert f.keypoints.dtype == f.scores.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        f.keypoints[0, 0] = 1
    with pytest.raises(AttributeError):
        f.scores = np.zeros(5)  # type: ignore[misc]


def test_indexing_keeps_rows_together() -> None:
    f = features()
    index = np.array([3, 1])
    for field in ("keypoints", "scores", "scales", "orientations", "descriptors"):
        np.testing.assert_array_equal(getattr(f[index], field), getattr(f, field)[index])
    np.testing.assert_array_equal(f[f.scores > 0.5].scores, f.scores[f.scores > 0.5])
    matches = Matches(np.array([[0, 1], [2, 0]]), np.array([0.9, 0.5]))
    assert matches[:1].indices.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keypoints": np.zeros((3, 3))}, r"Features.keypoints must have shape \(N, 2\), got \(3, 3\)"),
        ({"scores": np.zeros(4)}, r"Features.scores must have shape \(3,\), got \(4,\)"),
        ({"keypoints": np.full((3, 2), np.nan)}, "must be finite"),
        ({"image_size": (0, 5)}, "must be positive"),
        ({"descriptors": np.zeros(3)}, r"shape \(3, D\)"),
        ({"scales": np.zeros(3)}, "must be positive"),
    ],
)
def test_wrong_features_are_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"keypoints": np.zeros((3, 2)), "scores": np.ones(3), "image_size": (4, 4)}
    with pytest.raises(ValueError, match=message):
        Features(**(good | arguments))  # type: ignore[arg-type]


def test_wrong_matches_and_estimates_are_refused() -> None:
    with pytest.raises(ShapeError):
        Matches(np.zeros((2, 3), np.int64), np.zeros(2))
    with pytest.raises(ValueError, match="negative"):
        Matches(np.array([[-1, 0]]), np.zeros(1))
    with pytest.raises(ValueError, match="integers"):
        Matches(np.array([[0.5, 0]]), np.zeros(1))
    with pytest.raises(ValueError, match=r"\[2, 2\] must be 1"):
        HomographyEstimate(np.eye(3) * 2, np.ones(1, np.bool_))
    last = np.diag([1, 1, np.nextafter(1, 0)])  # as some of OpenCV's solvers end
    assert HomographyEstimate(last, np.ones(1, np.bool_))


def test_truth_of_an_estimate() -> None:
    assert not EstimationFailure("no")
    inliers = np.array([True, False])
    for found in HomographyEstimate(np.eye(3), inliers), TwoViewGeometry("planar", np.eye(3), inliers):
        assert found
        assert found.num_inliers == 1

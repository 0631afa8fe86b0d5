from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from match_sets import NO_RELATION
from numpy.typing import NDArray

import geomatch
from geomatch import Camera, EstimationFailure, GeomatchError, RelativePose, ShapeError, relative_pose
from geomatch.cameras import pycolmap, read_cameras
from geomatch.estimators import Essential, Fundamental
from geomatch.images import Image, reduce_image
from geomatch.types import Features, TwoViewGeometry

SIZE = (640, 480)
K = np.array([[800.0, 0, 319.5], [0, 800, 239.5], [0, 0, 1]])
TURN = np.asarray(cv2.Rodrigues(np.array([0.05, -0.15, 0.1]))[0])
SIDEWAYS = np.array([0.8, 0.0, 0.6])
Points = NDArray[np.float64]


def views(
    rng: np.random.Generator, shift: Points = 0.5 * SIDEWAYS, flat: bool = False, noise: float = 0.0
) -> tuple[Points, Points]:
    """Up to 80 points that both cameras see, in pixels; camera 1 is at TURN and ``shift``."""
    rays = (rng.uniform(0, 1, (400, 2)) * SIZE - K[:2, 2]) / 800
    rays = np.column_stack([rays, np.ones(400)])
    depth = 4 / (rays @ [0.4, 0.2, 1]) if flat else rng.uniform(2, 8, 400)
    world = rays * depth[:, None]
    moved = world @ TURN.T + shift
    p0, p1 = (points @ K.T / points[:, 2:] for points in (world, moved))
    seen = ((p1[:, :2] > 0) & (p1[:, :2] < SIZE)).all(axis=1)
    p0, p1 = (p[seen][:80, :2] for p in (p0, p1))
    return p0 + rng.normal(0, noise, p0.shape), p1 + rng.normal(0, noise, p1.shape)


def with_wrong(rng: np.random.Generator, views: tuple[Points, Points], count: int) -> Sequence[Points]:
    return [np.vstack([points, rng.uniform(0, 1, (count, 2)) * SIZE]) for points in views]


def found(pose: object) -> RelativePose:
    assert isinstance(pose, RelativePose), pose
    return pose


def off(pose: RelativePose, rotation: Points = TURN, translation: Points = SIDEWAYS) -> tuple[float, float]:
    """Degrees of rotation and translation."""
    assert pose.translation is not None
    cosines = [(np.trace(pose.rotation @ rotation.T) - 1) / 2, pose.translation @ translation]
    turn, shift = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return float(turn), float(shift)


def test_exact_matches_give_the_exact_pose_and_swapping_inverts_it(rng: np.random.Generator) -> None:
    p0, p1 = views(rng)
    pose = found(relative_pose(p0, p1, K, K))
    assert max(off(pose)) < 1e-4
    assert pose.inliers.all()
    assert pose.translation is not None
    np.testing.assert_allclose(np.linalg.norm(pose.translation), 1)
    assert pose.second is None
    assert pose.remarks == ()
    back = found(relative_pose(p1, p0, K, K))
    assert max(off(back, TURN.T, -TURN.T @ SIDEWAYS)) < 1e-4
    assert relative_pose(p0, p1, K, K) == pose
    corner_origin = Camera("SIMPLE_PINHOLE", SIZE, (800, 320, 240))
    assert max(off(found(relative_pose(p0, p1, corner_origin, K)))) < 1e-4


def test_errors_are_what_the_deviations_say(rng: np.random.Generator) -> None:
    """Squared errors by squared deviations: about one on average, wrong matches among them."""
    ratios = []
    for _ in range(6):
        pose = found(relative_pose(*with_wrong(rng, views(rng, noise=0.5), 60), K, K))
        assert pose.inliers[:80].mean() > 0.9
        ratios.append(np.divide(off(pose), (pose.rotation_deviation, pose.translation_deviation)))
    assert (np.sqrt(np.mean(np.square(ratios), axis=0)) < 2).all()
    assert (np.max(ratios, axis=0) > 0.2).all()


def test_units_do_not_matter(rng: np.random.Generator) -> None:
    p0, p1 = with_wrong(rng, views(rng, noise=0.5), 60)
    pose = found(relative_pose(p0, p1, K, K))
    for zoom in (0.01, 30.0):
        scaled = np.diag([zoom, zoom, 1]) @ K
        other = found(relative_pose(p0 * zoom, p1 * zoom, scaled, scaled, threshold=2 * zoom))
        assert max(off(other, pose.rotation, np.asarray(pose.translation))) < 0.02
        assert (other.inliers != pose.inliers).sum() <= 2


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_RADIAL", (800, 320, 240, -0.1)),
        ("OPENCV", (800, 790, 321, 242, -0.2, 0.05, 0.001, -0.002)),
        ("OPENCV_FISHEYE", (500, 510, 318, 240, 0.02, -0.01, 0.001, 0)),
    ],
)
def test_distorted_points_give_the_pose_of_undistorted_ones(
    rng: np.random.Generator, model: str, params: tuple[float, ...]
) -> None:
    camera = Camera(model, SIZE, params)
    lens = pycolmap().Camera(model=model, width=640, height=480, params=np.array(camera.params))
    p0, p1 = views(rng)
    rays = [np.column_stack([(p - K[:2, 2]) / 800, np.ones(len(p))]) for p in (p0, p1)]
    d0, d1 = (lens.img_from_cam(r) - 0.5 for r in rays)
    np.testing.assert_allclose(camera.rays(d0), rays[0][:, :2], atol=1e-6)
    assert max(off(found(relative_pose(d0, d1, camera, camera)))) < 1e-3
    assert max(off(found(relative_pose(p0, d1, K, camera)))) < 1e-3


def test_what_matches_leave_open_is_said(rng: np.random.Generator) -> None:
    """A camera that turned has no translation, a plane two poses, a mirrored image none."""
    turned = found(relative_pose(*with_wrong(rng, views(rng, np.zeros(3), noise=0.5), 40), K, K))
    assert turned.translation is None
    assert turned.translation_deviation == np.inf
    assert np.trace(turned.rotation @ TURN.T) > 1 + 2 * np.cos(np.radians(0.2))
    assert "too little parallax" in turned.remarks[0]

    plane = found(relative_pose(*views(rng, flat=True, noise=0.1), K, K))
    assert plane.second is not None
    assert plane.second_support == plane.num_inliers
    other = RelativePose(plane.second[:, :3], plane.inliers, 0, plane.second[:, 3])
    assert min(max(off(plane)), max(off(other))) < 1.5
    assert "a second pose, as on a plane" in plane.remarks[-1]

    p0, p1 = views(rng, 0.5 * np.array([1.0, 0, 0]))
    mirrored = relative_pose(p0, np.array([639, 0]) + p1 * [-1, 1], K, K)
    assert isinstance(mirrored, EstimationFailure)
    assert "is one image mirrored?" in mirrored.reason


def test_matches_without_relation_are_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geomatch.estimators.pose._OPTIONS", {"max_iterations": 2000})
    for kind in NO_RELATION:
        pose = relative_pose(*kind(rng), K, K)
        assert not pose
        assert pose.reason
    line = np.column_stack([np.arange(60.0) * 10, np.arange(60.0) * 5])
    for points in (np.zeros((0, 2)), np.ones((50, 2)), np.full((50, 2), np.nan), line):
        assert not relative_pose(points, points + 3, K, K)


def test_rows_without_a_ray_are_outliers(rng: np.random.Generator) -> None:
    p0, p1 = views(rng)
    p0[3], p1[5] = np.nan, np.inf
    pose = found(relative_pose(p0, p1, K, Camera("SIMPLE_RADIAL", SIZE, (800, 320, 240, 0))))
    assert pose.num_inliers == len(p0) - 2
    assert np.isnan(
        Camera("OPENCV_FISHEYE", SIZE, (300, 300, 320, 240, 0, 0, 0, 0)).rays(np.array([[9e3, 0]]))
    ).all()


def test_wrong_cameras_are_refused(tmp_path: Path) -> None:
    points = np.zeros((9, 2))
    with pytest.raises(ShapeError, match="camera1"):
        relative_pose(points, points, K, np.eye(2))
    with pytest.raises(ValueError, match="camera0 must be a camera matrix"):
        relative_pose(points, points, np.zeros((3, 3)), K)
    for model, params, words in (
        ("LENS", (1,), "no camera model 'LENS'; choose one of: SIMPLE_PINHOLE"),
        ("OPENCV", (1, 2), "camera model OPENCV has 8 parameters (fx, fy, cx, cy, k1, k2, p1, p2)"),
        ("SIMPLE_PINHOLE", (-1, 2, 3), "focal lengths must be positive"),
        ("EQUIRECTANGULAR", (640, 480), "a perspective model is needed"),
    ):
        with pytest.raises(GeomatchError) as error:
            Camera(model, SIZE, params)
        assert words in str(error.value)
    path = tmp_path / "cameras.txt"
    path.write_text("# Camera list\n7 PINHOLE 640 480 800 800 320 240\n")
    assert read_cameras(path) == (Camera("PINHOLE", SIZE, (800, 800, 320, 240)),) * 2
    for text in ("", "1 PINHOLE 640\n", "1 PINHOLE 640 480 8 8 3 2\n" * 3, "1 LENS 640 480 8\n"):
        path.write_text(text)
        with pytest.raises(GeomatchError, match=r"cameras\.txt"):
            read_cameras(path)
    essential = Essential(K, Camera("PINHOLE", SIZE, (800, 800, 320, 240)))
    with pytest.raises(GeomatchError, match="camera 1 is of images of 640x480 pixels, image 1 has 480x640"):
        essential.estimate(points, points, SIZE, SIZE[::-1])
    small = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(GeomatchError, match="camera 1 is of images of 640x480 pixels, image 1 has 64x48"):
        geomatch.match(small, small, detector=Unasked(), model=essential)


class Unasked:
    """A wrong camera is told before the work."""

    def detect(self, image: Image) -> Features:
        raise AssertionError


def test_a_plane_has_no_fundamental_matrix(rng: np.random.Generator) -> None:
    p0, p1 = views(rng, noise=0.3)
    geometry = Fundamental().estimate(p0, p1, SIZE, SIZE)
    assert isinstance(geometry, TwoViewGeometry)
    skew = np.cross(np.eye(3), SIDEWAYS)
    true = np.linalg.inv(K).T @ skew.T @ TURN @ np.linalg.inv(K)
    h0, h1 = (np.column_stack([p, np.ones(len(p))]) for p in views(np.random.default_rng(5)))
    lines = h0 @ geometry.matrix.T
    assert np.median(np.abs((h1 * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)) < 0.5
    assert np.abs((h1 * (h0 @ true.T)).sum(1)).max() < 1e-9  # the truth's own convention
    assert "no fundamental matrix" in str(Fundamental().estimate(*views(rng, flat=True), SIZE, SIZE))
    assert Fundamental().estimate(*with_wrong(rng, views(rng, noise=0.5), 60), SIZE, SIZE)
    for kind in NO_RELATION:
        assert not Fundamental().estimate(*kind(rng), SIZE, SIZE)


@pytest.mark.parametrize("strays", [0, 12])
def test_a_line_has_no_pose_and_no_fundamental_matrix(rng: np.random.Generator, strays: int) -> None:
    """Points on a line in space, which many rotations explain alike, and lines matched at random."""
    for _ in range(3):
        ends = rng.uniform([-1, -0.7, 4], [1, 0.7, 8], (2, 3))
        world = ends[0] + rng.uniform(0, 1, (60, 1)) * (ends[1] - ends[0])
        both = [
            p[:, :2] / p[:, 2:] + rng.normal(0, 0.5, (60, 2))
            for p in (world @ K.T, (world @ TURN.T + 0.5 * SIDEWAYS) @ K.T)
        ]
        p0, p1 = with_wrong(rng, (both[0], both[1]), strays)
        assert not relative_pose(p0, p1, K, K)
        assert not Fundamental().estimate(p0, p1, SIZE, SIZE)
        mixed = p1[: len(p1) - strays][rng.permutation(60)]
        assert not Fundamental().estimate(p0, np.vstack([mixed, p1[60:]]), SIZE, SIZE)


def test_match_takes_a_model(photo0: Image, photo1: Image) -> None:
    """The bundled pair is a plane: two poses, and no fundamental matrix."""
    small = reduce_image(photo0, 320), reduce_image(photo1, 320)
    options = {"detector": "sift", "max_keypoints": 120, "effort": "fast"}
    width, height = small[0].size
    camera = Camera("SIMPLE_PINHOLE", (width, height), (width, width / 2, height / 2))
    result = geomatch.match(*small, model=Essential(camera, camera), **options)  # type: ignore[arg-type]
    said = result.to_dict()
    assert ("homography" in said, "rotation" in said) == (False, True)
    assert bool(result.geometry) == (said["reason"] is None)
    assert not result.homography
    result = geomatch.match(*small, model="fundamental", detector="sift", max_keypoints=800)
    assert result.to_dict()["fundamental"] is None
    assert "a homography explains" in result.to_dict()["reason"]  # and no mirrored part of a symmetric front
    assert result.settings["tilts"] == []  # nor anything that views could show
    with pytest.raises(ValueError, match="unknown model 'magic'"):
        geomatch.match(*small, model="magic")
    with pytest.raises(ValueError, match="an estimator is for planes"):
        geomatch.match(*small, model="fundamental", estimator="ransac")
    with pytest.raises(GeomatchError, match="no focal length in EXIF data"):
        geomatch.match(*small, model="essential")

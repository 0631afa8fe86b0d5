"""The database export: half pixels, configurations, bad input, all or nothing."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import geomatch
from geomatch.cameras import pycolmap
from geomatch.collection import Correspondences, MatchedPair
from geomatch.colmap import Cameras, check_database, export_database
from geomatch.colmap.conventions import fundamental_to_colmap, homography_to_colmap, to_colmap
from geomatch.colmap.library import database, interruptible
from geomatch.colmap.verification import to_two_view_geometry
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import FeaturesError, GeomatchError, ImageError
from geomatch.geometry import warp_points
from geomatch.reconstruction.mapping import Mapping, map_database
from geomatch.reconstruction.models import summarise_model
from geomatch.types import Features, Matches, TwoViewGeometry

QUIET = RunContext(engine=LocalEngine(1), progress=False)


def matched(a: str, b: str, rows: Any) -> MatchedPair:
    return MatchedPair(a, b, Matches(np.asarray(rows, np.int64).reshape(-1, 2), np.ones(len(rows))))  # type: ignore[arg-type]


@pytest.mark.parametrize("verification", ["colmap", "geomatch"])
def test_synthetic_scene_maps_with_the_keypoints_of_the_truth(
    make_scene: Callable[..., Any], tmp_path: Path, verification: Any
) -> None:
    scene = make_scene()
    path = tmp_path / "out.db"
    report = scene.export(path, verification=verification)
    assert (report.images, report.pairs, report.skipped) == (6, 15, {})
    assert sum(report.verified.values()) == 15
    for mapper in ("incremental", "global"):
        (model,) = map_database(path, scene.folder, tmp_path / mapper, Mapping(mapper))
        found = summarise_model(model)
        assert found.registered == 6
        assert found.mean_reprojection_error < 0.01
        assert found.points >= 295
    assert check_database(path, scene.folder).ok
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_half_a_pixel_is_added_once(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    """The database holds COLMAP's own keypoints again, and they are where the true cameras see the points."""
    scene = make_scene()
    scene.export(tmp_path / "out.db", verification="none")
    with database(str(tmp_path / "truth.db")) as truth, database(str(tmp_path / "out.db")) as ours:
        for image in truth.read_all_images():
            own = ours.read_keypoints(ours.read_image_with_name(image.name).image_id)
            np.testing.assert_allclose(own, truth.read_keypoints(image.image_id)[:, :2], atol=1e-4)
    # fixed principal points see any other offset: it does not vanish in the model
    for offset, lowest, highest in ((0.0, 0.0, 0.01), (0.5, 0.2, 2.0)):
        errors = []
        for image in scene.truth.images.values():
            features = scene.correspondences.features[image.name]
            for index, point in enumerate(image.points2D):
                if point.has_point3D():
                    seen = image.project_point(scene.truth.points3D[point.point3D_id].xyz)
                    errors.append(np.linalg.norm(to_colmap(features.keypoints[[index]])[0] + offset - seen))
        assert lowest <= np.mean(errors) < highest


def test_matrices_follow_the_half_pixel(rng: np.random.Generator) -> None:
    points = rng.uniform(0, 500, (20, 2))
    matrix = np.array([[1.1, 0.05, -9.0], [0.02, 0.93, 14.0], [1e-4, -2e-4, 1.0]])
    moved = warp_points(homography_to_colmap(matrix), to_colmap(points))
    np.testing.assert_allclose(moved, to_colmap(warp_points(matrix, points)), atol=1e-3)
    fundamental = rng.normal(0, 1, (3, 3))
    ours, theirs = (np.column_stack([points + shift, np.ones(20)]) for shift in (0, 0.5))
    moved = theirs @ fundamental_to_colmap(fundamental) @ theirs.T
    np.testing.assert_allclose(ours @ fundamental @ ours.T, moved, rtol=1e-9)


def test_own_homography_is_written_as_planar(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = np.array([[1.05, 0.02, -20.0], [0.01, 0.97, 12.0], [5e-5, 1e-5, 1.0]])
    points = rng.uniform(50, 550, (200, 2))
    features = {}
    for name, own in (("b.png", points), ("a.png", warp_points(matrix, points))):
        cv2.imwrite(str(tmp_path / name), np.zeros((700, 700), np.uint8))
        features[name] = Features(own.astype(np.float32), np.ones(200, np.float32), (700, 700))
    # the pair is given against the order of ids
    found = Correspondences(features, [matched("b.png", "a.png", [(k, k) for k in range(200)])])
    report = export_database(tmp_path, found, tmp_path / "x.db", verification="geomatch", context=QUIET)
    assert report.verified == {"planar or panoramic": 1}
    with database(str(tmp_path / "x.db")) as opened:
        geometry, true = opened.read_two_view_geometry(2, 1), homography_to_colmap(matrix)  # b to a
        np.testing.assert_allclose(geometry.H / geometry.H[2, 2], true / true[2, 2], atol=1e-3)
        assert len(geometry.inlier_matches) == 200


def test_calibrated_and_failed_geometries_have_their_configuration() -> None:
    indices = np.stack([np.arange(20)] * 2, axis=1)
    kinds = pycolmap().TwoViewGeometryConfiguration
    found = TwoViewGeometry("calibrated", np.eye(3), np.arange(20) < 15)
    geometry = to_two_view_geometry(found, indices)
    assert geometry.config == int(kinds.CALIBRATED)
    assert len(geometry.inlier_matches) == 15
    failed = to_two_view_geometry(geomatch.EstimationFailure("no"), indices)
    assert failed.config == int(kinds.DEGENERATE)
    assert len(failed.inlier_matches) == 0


def test_names_with_spaces_unicode_and_folders(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(rename=lambda name: f"été ÷/a b{name[-5]}.png" if name[-5] in "01" else f"x/{name}")
    report = scene.export(tmp_path / "out.db")
    assert (report.images, report.pairs, sum(report.verified.values())) == (6, 15, 15)
    with database(str(tmp_path / "out.db")) as opened:
        assert {image.name for image in opened.read_all_images()} == set(scene.correspondences.features)


def test_what_is_left_out_is_counted(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(frames=4)
    names = sorted(scene.correspondences.features)
    features = dict(scene.correspondences.features)
    features[names[3]] = features[names[3]][:0]
    features["gone.png"] = features[names[0]]
    first = scene.correspondences.pairs[0]
    one = matched(names[0], names[1], [(0, 1)])
    with pytest.raises(FeaturesError, match=r"given twice .* different matches"):
        scene.changed(pairs=[one, matched(names[1], names[0], [(0, 1)])]).export(tmp_path / "wrong.db")
    flipped = Matches(first.matches.indices[::-1, ::-1], first.matches.similarity)
    pairs = [first, MatchedPair(first.name1, first.name0, flipped), first]
    pairs += [matched(names[0], names[3], []), matched(names[0], "gone.png", [(0, 0)])]
    pairs += [matched(names[1], names[2], [(0, 1), (2, 3)])]
    report = scene.changed(features=features, pairs=pairs).export(tmp_path / "out.db")
    assert (report.images, report.pairs) == (4, 2)
    assert report.skipped == {
        "images without keypoints (written, but they cannot be registered)": 1,
        "pairs given twice": 2,
        "pairs without matches": 1,
        "pairs of skipped images": 1,
    }
    assert "no such file" in report.images_skipped["gone.png"]
    assert "2 pairs given twice" in report.text()


def test_wrong_input_writes_nothing(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(frames=3)
    a, b, c = sorted(scene.correspondences.features)
    path = tmp_path / "out.db"
    first = scene.correspondences.pairs[0]
    for pairs, says in (
        ([first, matched(b, c, [(0, 10_000)])], r"names keypoint 10000 of .*, which has \d+"),
        ([first, matched(b, c, [(1, 1), (2, 2), (1, 1)])], "the same match is given more than once"),
        ([matched(a, b, [(0, 0)]), matched(b, a, [(1, 0)])], r"given twice .* different matches"),
        ([matched(a, a, [(0, 1)])], "matched with itself"),
    ):
        with pytest.raises(FeaturesError, match=says):
            scene.changed(pairs=pairs).export(path)
    right = scene.correspondences.features[a]
    turned = Features(right.keypoints, right.scores, right.image_size[::-1])
    scaled = Features(right.keypoints * 2, right.scores, right.image_size)
    for name, features, says in (
        (a, turned, "EXIF orientation"),
        (a, scaled, r"keypoints lie outside .* resized"),
        ("../x.png", right, "paths below the image folder"),
    ):
        with pytest.raises(FeaturesError, match=says):
            scene.changed(features={**scene.correspondences.features, name: features}).export(path)
    with pytest.raises(ImageError, match="none of 3 images can be read"):
        replace(scene, folder=tmp_path / "elsewhere").export(path)
    assert not path.exists()
    with pytest.raises(ValueError, match="must not be negative"):
        matched(a, b, [(-1, 0)])


def test_camera_modes(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(frames=3)
    for mode, cameras in (("single", 1), ("per-image", 3)):
        scene.export(tmp_path / f"{mode}.db", cameras=Cameras(mode), verification="none")
        with database(str(tmp_path / f"{mode}.db")) as opened:
            assert len(opened.read_all_cameras()) == cameras
    with pytest.raises(GeomatchError, match="NO_SUCH_MODEL"):
        scene.export(tmp_path / "odd.db", cameras=Cameras(model="NO_SUCH_MODEL"))
    scene.export(tmp_path / "known.db", cameras=Cameras("auto", "PINHOLE", "900,901,512,384"))
    with database(str(tmp_path / "known.db")) as opened:
        assert opened.read_all_cameras()[0].params.tolist() == [900, 901, 512, 384]
        assert opened.read_all_cameras()[0].has_prior_focal_length


def test_a_long_call_returns_and_raises_as_its_thread_does() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda token: 1 / 0)
    assert interruptible(lambda token: 7) == 7


def test_own_geometries_are_of_the_matches_there(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene, path = make_scene(frames=3), tmp_path / "out.db"
    scene.export(path, verification="none")
    halves = [MatchedPair(p.name0, p.name1, p.matches[::2]) for p in scene.correspondences.pairs]
    report = scene.changed(pairs=halves).export(path, extend=True, verification="geomatch")
    assert report.skipped["pairs that the database already had"] == 3
    assert sum(report.verified.values()) == 3
    with closing(sqlite3.connect(path)) as connection:
        counts = connection.execute(
            "SELECT m.rows, g.rows FROM matches m JOIN two_view_geometries g ON m.pair_id = g.pair_id"
        ).fetchall()
    assert all(inliers > 0.9 * matches for matches, inliers in counts)
    assert check_database(path).ok


def test_a_process_of_its_own_writes_png_and_waits_for_colmap_to_end() -> None:
    """PNG files can be written after our accessor; a thread that outlives the interpreter would abort."""
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from geomatch.cameras import pycolmap
from geomatch.colmap.library import interruptible
pycolmap()
import cv2, numpy as np
assert cv2.imencode(".png", np.zeros((9, 9), np.uint8))[0]
def work(token):
    print("under way", flush=True)
    while not token.is_cancelled:
        time.sleep(0.01)
    time.sleep(0.5)
    print("ended", flush=True)
try:
    interruptible(work)
except KeyboardInterrupt:
    sys.exit(130)
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "ended\n", "")

"""Models against surveyed poses: measures on made truth, layouts, and runs."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rendered_scene
from numpy.typing import NDArray
from PIL import Image as PILImage

import geomatch
from geomatch.benchmarks.harness.record import table
from geomatch.benchmarks.harness.report import write_report
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings, find_task
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.tasks.pose.data import read_cameras
from geomatch.benchmarks.tasks.sfm.data import Scene, read_scenes
from geomatch.benchmarks.tasks.sfm.measures import align, extent_of, nearest, pair_errors, poses_of
from geomatch.benchmarks.tasks.sfm.methods import ColmapSift, create_sfm_method, source_of, undefined
from geomatch.benchmarks.tasks.sfm.task import compare
from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.colmap.cameras import Cameras
from geomatch.colmap.library import database
from geomatch.engine import LocalEngine, RunContext
from geomatch.reconstruction.models import read_model

SFM = find_task("sfm")
PROTOCOL = SFM.protocols["sfm"]
Array = NDArray[np.float64]


def made(seed: int = 0, images: int = 8, points: int = 60) -> Any:
    """A model that pycolmap makes up."""
    library = pycolmap()
    library.set_random_seed(seed)
    options = library.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, images
    options.num_points3D = points
    return library.synthesize_dataset(options)


def written(model: Any, folder: Path, layout: str = "sparse/0", below: str = "") -> Path:
    """The scene of a model: grey images of its names, and its files."""
    for image in model.images.values():
        image.name = below + image.name
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("L", (8, 8)).save(path)
    (folder / layout).mkdir(parents=True)
    model.write_text(str(folder / layout))
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (found,) = read_scenes(written(made(), tmp_path / "scene")).units
    return found


def moved(model: Any, scale: float = 2.5) -> Any:
    library = pycolmap()
    turn = library.Rotation3d(np.array([0.1, -0.7, 0.2, 0.4]) / np.linalg.norm([0.1, -0.7, 0.2, 0.4]))
    model.transform(library.Sim3d(scale, turn, np.array([30.0, -4.0, 7.0])))
    return model


def shifted(model: Any, name: str, shift: Array) -> None:
    """Move the centre of one image's camera, and keep its rotation."""
    (image,) = (one for one in model.images.values() if one.name == name)
    pose = image.cam_from_world()
    centre = image.projection_center() + shift
    image.frame.set_cam_from_world(
        image.camera_id, pycolmap().Rigid3d(pose.rotation, -pose.rotation.matrix() @ centre)
    )


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    rows[0]["model"] |= {"seconds": {}}
    (found,) = SFM.summarise(PROTOCOL, [{"split": "all", **row} for row in rows])
    return found


def test_a_moved_model_is_right(scene: Scene) -> None:
    rows = compare(scene, moved(read_model(scene.model)), PROTOCOL)
    assert [row["reason"] for row in rows] == [None] * 8
    for row in rows:
        assert len(row["errors_deg"]) == 7
        assert max(row["errors_deg"]) < 1e-4
        assert row["rotation_deg"] < 1e-4
        assert row["centre"] < 1e-6
    found = summed(rows)
    for name in ("AUC@1", "AUC@5", "rotation AUC@1, degrees", "accuracy@0.1", "completeness@1"):
        assert found[name] == pytest.approx(100, abs=0.1)
    assert (found["points"], found["failures"]) == (60, 0)


def test_one_wrong_camera_has_its_error_alone(scene: Scene) -> None:
    extent = extent_of(np.array([centre for _, centre in poses_of(read_model(scene.model)).values()]))
    for far in (0.02, 0.3, 500.0):
        model = read_model(scene.model)
        name = sorted(image.name for image in model.images.values())[3]
        shifted(model, name, np.array([0, 0, far * extent]))
        rows = {row["image"]: row for row in compare(scene, moved(model), PROTOCOL)}
        wrong = rows.pop(name)
        assert wrong["centre_percent"] == pytest.approx(100 * far)
        assert wrong["centre"] == pytest.approx(far * extent)
        assert wrong["rotation_deg"] < 1e-4
        assert all(row["centre_percent"] < 1e-6 for row in rows.values())
        # its partners see it elsewhere, and nothing else
        assert all(sum(error > 1e-4 for error in row["errors_deg"]) == 1 for row in rows.values())


def test_noise_is_averaged_over_the_inliers(rng: np.random.Generator) -> None:
    truth = rng.normal(size=(60, 3))
    noise = rng.normal(size=truth.shape) * 0.01
    found = align(truth + noise, truth, extent_of(truth))
    expected = pycolmap().estimate_sim3d(truth + noise, truth)
    assert found.matrix() == pytest.approx(expected.matrix(), abs=5e-4)
    assert align(np.zeros((5, 3)), truth[:5], extent_of(truth)) is None


def turned(degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_pair_errors_by_hand() -> None:
    truth = {name: (np.eye(3), np.array([x, 0.0, 0.0])) for name, x in (("a", 0), ("b", 1), ("c", 1))}
    found = dict(truth)
    errors = pair_errors(found, truth)
    assert np.isnan(errors[[0, 1, 2], [0, 1, 2]]).all()
    assert np.isnan(errors[1, 2])  # they stand in one place
    assert errors[0, 1] == errors[2, 0] == 0
    found["b"] = (turned(3), truth["b"][1])
    assert pair_errors(found, truth)[0, 1] == pytest.approx(3)
    found["b"] = (np.eye(3), np.array([-1.0, 0, 0]))  # the sign of the translation counts
    assert pair_errors(found, truth)[0, 1] == pytest.approx(180)
    found["b"] = (np.eye(3), np.zeros(3))
    assert pair_errors(found, truth)[0, 1] == 180
    found["b"] = (np.eye(3), np.array([np.cos(0.1), np.sin(0.1), 0]))
    assert pair_errors(found, truth)[0, 1] == pytest.approx(np.degrees(0.1))
    del found["b"]
    assert np.isinf(pair_errors(found, truth)[[0, 1], [1, 0]]).all()
    assert pair_errors(found, truth)[0, 2] == 0


def test_areas_by_hand() -> None:
    """Four images, of which pairs have errors of 0.5 degrees or none; the last has no pose."""
    rows = [
        {"image": name, "reason": None, "errors_deg": [0.5, 0.5, None], "rotation_deg": 0.5,
         "centre_percent": 0.25} for name in "abc"
    ]  # fmt: skip
    rows.append({"image": "d", "reason": "no pose", "errors_deg": [None, None, None]})
    model = {"points": 10, "accuracy": [0.5] * 3, "completeness": [0.25] * 3, "seconds": {"mapping": 2.0}}
    rows[0]["model"] = model
    found = summed(rows)
    # 6 errors of 12: from (0, 0) to the first at (0.5, 1/12), up to 1/2 there, then level
    area = 0.5 / 12 / 2
    assert found["AUC@1"] == pytest.approx(100 * (area + 0.5 * 0.5))
    assert found["AUC@5"] == pytest.approx(100 * (area + 4.5 * 0.5) / 5)
    assert found["rotation AUC@1, degrees"] == pytest.approx(100 * (0.5 / 4 / 2 + 0.5 * 0.75))
    assert found["centre, % of extent"] == 0.25
    assert (found["accuracy@0.5"], found["completeness@1"], found["images"], found["failures"]) == (
        50,
        25,
        4,
        1,
    )


def test_images_without_a_pose_and_no_model_are_failures(scene: Scene) -> None:
    model = read_model(scene.model)
    gone = sorted(image.name for image in model.images.values())[0]
    (image,) = (one for one in model.images.values() if one.name == gone)
    model.deregister_frame(image.frame_id)
    rows = compare(scene, model, PROTOCOL)
    assert [row["reason"] is None for row in rows] == [False] + [True] * 7
    assert rows[0]["errors_deg"] == [None] * 7
    found = summed(rows)
    assert found["AUC@1"] == pytest.approx(100 * 42 / 56, abs=0.01)
    assert found["centre AUC@1, % of extent"] == pytest.approx(100 * 7 / 8, abs=0.01)
    nothing = summed(compare(scene, None, PROTOCOL))
    assert (nothing["failures"], nothing["AUC@5"], nothing["completeness@1"], nothing["points"]) == (
        8,
        0,
        0,
        0,
    )
    assert "centre, % of extent" not in nothing


def bare(scene: Scene, folder: Path) -> Path:
    """The true model without points."""
    model = read_model(scene.model)
    for key in list(model.points3D):
        model.delete_point3D(key)
    (folder / "bare").mkdir()
    model.write(str(folder / "bare"))
    return folder / "bare"


def test_points_by_hand(scene: Scene, tmp_path: Path) -> None:
    """Half of the scan is in the model, beside points 0.3 % off and others outside the scan's box."""
    model = read_model(scene.model)
    extent = extent_of(np.array([centre for _, centre in poses_of(model).values()]))
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3) * extent  # corners outermost
    lines = "\n".join(f"{x} {y} {z}" for x, y, z in grid)
    head = "ply\nformat ascii 1.0\nelement vertex 64\nproperty float x\nproperty float y\nproperty float z\n"
    scan = tmp_path / "points.ply"
    scan.write_text(f"{head}end_header\n{lines}\n")
    for key in list(model.points3D):
        model.delete_point3D(key)
    inner = grid[((grid > 0) & (grid < 3 * extent)).all(axis=1)]
    away = np.array([0.003 * extent, 0, 0])
    for point in (*grid[:32], *(inner + away), *(grid[:8] - 100 * extent)):
        model.add_point3D(point, pycolmap().Track(), np.zeros(3, np.uint8))
    rows = compare(replace(scene, scan=scan), model, PROTOCOL)
    whole = rows[0]["model"]
    assert whole["accuracy"] == pytest.approx([32 / 40, 1, 1])
    near = len({tuple(point) for point in (*grid[:32], *inner)})
    assert whole["completeness"] == pytest.approx([32 / 64, near / 64, near / 64])
    assert (
        summed(compare(replace(scene, model=bare(scene, tmp_path)), model, PROTOCOL))
        .keys()
        .isdisjoint({"accuracy@1", "completeness@1"})
    )
    scan.write_text("ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(geomatch.GeomatchError, match=r"points\.ply"):
        compare(replace(scene, scan=scan), model, PROTOCOL)
    assert np.isinf(nearest(grid[:2], np.zeros((0, 3)))).all()


def test_layouts(tmp_path: Path) -> None:
    whole = tmp_path / "set"
    written(made(), whole / "a b", "dslr_calibration_undistorted", "dslr_images_undistorted/")
    written(made(1), whole / "c", "sparse")
    written(made(2), whole / "few")
    for path in sorted((whole / "few" / "images").iterdir())[2:]:
        path.unlink()
    written(made(3), whole / "torn")
    (whole / "torn" / "sparse" / "0" / "images.txt").write_text("words\n")
    (whole / "notes").mkdir()
    model = made(4)
    for image in model.images.values():
        shifted(model, image.name, -image.projection_center())
    written(model, whole / "tripod")
    found = read_scenes(whole)
    assert [(scene.name, len(scene.names)) for scene in found.units] == [("a_b", 8), ("c", 8)]
    assert "fewer than 3 images" in found.broken["few"]
    assert "torn" in found.broken
    assert "one place" in found.broken["tripod"]
    one = read_scenes(whole / "a b").units[0]
    assert (one.name, one.fingerprint) == ("a_b", found.units[0].fingerprint)
    (whole / "c" / "points.ply").write_text("ply")
    assert read_scenes(whole).units[1].fingerprint != found.units[1].fingerprint
    assert len(read_cameras("pose", whole / "a b").units[0].pairs) == 28  # the same layouts
    for folder, words in (
        (whole / "notes", "no scene with surveyed poses"),
        (whole / "few", "fewer than 3 images"),
        (whole / "none", "no such folder"),
    ):
        with pytest.raises(geomatch.GeomatchError, match=words):
            read_scenes(folder)
    with pytest.raises(ValueError, match="no splits"):
        read_scenes(whole, "test")


def test_methods() -> None:
    settings = Settings(max_keypoints=77)
    sift = create_sfm_method("colmap-sift", settings, "cpu")
    assert sift.pair_matcher == ColmapSift(77)
    ours = create_sfm_method("geomatch", settings, "cpu")
    assert ours.key() == create_method("sift-large+dift-tiny", 77).key()
    assert undefined(sift) is None
    assert undefined(ours) is None
    for text in ("geomatch[effort=high]", "sift+usac_magsac"):
        assert undefined(create_sfm_method(text, settings, "cpu"))
    with pytest.raises(ValueError, match="no method"):
        create_sfm_method("colmap", settings, "cpu")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_scene.write(tmp_path_factory.mktemp("rendered") / "yard", 6, 256)


def run(data: Path, out: Path, methods: str, protocols: str = "sfm", keypoints: int = 500) -> RunResult:
    context = RunContext(engine=LocalEngine(1), progress=False)
    return run_benchmark("sfm", data, protocols, methods, out, context, Settings(max_keypoints=keypoints))


def test_colmap_keeps_to_the_budget_and_the_cameras(rendered: Path, tmp_path: Path) -> None:
    (scene,) = read_scenes(rendered).units
    method = create_sfm_method("colmap-sift", Settings(max_keypoints=200), "cpu")
    for mode, cameras in (("single", 1), ("per-image", 6)):
        folder = tmp_path / mode
        folder.mkdir()
        path = source_of(method, scene, Cameras(mode), 0, folder)
        with database(str(path)) as opened:
            images = opened.read_all_images()
            assert sorted(image.name for image in images) == list(scene.names)
            assert opened.num_cameras() == cameras
            for image in images:
                assert len(opened.read_keypoints(image.image_id)) == 200
                assert len(opened.read_descriptors(image.image_id).data) == 200


def test_a_run_its_report_and_what_goes_wrong(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "scenes"
    shutil.copytree(rendered, whole / "yard")
    written(made(), whole / "grey")  # of which no model comes
    out = tmp_path / "out"
    result = run(whole, out, "colmap-sift", "sfm-single")
    assert result.computed == 2
    yard = [row for row in result.record["rows"] if row["pair"].startswith("yard")]
    grey = [row for row in result.record["rows"] if row["pair"].startswith("grey")]
    assert (len(yard), len(grey)) == (6, 8)
    assert all(row["reason"] for row in grey)
    assert grey[0]["model"]["completeness"] == [0, 0, 0]
    assert sum(row["reason"] is None for row in yard) >= 4
    assert yard[0]["model"]["keypoints per image"] <= 500
    assert yard[0]["model"]["seconds"].keys() >= {"source", "mapping"}
    again = run(whole, out, "colmap-sift", "sfm-single")
    assert again.computed == 0
    assert again.record["rows"] == result.record["rows"]
    fresh = run(whole / "yard", tmp_path / "fresh", "colmap-sift", "sfm-single").record["rows"]
    assert [row["errors_deg"] for row in fresh] == [row["errors_deg"] for row in yard]
    text = table(SFM, result.summaries())
    assert "| colmap-sift | 500 | all | 14 |" in text
    for path in write_report([out], tmp_path / "report"):
        assert path.stat().st_size
    # a scene that cannot be read is a counted skip
    (whole / "yard" / "points.ply").write_text("words")
    broken = run(whole, out, "colmap-sift", "sfm-single")
    assert list(broken.record["skipped"]) == ["colmap-sift on yard all images"]
    assert broken.summaries()[0]["images"] == 8
    assert main(["benchmark", "sfm", str(whole / "none"), "--out", str(out)]) == 2


@pytest.mark.slow
def test_ours_and_anothers_files(rendered: Path, tmp_path: Path) -> None:
    data, out = rendered, tmp_path / "out"
    hloc = tmp_path / "hloc"
    assert main(["colmap", "export", str(data / "images"), str(hloc), "--format", "hloc"]) == 0
    peer = f"peer=h5:{hloc}/features.h5:{hloc}/matches.h5"
    result = run(data, out, f"geomatch,colmap-sift,{peer}", "sfm,sfm-unrefined", 1000)
    found = {(row["method"], row["protocol"]): row for row in result.summaries()}
    assert len(found) == 6
    for row in found.values():
        assert row["failures"] == 0
        assert row["AUC@5"] > 60
        assert row["centre, % of extent"] < 1

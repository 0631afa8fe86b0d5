import base64
import json
import re
import zlib  # noqa: F401  (before pycolmap, whose own copy would break writers of PNG)
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import launched, opened

from geomatch.reconstruction.view import SparseModel, sparse_model, title_of, write_view

HOSTILE = "</script><script>alert(1)</script>\"'&\u2028é猫.jpg"


@pytest.fixture(scope="module")
def reconstruction() -> Any:
    import pycolmap

    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 300
    found = pycolmap.synthesize_dataset(options)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = 0.5
    pycolmap.synthesize_noise(noise, found)
    found.update_point_3d_errors()
    return found


@pytest.fixture(scope="module")
def model(reconstruction: Any) -> SparseModel:
    found = sparse_model(reconstruction)
    colours = np.random.default_rng(0).integers(1, 256, found.colours.shape).astype(np.uint8)
    return replace(found, colours=colours)


def empty() -> SparseModel:
    none, whole = np.zeros(0), np.zeros(0, np.int64)
    images = (), np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2), np.int64), none, whole, none
    return SparseModel(*images, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), whole, none)


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="model">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    for name, kind in {"points": "<f4", "colours": "u1", "tracks": "<u2", "pointErrors": "<f4"}.items():
        content[name] = np.frombuffer(base64.b64decode(content[name]), kind)
    return content


def written(model: SparseModel, folder: Path, title: str = "model", **options: Any) -> str:
    path = folder / "model.html"
    write_view(model, path, title, **options)
    assert [file.name for file in folder.iterdir()] == ["model.html"]
    return path.read_text(encoding="utf-8")


def test_conversion_agrees_with_colmap(reconstruction: Any) -> None:
    model = sparse_model(reconstruction)
    assert model.names == tuple(sorted(image.name for image in reconstruction.images.values()))
    assert model.point_errors.mean() == pytest.approx(reconstruction.compute_mean_reprojection_error())
    assert model.track_lengths.mean() == pytest.approx(reconstruction.compute_mean_track_length())
    assert int(model.num_points.sum()) == reconstruction.compute_num_observations()
    for row, name in enumerate(model.names):
        image = reconstruction.find_image_with_name(name)
        pose = image.cam_from_world()
        np.testing.assert_allclose(model.rotations[row], pose.rotation.matrix())
        np.testing.assert_allclose(-model.rotations[row] @ model.centres[row], pose.translation, atol=1e-9)
        assert (*model.image_sizes[row], model.focal_lengths[row]) == (1024, 768, 1280)
        away = [
            np.linalg.norm(seen.xy - image.project_point(reconstruction.point3D(seen.point3D_id).xyz))
            for seen in image.get_observation_points2D()
        ]
        assert model.errors[row] == pytest.approx(np.mean(away))


def test_page_holds_the_models_numbers(model: SparseModel, tmp_path: Path) -> None:
    page = written(model, tmp_path)
    content = embedded(page)
    assert content["names"] == list(model.names)
    np.testing.assert_array_equal(content["points"].reshape(-1, 3), model.points)
    np.testing.assert_array_equal(content["colours"].reshape(-1, 3), model.colours)
    np.testing.assert_array_equal(content["tracks"], model.track_lengths)
    np.testing.assert_array_equal(content["pointErrors"], model.point_errors.astype(np.float32))
    np.testing.assert_array_equal(content["centres"], model.centres)
    np.testing.assert_array_equal(np.reshape(content["rotations"], (-1, 3, 3)), model.rotations)
    assert (content["counts"], content["errors"]) == (model.num_points.tolist(), model.errors.tolist())
    assert content["error"] == pytest.approx(model.point_errors.mean())
    assert content["track"] == pytest.approx(model.track_lengths.mean())
    assert content["total"] == len(model.points)


def test_page_asks_for_nothing(model: SparseModel, tmp_path: Path) -> None:
    page = written(model, tmp_path)
    assert not re.search(r"https?://|\bsrc=|@import|url\(|import\(|fetch\(", page)
    assert "default-src 'none'" in page


def test_hostile_names_stay_text(model: SparseModel, tmp_path: Path) -> None:
    named = replace(model, names=(HOSTILE, "\udcff.jpg", *model.names[2:]))
    page = written(named, tmp_path, title=HOSTILE)
    assert "alert(1)</script>" not in page
    assert len(re.findall("<script", page)) == 2
    assert embedded(page)["names"][:2] == [HOSTILE, "\udcff.jpg"]


def test_sampling_is_bounded_and_repeatable(model: SparseModel, tmp_path: Path) -> None:
    first, second = (written(model, tmp_path, max_points=100) for _ in range(2))
    assert first == second
    content = embedded(first)
    assert content["total"] == 300
    points = content["points"].reshape(-1, 3)
    rows = [int(np.flatnonzero((model.points == point).all(axis=1))[0]) for point in points]
    assert len(set(rows)) == 100
    np.testing.assert_array_equal(content["colours"].reshape(-1, 3), model.colours[rows])
    np.testing.assert_array_equal(content["tracks"], model.track_lengths[rows])


def test_first_view_is_upright_and_ignores_far_points(model: SparseModel, tmp_path: Path) -> None:
    angle = np.pi / 3
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    alike = np.tile(tilt, (len(model.names), 1, 1))
    points = model.points.copy()
    points[:9] *= 1e5
    content = embedded(written(replace(model, rotations=alike, points=points), tmp_path))
    np.testing.assert_allclose(np.reshape(content["turn"], (3, 3)), tilt, atol=1e-12)
    assert content["radius"] < 10
    assert np.linalg.norm(content["centre"]) < 1
    opposed = np.stack([np.eye(3), np.diag([1.0, -1.0, -1.0])])[np.arange(len(model.names)) % 2]
    turn = np.reshape(embedded(written(replace(model, rotations=opposed), tmp_path))["turn"], (3, 3))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_first_view_leaves_out_cameras_that_lie_far_off(model: SparseModel, tmp_path: Path) -> None:
    usual = embedded(written(model, tmp_path))
    for share in (1, 4):
        centres = model.centres.copy()
        centres[:share] *= 50
        content = embedded(written(replace(model, centres=centres), tmp_path))
        assert content["radius"] == pytest.approx(usual["radius"], rel=0.15)
        assert content["centre"] == usual["centre"]
    # those around the points are in it
    assert usual["radius"] > 0.9 * np.median(np.linalg.norm(model.centres - usual["centre"], axis=1))
    assert usual["radius"] > 2 * np.quantile(np.linalg.norm(model.points - usual["centre"], axis=1), 0.9)
    assert embedded(written(replace(empty(), centres=np.eye(3)), tmp_path))["radius"] > 0.5


def test_frames_of_rigs_are_shown_image_by_image(tmp_path: Path) -> None:
    import pycolmap

    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 3
    rigs = pycolmap.synthesize_dataset(options)
    rigs.deregister_frame(next(iter(rigs.frames)))
    shown = sparse_model(rigs)
    assert len(shown.names) == 4
    for name, centre in zip(shown.names, shown.centres, strict=True):
        np.testing.assert_allclose(centre, rigs.find_image_with_name(name).projection_center())
    assert embedded(written(shown, tmp_path))["names"] == list(shown.names)


def test_title_is_the_name_of_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garden" / "images").mkdir(parents=True)
    assert title_of(tmp_path / "garden" / "images") == "garden"
    assert title_of(tmp_path / "garden") == "garden"
    assert title_of(Path("/images")) == "images"
    monkeypatch.chdir(tmp_path / "garden" / "images")
    assert title_of(Path()) == "garden"


def test_unknown_errors_and_empty_models(model: SparseModel, tmp_path: Path) -> None:
    unknown = replace(
        model, errors=np.full(len(model.names), np.nan), point_errors=np.full(len(model.points), np.nan)
    )
    page = written(unknown, tmp_path)
    assert embedded(page)["errors"] == [None] * len(model.names)
    assert embedded(page)["error"] is None
    assert embedded(written(empty(), tmp_path))["names"] == []


def test_the_browser_shows_figures_and_hostile_names(model: SparseModel, tmp_path: Path) -> None:
    named = replace(model, names=(HOSTILE, *model.names[1:]))
    written(named, tmp_path, title=HOSTILE, max_points=100)
    with launched() as browser, opened(browser, tmp_path / "model.html", 390, touch=True) as found:
        page = found.page
        assert page.inner_text("h1") == HOSTILE
        assert page.inner_text("#rows tr:first-child bdi") == HOSTILE
        assert page.locator("#rows tr").count() == len(model.names)
        assert page.inner_text("#error") == f"{model.point_errors.mean():.2f} px"
        assert page.inner_text("#drawn").startswith("100 of 300 points are drawn")
        page.click("#rows tr:first-child button")
        assert f"{model.num_points[0]} points" in page.inner_text("#about")
        assert not found.errors
        assert not found.requests

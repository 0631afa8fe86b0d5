import base64
import json
import re
import zlib  # noqa: F401  (before pycolmap, whose own copy would break writers of PNG)
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import launched, opened

from geomatch.reconstruction.view import first_view, title_of, write_view

HOSTILE = "</script><script>alert(1)</script>\"'&\u2028é猫.jpg"


@pytest.fixture(scope="module")
def model() -> Any:
    import pycolmap

    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 300
    found = pycolmap.synthesize_dataset(options)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = 0.5
    pycolmap.synthesize_noise(noise, found)
    found.update_point_3d_errors()
    colours = np.random.default_rng(0).integers(1, 256, (300, 3)).astype(np.uint8)
    for point, colour in zip(found.points3D.values(), colours, strict=True):
        point.color = colour
    return found


def named(model: Any, *names: str) -> Any:
    found = deepcopy(model)
    for image, name in zip(sorted(found.images.values(), key=lambda one: str(one.name)), names, strict=False):
        image.name = name
    return found


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="model">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    for name, kind in {"points": "<f4", "colours": "u1", "tracks": "<u2", "pointErrors": "<f4"}.items():
        content[name] = np.frombuffer(base64.b64decode(content[name]), kind)
    return content


def written(model: Any, folder: Path, title: str = "model", **options: Any) -> str:
    path = folder / "model.html"
    write_view(model, path, title, **options)
    assert [file.name for file in folder.iterdir()] == ["model.html"]
    return path.read_text(encoding="utf-8")


def test_page_holds_the_models_numbers(model: Any, tmp_path: Path) -> None:
    content, points = embedded(written(model, tmp_path)), list(model.points3D.values())
    assert content["names"] == sorted(image.name for image in model.images.values())
    assert content["total"] == len(points) == 300
    assert content["error"] == pytest.approx(model.compute_mean_reprojection_error())
    assert content["track"] == pytest.approx(model.compute_mean_track_length())
    assert sum(content["counts"]) == model.compute_num_observations()
    np.testing.assert_allclose(content["points"].reshape(-1, 3), [one.xyz for one in points], rtol=1e-6)
    np.testing.assert_array_equal(content["colours"].reshape(-1, 3), [one.color for one in points])
    np.testing.assert_array_equal(content["tracks"], [one.track.length() for one in points])
    np.testing.assert_allclose(content["pointErrors"], [one.error for one in points], rtol=1e-6)
    for row, name in enumerate(content["names"]):
        image = model.find_image_with_name(name)
        pose, turn = image.cam_from_world(), np.reshape(content["rotations"][row], (3, 3))
        np.testing.assert_allclose(turn, pose.rotation.matrix())
        np.testing.assert_allclose(-turn @ content["centres"][row], pose.translation, atol=1e-9)
        assert (*content["sizes"][row], content["focals"][row]) == (1024, 768, 1280)
        away = [
            np.linalg.norm(seen.xy - image.project_point(model.point3D(seen.point3D_id).xyz))
            for seen in image.get_observation_points2D()
        ]
        assert content["errors"][row] == pytest.approx(np.mean(away))


def test_page_asks_for_nothing(model: Any, tmp_path: Path) -> None:
    page = written(model, tmp_path)
    assert not re.search(r"https?://|\bsrc=|@import|url\(|import\(|fetch\(", page)
    assert "default-src 'none'" in page


def test_hostile_names_stay_text(model: Any, tmp_path: Path) -> None:
    page = written(named(model, HOSTILE), tmp_path, title=HOSTILE)
    assert "alert(1)</script>" not in page
    assert len(re.findall("<script", page)) == 2
    assert HOSTILE in embedded(page)["names"]


def test_sampling_is_bounded_and_repeatable(model: Any, tmp_path: Path) -> None:
    first, second = (written(model, tmp_path, max_points=100) for _ in range(2))
    assert first == second
    content, every = embedded(first), list(model.points3D.values())
    assert content["total"] == 300
    whole, points = np.array([one.xyz for one in every], np.float32), content["points"].reshape(-1, 3)
    rows = [int(np.flatnonzero((whole == point).all(axis=1))[0]) for point in points]
    assert len(set(rows)) == 100
    np.testing.assert_array_equal(content["colours"].reshape(-1, 3), [every[row].color for row in rows])
    np.testing.assert_array_equal(content["tracks"], [every[row].track.length() for row in rows])


def test_first_view_is_upright(model: Any, tmp_path: Path) -> None:
    import pycolmap

    angle = np.pi / 3
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    for turns in ([tilt], [np.eye(3), np.diag([1.0, -1.0, -1.0])]):
        turned = deepcopy(model)
        for number, frame in enumerate(turned.frames.values()):
            frame.rig_from_world = pycolmap.Rigid3d(
                pycolmap.Rotation3d(turns[number % len(turns)]), frame.rig_from_world.translation
            )
        turn = np.reshape(embedded(written(turned, tmp_path))["turn"], (3, 3))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        if len(turns) == 1:
            np.testing.assert_allclose(turn, tilt, atol=1e-12)


def test_first_view_leaves_out_what_lies_far_off(model: Any, tmp_path: Path) -> None:
    content = embedded(written(model, tmp_path))
    points, centres = content["points"].reshape(-1, 3).astype(np.float64), np.array(content["centres"])
    usual = first_view(points, centres)
    assert content["radius"] == pytest.approx(usual[1], rel=1e-5)
    np.testing.assert_allclose(content["centre"], usual[0], atol=1e-5)
    strays = points.copy()
    strays[:9] *= 1e5
    centre, radius = first_view(strays, centres)
    assert radius < 10
    assert np.linalg.norm(centre) < 1
    for share in (1, 4):
        away = centres.copy()
        away[:share] *= 50
        centre, radius = first_view(points, away)
        assert radius == pytest.approx(usual[1], rel=0.15)
        assert centre.tolist() == usual[0].tolist()
    # those around the points are in it
    assert usual[1] > 0.9 * np.median(np.linalg.norm(centres - usual[0], axis=1))
    assert usual[1] > 2 * np.quantile(np.linalg.norm(points - usual[0], axis=1), 0.9)
    assert first_view(points[:0], np.eye(3))[1] > 0.5


def test_frames_of_rigs_are_shown_image_by_image(tmp_path: Path) -> None:
    import pycolmap

    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 3
    rigs = pycolmap.synthesize_dataset(options)
    rigs.deregister_frame(next(iter(rigs.frames)))
    shown = embedded(written(rigs, tmp_path))
    assert len(shown["names"]) == 4
    for name, centre in zip(shown["names"], shown["centres"], strict=True):
        np.testing.assert_allclose(centre, rigs.find_image_with_name(name).projection_center())


def test_title_is_the_name_of_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garden" / "images").mkdir(parents=True)
    assert title_of(tmp_path / "garden" / "images") == "garden"
    assert title_of(tmp_path / "garden") == "garden"
    assert title_of(Path("/images")) == "images"
    monkeypatch.chdir(tmp_path / "garden" / "images")
    assert title_of(Path()) == "garden"


def test_unknown_errors_and_empty_models(model: Any, tmp_path: Path) -> None:
    import pycolmap

    unknown = deepcopy(model)
    for point in unknown.points3D.values():
        point.error = -1
    blind = min(unknown.images.values(), key=lambda one: str(one.name))
    for row in blind.get_observation_point2D_idxs():
        unknown.delete_observation(blind.image_id, row)
    content = embedded(written(unknown, tmp_path))
    assert (content["counts"][0], content["errors"][0], content["error"]) == (0, None, None)
    empty = embedded(written(pycolmap.Reconstruction(), tmp_path))
    assert (empty["names"], empty["total"], empty["radius"]) == ([], 0, 1.0)


def test_the_browser_shows_figures_and_hostile_names(model: Any, tmp_path: Path) -> None:
    shown = embedded(written(named(model, HOSTILE), tmp_path, title=HOSTILE, max_points=100))
    with launched() as browser, opened(browser, tmp_path / "model.html", 390, touch=True) as found:
        page = found.page
        assert page.inner_text("h1") == HOSTILE
        assert page.inner_text("#rows tr:first-child bdi") == HOSTILE
        assert page.locator("#rows tr").count() == len(shown["names"])
        assert page.inner_text("#error") == f"{shown['error']:.2f} px"
        assert page.inner_text("#drawn").startswith("100 of 300 points are drawn")
        page.click("#rows tr:first-child button")
        assert f"{shown['counts'][shown['names'].index(HOSTILE)]} points" in page.inner_text("#about")
        assert not found.errors
        assert not found.requests

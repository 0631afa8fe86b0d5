"""Models that begin with known poses: triangulated, extended, and with cameras on rigs."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomatch.colmap import Cameras, export_database
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError
from geomatch.reconstruction import Mapping, Reconstructed, reconstruct
from geomatch.reconstruction.models import read_model

QUIET = RunContext(engine=LocalEngine(1), progress=False)
EACH = Cameras("per-image")
Make = Callable[..., Any]


def written(model: Any, folder: Path, without: int = 0) -> Path:
    """The model without its points and the poses of its last images, as another program leaves it."""
    model = deepcopy(model)
    model.delete_all_points2D_and_points3D()
    if without:
        kept = model.__class__()
        for camera in model.cameras.values():
            kept.add_camera_with_trivial_rig(camera)
        for image in list(model.images.values())[:-without]:
            copy = image.__class__(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            kept.add_image_with_trivial_frame(copy, image.cam_from_world())
        model = kept
    folder.mkdir(parents=True)
    model.write_text(str(folder))
    return folder


def run(scene: Any, out: Path, mapping: Mapping) -> tuple[Reconstructed, Any]:
    result = reconstruct(scene.folder, out, scene.correspondences, mapping=mapping, context=QUIET)
    return result, read_model(out)


def names(model: Any) -> dict[int, str]:
    return {number: image.name for number, image in model.images.items()}


def places(model: Any) -> dict[str, Any]:
    return {image.name: image.cam_from_world().matrix() for image in model.images.values()}


def test_points_come_from_known_poses_and_everything_known_stays(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=5, points=120)
    start = written(scene.truth, tmp_path / "known")
    result, model = run(scene, tmp_path / "out", Mapping("triangulation", start=start))
    assert result.models[0].registered == model.num_reg_images() == 5
    assert model.num_points3D() >= 118
    assert names(model) == names(scene.truth)
    for number, camera in scene.truth.cameras.items():
        assert model.cameras[number].params.tolist() == camera.params.tolist()
    for number, image in scene.truth.images.items():
        found = model.images[number].cam_from_world().matrix()
        np.testing.assert_allclose(found, image.cam_from_world().matrix(), atol=1e-12)
        assert model.images[number].num_points3D == len(model.images[number].get_observation_points2D())
    truth = np.array([point.xyz for point in scene.truth.points3D.values()])
    for point in model.points3D.values():
        assert np.linalg.norm(truth - point.xyz, axis=1).min() < 1e-3


def test_ids_stay_when_they_are_not_in_the_order_of_names(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=4, points=80)
    library = scene.truth.__class__
    turned = library()
    for camera in scene.truth.cameras.values():
        camera = deepcopy(camera)
        camera.camera_id = 7
        turned.add_camera_with_trivial_rig(camera)
    for number, image in scene.truth.images.items():
        copy = image.__class__(name=image.name, camera_id=7, image_id=40 - 3 * number)
        turned.add_image_with_trivial_frame(copy, image.cam_from_world())
    start = written(turned, tmp_path / "known")
    _, model = run(scene, tmp_path / "out", Mapping("triangulation", start=start))
    assert names(model) == names(turned)
    assert model.num_points3D() >= 78
    assert set(model.cameras) == {7}


@pytest.mark.parametrize("fixed", [True, False])
def test_images_are_added_to_a_model_in_its_frame(tmp_path: Path, make_scene: Make, fixed: bool) -> None:
    scene = make_scene(frames=6, points=150)
    start = written(scene.truth, tmp_path / "known", without=2)
    result, model = run(scene, tmp_path / "out", Mapping(start=start, fix_poses=fixed))
    assert model.num_reg_images() == 6
    assert len(result.models) == 1
    truth, found, known = places(scene.truth), places(model), places(read_model(start))
    for name, matrix in truth.items():
        if fixed and name in known:
            np.testing.assert_allclose(found[name], matrix, atol=1e-12)
        np.testing.assert_allclose(found[name], matrix, atol=2e-3)


def test_wrong_poses_give_no_model_but_the_reason(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=4, points=80)
    others = scene.truth.__class__()
    for camera in scene.truth.cameras.values():
        others.add_camera_with_trivial_rig(camera)
    images = list(scene.truth.images.values())
    for image in images:  # as if all were taken from one place
        copy = image.__class__(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
        others.add_image_with_trivial_frame(copy, images[0].cam_from_world())
    start = written(others, tmp_path / "known")
    mapping = Mapping("triangulation", start=start)
    result = reconstruct(
        scene.folder, tmp_path / "out", scene.correspondences, mapping=mapping, context=QUIET
    )
    assert not result
    assert "6 pairs are verified, but their matches give no point from these poses" in result.reason


def test_cameras_of_a_rig_keep_their_places(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=4, points=150, rename=lambda name: name.replace("_", "/"), cameras=2)
    rig = [{"image_prefix": "camera000001/", "ref_sensor": True}, {"image_prefix": "camera000002/"}]
    (tmp_path / "rigs.json").write_text(json.dumps([{"cameras": rig}]))
    _, model = run(scene, tmp_path / "out", Mapping(rigs=tmp_path / "rigs.json"))
    assert model.num_reg_images() == 8
    assert (len(model.frames), len(model.rigs)) == (4, 1)
    poses = {name: np.vstack([matrix, [0, 0, 0, 1]]) for name, matrix in places(model).items()}
    between = [
        poses[f"camera000002/frame{k:06d}.png"] @ np.linalg.inv(poses[f"camera000001/frame{k:06d}.png"])
        for k in range(4)
    ]
    for one in between[1:]:
        np.testing.assert_allclose(one, between[0], atol=1e-9)


@pytest.mark.parametrize("given", ["places", "no places", "in the model"])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_model_is_extended_on_its_rigs(tmp_path: Path, make_scene: Make, fixed: bool, given: str) -> None:
    scene = make_scene(frames=4, points=150, rename=lambda name: name.replace("_", "/"), cameras=2)
    scene.truth.delete_all_points2D_and_points3D()
    for image in scene.truth.images.values():
        image.name = image.name.replace("_", "/")
    truth = places(scene.truth)
    (of_second,) = next(iter(scene.truth.rigs.values())).non_ref_sensors.values()
    x, y, z, w = of_second.rotation.quat
    rig = [{"image_prefix": "camera000001/", "ref_sensor": True}, {"image_prefix": "camera000002/"}]
    if given == "places":
        rig[1] |= {
            "cam_from_rig_rotation": [w, x, y, z],
            "cam_from_rig_translation": [*of_second.translation],
        }
    (tmp_path / "rigs.json").write_text(json.dumps([{"cameras": rig}]))
    start, rigs = tmp_path / "known", None if given == "in the model" else tmp_path / "rigs.json"
    if rigs:
        written(scene.truth, start, without=2)
    else:
        start.mkdir()
        scene.truth.write(str(start))
    _, model = run(scene, tmp_path / "out", Mapping(start=start, fix_poses=fixed, rigs=rigs))
    assert (model.num_reg_images(), len(model.rigs), len(model.frames)) == (8, 1, 4)
    known = {one.name for one in read_model(start).images.values()}
    for name, pose in places(model).items():
        np.testing.assert_allclose(pose, truth[name], atol=1e-7 if fixed and name in known else 1e-4)


def test_poses_and_cameras_come_to_a_database_of_other_numbers(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=5, points=120)
    export_database(scene.folder, scene.correspondences, tmp_path / "d.db", cameras=EACH, context=QUIET)
    known = scene.truth.__class__()
    (camera,) = deepcopy(scene.truth).cameras.values()
    focal, x, y, k = camera.params
    camera = camera.__class__(
        camera_id=7, model="OPENCV", width=camera.width, height=camera.height,
        params=[focal, focal, x, y, k, 0, 0, 0],
    )  # fmt: skip
    known.add_camera_with_trivial_rig(camera)
    for number, image in list(scene.truth.images.items())[:4]:
        copy = image.__class__(name=image.name, camera_id=7, image_id=40 - 3 * number)
        known.add_image_with_trivial_frame(copy, image.cam_from_world())
    start, truth = written(known, tmp_path / "known"), places(scene.truth)
    for mapping in (Mapping("triangulation", start=start), Mapping(start=start, fix_poses=True)):
        out = tmp_path / mapping.mapper
        reconstruct(scene.folder, out, tmp_path / "d.db", mapping=mapping, context=QUIET)
        model = read_model(out)
        assert model.num_reg_images() == (4 if mapping.mapper == "triangulation" else 5)
        assert model.num_points3D() >= 115
        for image in model.images.values():
            if image.name in places(known):
                np.testing.assert_allclose(image.cam_from_world().matrix(), truth[image.name], atol=1e-9)
                assert (image.camera.model_name, [*image.camera.params]) == ("OPENCV", [*camera.params])
    known.cameras[7].width += 2
    start = written(known, tmp_path / "larger")
    with pytest.raises(GeomatchError, match="both must be of the same files"):
        reconstruct(
            scene.folder, tmp_path / "o", tmp_path / "d.db", mapping=Mapping(start=start), context=QUIET
        )


def test_what_does_not_fit_is_said(tmp_path: Path, make_scene: Make) -> None:
    scene = make_scene(frames=3, points=40)
    with pytest.raises(ValueError, match="needs a model"):
        Mapping("triangulation")
    with pytest.raises(ValueError, match="incremental mapper"):
        Mapping("global", start=tmp_path)
    with pytest.raises(ValueError, match="keeps its own frame"):
        Mapping(start=tmp_path, positions=True)
    with pytest.raises(GeomatchError, match="no COLMAP model there"):
        run(scene, tmp_path / "out", Mapping("triangulation", start=tmp_path))
    for content, said in (
        ("{", "rigs.json"),
        ("[]", "no rig in it"),
        ('[{"cameras": [{"image_prefix": "left/", "ref_sensor": true}]}]', "the rigs do not fit the images"),
        (
            '[{"cameras": [{"image_prefix": "camera000001_frame000000", "ref_sensor": true},'
            ' {"image_prefix": "camera000001_frame000001"}]}]',
            "share a camera: put those of each camera of a rig in a folder",
        ),
    ):
        (tmp_path / "rigs.json").write_text(content)
        with pytest.raises(GeomatchError, match=said):
            run(scene, tmp_path / "out", Mapping(rigs=tmp_path / "rigs.json"))

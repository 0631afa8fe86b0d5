"""Observations aligned to sub-pixel accuracy, and what holds a model in its frame."""

import shutil
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rendered_scene
from numpy.typing import NDArray
from PIL import Image as PILImage
from rendered_scene import Panel

from geomatch.cameras import Camera, pycolmap
from geomatch.colmap import Cameras
from geomatch.colmap.cameras import import_images
from geomatch.colmap.library import database
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError, ImageError
from geomatch.reconstruction import Mapping, reconstruct
from geomatch.reconstruction.mapping import map_database
from geomatch.reconstruction.refine_tracks import refine_tracks
from geomatch.reconstruction.windows import SIDE, align_windows

Array = NDArray[np.float64]
VIEWS, SIZE = 5, (320, 240)
PANELS = cache(rendered_scene.courtyard)
BENDS = {"SIMPLE_RADIAL": (-0.15,), "OPENCV_FISHEYE": (0.05, -0.02, 0.0, 0.0)}


def hits(panels: list[Panel], centre: Array, directions: Array) -> Array:
    """(N, 3) where rays first meet a panel, infinite where they meet none."""
    nearest = np.full(len(directions), np.inf)
    for panel in panels:
        inverse = np.linalg.inv(np.stack([panel.right, panel.down, np.cross(panel.right, panel.down)]))
        start, steps = (centre - panel.corner) @ inverse, directions @ inverse
        reach = -start[2] / steps[:, 2]
        inside = start[:2] + reach[:, None] * steps[:, :2]
        met = (reach > 0.1) & (reach < nearest) & (inside > 0.01).all(axis=1) & (inside < 0.99).all(axis=1)
        nearest[met] = reach[met]
    return centre + nearest[:, None] * directions


def off_surface(panels: list[Panel], points: Array) -> Array:
    """(N,) distances of points from the planes of the panels, the smallest of each."""
    normals = [
        np.cross(panel.right, panel.down) / np.linalg.norm(np.cross(panel.right, panel.down))
        for panel in panels
    ]
    return np.min([np.abs((points - p.corner) @ n) for p, n in zip(panels, normals, strict=True)], axis=0)


@dataclass(frozen=True)
class Scene:
    """Views of the courtyard, and the true model with tracks."""

    folder: Path
    panels: list[Panel]
    truth: Any

    def disturbed(self, seed: int = 0, pixels: float = 0.5) -> Any:
        """The model with observations and points moved at random."""
        model, rng = pycolmap().Reconstruction(self.truth), np.random.default_rng(seed)
        for image_id in sorted(model.images):
            for point in model.images[image_id].points2D:
                point.xy = point.xy + rng.normal(0, pixels, 2)
        for point_id in sorted(model.points3D):
            point = model.points3D[point_id]
            point.xyz = point.xyz + rng.normal(0, 0.01, 3)
        return model

    def points(self, model: Any) -> Array:
        return np.array([point.xyz for point in model.points3D.values()])


@pytest.fixture(scope="module", params=list(BENDS))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("courtyard")
    rng, library, panels = np.random.default_rng(3), pycolmap(), PANELS()
    focal = [1.0 * SIZE[0]] * (2 if request.param == "OPENCV_FISHEYE" else 1)
    camera = Camera(request.param, SIZE, (*focal, SIZE[0] / 2, SIZE[1] / 2, *BENDS[request.param]))
    truth = library.Reconstruction()
    truth.add_camera_with_trivial_rig(
        library.Camera(
            camera_id=1, model=camera.model, width=SIZE[0], height=SIZE[1], params=np.array(camera.params)
        )
    )
    poses = [rendered_scene.pose(rng, 0.3 + 0.1 * number) for number in range(VIEWS)]
    for number, (rotation, centre) in enumerate(poses, 1):
        image, _ = rendered_scene.render(panels, camera, rotation, centre)
        lit = np.clip(image * rng.uniform(0.8, 1.1) + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), lit)
    grid = np.stack(np.meshgrid(np.arange(12, SIZE[0] - 12, 9.0), np.arange(12, SIZE[1] - 12, 9.0)), axis=-1)
    starts = grid.reshape(-1, 2)
    rotation, centre = poses[VIEWS // 2]
    points = hits(panels, centre, np.column_stack([camera.rays(starts), np.ones(len(starts))]) @ rotation)
    points = points[np.isfinite(points).all(axis=1)]
    seen, places = [], []
    for rotation, centre in poses:
        local = (points - centre) @ rotation.T
        place = truth.cameras[1].img_from_cam(np.ascontiguousarray(local))
        with np.errstate(invalid="ignore"):
            inside = ((place > 10) & (place < np.array(SIZE) - 10)).all(axis=1)
        met = hits(panels, centre, points - centre)
        seen.append(inside & (np.linalg.norm(met - points, axis=1) < 1e-6))
        places.append(place)
    for number, (rotation, centre) in enumerate(poses, 1):
        image = library.Image(name=f"{number}.png", camera_id=1, image_id=number)
        image.points2D = [library.Point2D(xy) for xy in places[number - 1][seen[number - 1]]]
        moved = library.Rigid3d(library.Rotation3d(rotation), -rotation @ centre)
        truth.add_image_with_trivial_frame(image, moved)
    rows = np.cumsum(seen, axis=1) - 1
    for k in range(len(points)):
        track = library.Track()
        for number in range(VIEWS):
            if seen[number][k]:
                track.add_element(number + 1, int(rows[number][k]))
        if track.length() >= 3:
            truth.add_point3D(points[k], track)
    return Scene(folder, panels, truth)


def observations(model: Any) -> Array:
    return np.concatenate([[point.xy for point in model.images[k].points2D] for k in sorted(model.images)])


def poses_of(model: Any) -> list[Array]:
    return [model.images[k].cam_from_world().matrix() for k in sorted(model.images)]


def centre_error(model: Any, truth: Any) -> float:
    """The median distance of camera centres from the true ones, after a similarity, by their extent."""
    names = sorted(image.name for image in model.images.values() if image.has_pose)
    ours, true = (
        np.array([one.find_image_with_name(name).projection_center() for name in names])
        for one in (model, truth)
    )
    moved = pycolmap().estimate_sim3d(ours, true)
    off = np.linalg.norm(ours @ (moved.scale * moved.rotation.matrix().T) + moved.translation - true, axis=1)
    return float(np.median(off) / np.linalg.norm(np.ptp(true, axis=0)))


def adjusted(model: Any, fixed_poses: bool = False) -> Any:
    """The model after bundle adjustment alone."""
    library, config = pycolmap(), pycolmap().BundleAdjustmentConfig()
    options = library.BundleAdjustmentOptions()
    options.print_summary = options.refine_focal_length = options.refine_extra_params = False
    options.refine_rig_from_world = not fixed_poses
    for number in model.images:
        config.add_image(number)
    if not fixed_poses:
        config.fix_gauge(library.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    library.create_default_bundle_adjuster(options, config, model).solve()
    return model


def test_points_come_back_to_the_surfaces_through_any_lens_and_the_cameras_stay(scene: Scene) -> None:
    model = scene.disturbed()
    rough = adjusted(scene.disturbed(), fixed_poses=True)
    model.update_point_3d_errors()
    before = model.compute_mean_reprojection_error()
    moved, rejected = refine_tracks(model, scene.folder, known=deepcopy(model), fixed_intrinsics=True)
    off, rough_off = (np.median(off_surface(scene.panels, scene.points(one))) for one in (model, rough))
    assert off < rough_off / 4
    assert moved > 2 * rejected
    assert model.compute_mean_reprojection_error() < before / 3
    assert np.allclose(poses_of(model), poses_of(scene.truth), rtol=0, atol=1e-12)
    assert np.array_equal(model.cameras[1].params, scene.truth.cameras[1].params)


def test_poses_get_better_and_the_same_every_time(scene: Scene) -> None:
    rough, models = adjusted(scene.disturbed()), [scene.disturbed(), scene.disturbed()]
    for model in models:
        refine_tracks(model, scene.folder, fixed_intrinsics=True)
    assert centre_error(models[0], scene.truth) < centre_error(rough, scene.truth) / 3
    assert np.array_equal(observations(models[0]), observations(models[1]))
    assert np.array_equal(poses_of(models[0]), poses_of(models[1]))


def test_what_the_images_do_not_confirm_stays_where_it_was(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.folder, tmp_path / "images")
    rng = np.random.default_rng(0)
    hidden = cv2.imread(str(scene.folder / "2.png"))
    hidden[:, 150:] = rng.integers(0, 255, (1, 1, 3)) + rng.normal(0, 4, hidden[:, 150:].shape)
    cv2.imwrite(str(tmp_path / "images" / "2.png"), hidden)
    model = scene.disturbed()
    wrong = next(k for k, point in enumerate(model.images[4].points2D) if point.has_point3D())
    model.images[4].points2D[wrong].xy += np.array([8.0, 5.0])
    before = [np.array([point.xy for point in model.images[k].points2D]) for k in (2, 4)]
    _, rejected = refine_tracks(model, tmp_path / "images", known=deepcopy(model))
    after = [np.array([point.xy for point in model.images[k].points2D]) for k in (2, 4)]
    covered, free = before[0][:, 0] > 160, before[0][:, 0] < 135
    assert covered.sum() > 20
    assert np.array_equal(after[0][covered], before[0][covered])
    assert (after[0][free] != before[0][free]).any(axis=1).mean() > 0.4
    assert np.array_equal(after[1][wrong], before[1][wrong])
    assert rejected >= covered.sum() / 2
    assert not model.images[4].points2D[wrong].has_point3D()  # the adjusted model contradicts it


def test_noise_moves_nothing(scene: Scene, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, VIEWS + 1):
        grey = np.clip(rng.normal(128, 5, (SIZE[1], SIZE[0])), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), grey)
    model = scene.disturbed()
    moved, rejected = refine_tracks(model, tmp_path, known=deepcopy(model))
    assert moved <= 0.01 * rejected


def test_an_image_in_which_nothing_is_looked_for(scene: Scene) -> None:
    image, none = np.zeros((40, 40), np.float32), np.zeros((0, 2))
    found = align_windows(image, np.zeros((0, SIDE**2), np.uint8), none, np.zeros((0, 2, 2)))
    assert [one.shape for one in found] == [(0, 2), (0,), (0,)]


def test_bad_input_is_told(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1\.png"):
        refine_tracks(scene.disturbed(), tmp_path)
    for number in range(2, VIEWS + 1):
        (tmp_path / f"{number}.png").symlink_to(scene.folder / f"{number}.png")
    assert refine_tracks(scene.disturbed(), tmp_path)[0]  # those of the images that are there
    for number in range(1, VIEWS + 1):
        (tmp_path / f"{number}.png").unlink(missing_ok=True)
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((60, 80), np.uint8))
    with pytest.raises(GeomatchError, match="320x240 pixels, this file 80x60"):
        refine_tracks(scene.disturbed(), tmp_path)
    assert refine_tracks(pycolmap().Reconstruction(), tmp_path) == (0, 0)


def test_positions_hold_a_model_while_it_is_refined(scene: Scene) -> None:
    library, model, priors = pycolmap(), scene.disturbed(), []
    model.transform(library.Sim3d(3.0, library.Rotation3d(np.array([0.0, 0.0, 0.7, 0.7])), np.ones(3)))
    for number, image in sorted(scene.truth.images.items()):
        prior = library.PosePrior()
        prior.corr_data_id, prior.pose_prior_id = model.images[number].data_id, number
        prior.position, prior.position_covariance = image.projection_center(), np.eye(3) * 1e-4
        prior.coordinate_system = library.PosePriorCoordinateSystem.CARTESIAN
        priors.append(prior)
    refine_tracks(model, scene.folder, priors=priors, fixed_intrinsics=True)
    off = [
        np.linalg.norm(image.projection_center() - scene.truth.images[number].projection_center())
        for number, image in model.images.items()
    ]
    assert max(off) < 0.02


def synthetic(path: Path, priors: str = "") -> Any:
    """A database with a made scene of six images, with positions to a centimetre; returns the true model."""
    library = pycolmap()
    options, noise = library.SyntheticDatasetOptions(), library.SyntheticNoiseOptions()
    options.num_rigs, options.num_frames_per_rig, options.camera_has_prior_focal_length = 1, 6, True
    options.prior_position = bool(priors)
    if priors:
        options.prior_position_coordinate_system = getattr(library.PosePriorCoordinateSystem, priors)
    noise.prior_position_stddev, noise.point2D_stddev = 0.01, 0.2
    library.set_random_seed(1)
    with database(str(path)) as opened:
        truth = library.synthesize_dataset(options, opened)
        library.synthesize_noise(noise, truth, opened)
    return truth


@pytest.mark.parametrize("system", ["CARTESIAN", "WGS84"])
def test_positions_of_the_database_make_metres(tmp_path: Path, system: str) -> None:
    truth = synthetic(tmp_path / "db.db", system)
    (model,) = map_database(
        tmp_path / "db.db", tmp_path, tmp_path / "out", Mapping(positions=True, refine=False)
    )
    names = [image.name for image in truth.images.values()]
    ours, true = (
        np.array([one.find_image_with_name(name).projection_center() for name in names])
        for one in (model, truth)
    )
    if system == "WGS84":  # metres from the first image
        ours, true = ours - ours[0], true - true[0]
        assert np.allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(true, axis=1), atol=0.1)
    else:
        assert np.allclose(ours, true, atol=0.1)


def test_positions_that_are_not_there_are_told(tmp_path: Path) -> None:
    synthetic(tmp_path / "db.db")
    with pytest.raises(GeomatchError, match="no image has a position"):
        map_database(tmp_path / "db.db", tmp_path, tmp_path / "out", Mapping(positions=True))
    with pytest.raises(ValueError, match="global mapping uses no positions"):
        Mapping("global", positions=True)


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_cameras_stay_as_they_are_given(tmp_path: Path, mapper: Any) -> None:
    synthetic(tmp_path / "db.db")
    given = np.array([1300.0, 512.0, 384.0, 0.04])  # 1280 and 0.05 are true
    with database(str(tmp_path / "db.db")) as opened:
        for camera in opened.read_all_cameras():
            camera.params = given
            opened.update_camera(camera)
    for fixed in (True, False):
        mapping = Mapping(mapper, fix_intrinsics=fixed, refine=False)
        (model,) = map_database(tmp_path / "db.db", tmp_path, tmp_path / "out", mapping)
        assert all(np.array_equal(camera.params, given) == fixed for camera in model.cameras.values())


def test_gps_of_photographs_is_read(tmp_path: Path) -> None:
    for number in range(2):
        exif = PILImage.Exif()
        exif[0x8825] = {
            1: "N",
            2: (47.0, 22.0, 30.0 + number),
            3: "E",
            4: (8.0, 32.0, 30.0),
            5: b"\0",
            6: 400.0,
        }
        PILImage.new("RGB", (64, 48)).save(tmp_path / f"{number}.jpg", exif=exif)
    with database(str(tmp_path / "db.db")):
        pass
    import_images(tmp_path / "db.db", tmp_path, {"0.jpg": (64, 48), "1.jpg": (64, 48)}, Cameras())
    with database(str(tmp_path / "db.db")) as opened:
        priors = opened.read_all_pose_priors()
    assert [prior.coordinate_system.name for prior in priors] == ["WGS84", "WGS84"]
    assert np.allclose(priors[1].position, [47 + 22 / 60 + 31 / 3600, 8 + 32 / 60 + 30 / 3600, 400])


@pytest.mark.slow
def test_a_rendered_courtyard_has_better_poses_with_refinement(tmp_path: Path) -> None:
    rendered_scene.write(tmp_path / "scene", views=8, width=480)
    truth = pycolmap().Reconstruction(str(tmp_path / "scene" / "sparse" / "0"))
    errors = []
    for refine in (False, True):
        done = reconstruct(
            tmp_path / "scene" / "images", tmp_path / "out", cameras=Cameras(mode="single"),
            mapping=Mapping(refine=refine), context=RunContext(engine=LocalEngine(1), progress=False),
        )  # fmt: skip
        assert done.models[0].registered == 8
        errors.append(centre_error(pycolmap().Reconstruction(str(tmp_path / "out" / "sparse" / "0")), truth))
    assert errors[1] < errors[0] / 2

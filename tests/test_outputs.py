"""Models for other programs, each read by that program's rule, which is restated here."""

import json
import shutil
import struct
import subprocess
import zlib  # noqa: F401  (before pycolmap, whose own copy would break writers of PNG)
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.errors import GeomatchError
from geomatch.reconstruction import outputs
from geomatch.reconstruction.models import read_model
from geomatch.reconstruction.outputs import write_outputs
from geomatch.reconstruction.transforms import read_transforms

WIDTH, HEIGHT = 320, 240
PARAMS = {
    "SIMPLE_RADIAL": [300, 160, 120, -0.12],
    "OPENCV": [300, 310, 163, 117, -0.15, 0.03, 0.002, -0.003],
    "OPENCV_FISHEYE": [260, 250, 158, 122, -0.04, 0.01, -0.002, 0.001],
}
DEBIAN = pytest.mark.skipif(shutil.which("colmap") is None, reason="the program colmap is not installed")


class Scene(NamedTuple):
    model: Any
    images: Path
    marks: dict[str, NDArray[np.float64]]  # some of each image's points, where a bright dot is drawn


def synthetic(camera_model: str, params: list[float], rigs: int = 2, cameras: int = 1) -> Any:
    options = pycolmap().SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = rigs, cameras, 2
    options.num_points3D, options.camera_width, options.camera_height = 80, WIDTH, HEIGHT
    options.camera_model_id, options.camera_params = getattr(pycolmap().CameraModelId, camera_model), params
    pycolmap().set_random_seed(0)
    model = pycolmap().synthesize_dataset(options)
    counts = {1: 0, 2: 0}
    for _, image in sorted(model.images.items()):
        image.name = f"{'left' if image.camera_id == 1 else 'right é'}/{counts[image.camera_id]}.png"
        counts[image.camera_id] += 1
    for number, point in enumerate(model.points3D.values()):
        point.color = np.array([number, 2 * number, 3 * number], np.uint8)
    return model


def dots(image: Any) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A picture with a dot at each of some points far from each other, and these (COLMAP's pixels)."""
    kept = np.zeros((0, 2))
    for seen in image.get_observation_points2D():
        inside = ((seen.xy > 30) & (seen.xy < [WIDTH - 30, HEIGHT - 30])).all()
        if inside and (np.linalg.norm(kept - seen.xy, axis=1) > 24).all():
            kept = np.vstack([kept, seen.xy])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    field = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 1.8**2)) for u, v in kept)
    return np.asarray(255 * field).round().astype(np.uint8), kept


@pytest.fixture(scope="module", params=list(PARAMS))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    model, images = (
        synthetic(request.param, PARAMS[request.param]),
        tmp_path_factory.mktemp("scene") / "images",
    )
    marks = {}
    for image in model.images.values():
        (images / image.name).parent.mkdir(parents=True, exist_ok=True)
        pixels, marks[image.name] = dots(image)
        PILImage.fromarray(pixels).convert("RGB").save(images / image.name)
    return Scene(model, images, marks)


@pytest.fixture(scope="module")
def undistorted(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_outputs(scene.model, scene.images, tmp_path_factory.mktemp("out"), ["undistorted"])
    return path


def plain(camera_model: str = "SIMPLE_RADIAL", folder: Path | None = None, **options: int) -> Any:
    """A model, with a grey photograph for each image when there is a folder for them."""
    model = synthetic(camera_model, PARAMS.get(camera_model, [300, 160, 120, 0]), **options)
    for image in model.images.values() if folder else ():
        (folder / image.name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(folder / image.name)
    return model


# 3D Gaussian Splatting


def read_binary(folder: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Cameras, images and points by the rules of graphdeco's ``colmap_loader.py``, those of COLMAP 3."""

    def take(file: Any, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))

    cameras, images, points = {}, {}, {}
    with (folder / "cameras.bin").open("rb") as file:
        for _ in range(*take(file, "Q")):
            number, model, width, height = take(file, "iiQQ")
            assert model in (0, 1)  # SIMPLE_PINHOLE, PINHOLE: others are refused
            cameras[number] = width, height, take(file, "ddd" if model == 0 else "dddd")
        assert not file.read()
    with (folder / "images.bin").open("rb") as file:
        for _ in range(*take(file, "Q")):
            number, *pose, camera = take(file, "idddddddi")
            name = ""
            while (byte := file.read(1)) != b"\0":
                name += byte.decode("utf-8")  # one by one
            values = np.array(take(file, "ddq" * take(file, "Q")[0])).reshape(-1, 3)
            images[number] = name, np.array(pose), camera, values[:, :2], values[:, 2].astype(int)
        assert not file.read()
    with (folder / "points3D.bin").open("rb") as file:
        for _ in range(*take(file, "Q")):
            number, *values = take(file, "QdddBBBd")
            points[number] = np.array(values[:3]), values[3:6], take(file, "ii" * take(file, "Q")[0])
        assert not file.read()
    return cameras, images, points


def rotation(q: NDArray[np.float64]) -> NDArray[np.float64]:
    w, x, y, z = q
    return np.array([
        [1 - 2 * y * y - 2 * z * z, 2 * x * y - 2 * w * z, 2 * x * z + 2 * w * y],
        [2 * x * y + 2 * w * z, 1 - 2 * x * x - 2 * z * z, 2 * y * z - 2 * w * x],
        [2 * x * z - 2 * w * y, 2 * y * z + 2 * w * x, 1 - 2 * x * x - 2 * y * y],
    ])  # fmt: skip


def test_a_loader_of_gaussian_splatting_finds_all_of_it(scene: Scene, undistorted: Path) -> None:
    cameras, images, points = read_binary(undistorted / "sparse" / "0")
    assert len(images) == scene.model.num_images() == 4
    assert len(cameras) == 2
    old = json.loads((undistorted / "names.json").read_text())["images"]
    assert sorted(old.values()) == ["left/0.png", "left/1.png", "right é/0.png", "right é/1.png"]
    assert set(old) == {path.name for path in (undistorted / "images").iterdir()}
    assert points.keys() == {*scene.model.points3D}
    for number, (xyz, colour, track) in points.items():
        given = scene.model.points3D[number]
        np.testing.assert_array_equal(xyz, given.xyz)
        assert list(colour) == given.color.tolist()
        assert len(track) == 2 * given.track.length()
    for name, pose, camera, places, numbers in images.values():
        given = scene.model.find_image_with_name(old[name])
        width, height, (fx, fy, cx, cy) = cameras[camera]
        assert cv2.imread(str(undistorted / "images" / name)).shape == (height, width, 3)
        seen = numbers >= 0
        assert seen.sum() == given.num_points3D
        world = np.array([points[number][0] for number in numbers[seen]])
        x, y, z = (world @ rotation(pose[:4]).T + pose[4:]).T
        projected = np.column_stack([fx * x / z + cx, fy * y / z + cy])
        np.testing.assert_allclose(projected, places[seen], atol=1e-6)


def test_undistorted_pixels_lie_where_the_pinhole_camera_says(scene: Scene, undistorted: Path) -> None:
    cameras, images, _ = read_binary(undistorted / "sparse" / "0")
    old = json.loads((undistorted / "names.json").read_text())["images"]
    moved, tried = [], 0
    for name, _, camera, _, _ in images.values():
        width, height, (fx, fy, cx, cy) = cameras[camera]
        pixels = cv2.imread(str(undistorted / "images" / name))[..., 0].astype(float)
        marks = scene.marks[old[name]]
        rays = scene.model.find_image_with_name(old[name]).camera.cam_from_img(marks)
        for (u, v), mark in zip(rays * [fx, fy] + [cx, cy], marks, strict=True):
            left, top = int(u) - 9, int(v) - 9
            if not (0 <= left <= width - 19 and 0 <= top <= height - 19):
                continue
            part = pixels[top : top + 19, left : left + 19]
            y, x = np.mgrid[top : top + 19, left : left + 19] + 0.5  # COLMAP's centre of a pixel
            centre = (x * part).sum() / part.sum(), (y * part).sum() / part.sum()
            np.testing.assert_allclose(centre, (u, v), atol=0.12)
            moved.append(np.hypot(u - mark[0], v - mark[1]))
            tried += 1
    assert tried > 20
    assert max(moved) > 1


@DEBIAN
def test_colmap_3_reads_the_undistorted_model(scene: Scene, undistorted: Path, tmp_path: Path) -> None:
    sparse = str(undistorted / "sparse" / "0")
    done = subprocess.run(["colmap", "model_analyzer", "--path", sparse], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "Registered images: 4" in said
    assert f"Points: {scene.model.num_points3D()}" in said
    assert "Mean reprojection error: 0.0000" in said
    convert = ["colmap", "model_converter", "--input_path", sparse, "--output_path", str(tmp_path / "x")]
    subprocess.run([*convert, "--output_type", "Bundler"], check=True, capture_output=True)
    lines = (tmp_path / "x.bundle.out").read_text().splitlines()
    assert lines[0] == "# Bundle file v0.3"
    assert lines[1].split() == ["4", str(scene.model.num_points3D())]
    assert len((tmp_path / "x.list.txt").read_text().split("\n")) >= 4


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_gives_the_same_and_one_that_is_interrupted_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, out = plain(folder=tmp_path / "images"), tmp_path / "images", tmp_path / "out"
    forms = ["undistorted", "nerfstudio", "ply"]
    first = write_outputs(model, images, out, forms)
    before = contents(out)
    assert {"points.ply", "sparse_pc.ply", "transforms.json", "undistorted/names.json"} <= before.keys()
    assert write_outputs(model, images, out, forms) == first
    assert contents(out) == before

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "interruptible", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_outputs(model, images, out, ["undistorted"])
    assert contents(out) == before
    assert {path.name for path in out.iterdir()} == {path.name for path in first}


def test_names_stay_apart_and_images_without_a_pose_are_left_out(tmp_path: Path) -> None:
    model = plain()
    names = ("a/1.png", "a_1.png", "_a_1.png", "b.png")
    for image, name in zip(sorted(model.images.values(), key=lambda one: one.image_id), names, strict=True):
        image.name = name
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "in" / name)
    model.deregister_frame(model.find_image_with_name("b.png").frame_id)
    write_outputs(model, tmp_path / "in", tmp_path, ["undistorted"])
    _, images, _ = read_binary(tmp_path / "undistorted" / "sparse" / "0")
    old = json.loads((tmp_path / "undistorted" / "names.json").read_text())["images"]
    assert sorted(old.values()) == sorted(names[:3])
    assert {image[0] for image in images.values()} == set(old)
    assert [image.name for image in model.images.values() if image.has_pose] != sorted(old)  # ours stays


@pytest.mark.parametrize("byteorder", ["II", "MM"])
def test_no_orientation_turns_undistorted_pixels(tmp_path: Path, byteorder: str) -> None:
    model = plain()
    for image in model.images.values():
        image.name = image.name.replace("png", "jpg")
        (tmp_path / "in" / image.name).parent.mkdir(parents=True, exist_ok=True)
        little = byteorder == "II"
        entry = struct.pack(("<" if little else ">") + "HHIHHI", 0x0112, 3, 1, 6, 0, 0)
        exif = b"Exif\0\0" + byteorder.encode() + struct.pack(("<" if little else ">") + "HIH", 42, 8, 1)
        PILImage.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "in" / image.name, exif=exif + entry)
        assert cv2.imread(str(tmp_path / "in" / image.name)).shape[:2] == (WIDTH, HEIGHT)  # turned
    write_outputs(model, tmp_path / "in", tmp_path, ["undistorted"])
    made = read_model(tmp_path / "undistorted")
    for image in made.images.values():
        size = image.camera.height, image.camera.width
        assert cv2.imread(str(tmp_path / "undistorted" / "images" / image.name)).shape[:2] == size


# nerfstudio


def lens(values: dict[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels of rays, by the distortion of nerfstudio's ``cameras/camera_utils.py`` and OpenCV's formulas."""
    if values["camera_model"] == "OPENCV_FISHEYE":
        r = np.hypot(x, y)
        t = np.arctan(r)
        k = [values[f"k{n}"] for n in (1, 2, 3, 4)]
        bent = t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8) / r
        x, y = x * bent, y * bent
    else:
        assert values["camera_model"] in ("OPENCV", "PINHOLE")
        r, p1, p2 = x**2 + y**2, values["p1"], values["p2"]
        bent = 1 + values["k1"] * r + values["k2"] * r**2
        x, y = (
            x * bent + 2 * p1 * x * y + p2 * (r + 2 * x**2),
            y * bent + 2 * p2 * x * y + p1 * (r + 2 * y**2),
        )
    return np.column_stack([values["fl_x"] * x + values["cx"], values["fl_y"] * y + values["cy"]])


def read_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Places and colours of a PLY file of points."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property")]
    rows = np.frombuffer(body, np.dtype(fields))
    assert f"element vertex {len(rows)}" in lines
    colours = np.stack([rows[name] for name in ("red", "green", "blue")], 1)
    return np.stack([rows[name] for name in "xyz"], 1).astype(float), colours


def same_points(path: Path, xyz: NDArray[np.float64], colours: NDArray[np.uint8]) -> None:
    places, found = read_ply(path)
    order, given = np.lexsort(found.T), np.lexsort(colours.T)
    np.testing.assert_array_equal(found[order], colours[given])
    np.testing.assert_allclose(places[order], xyz[given], atol=1e-5)


def test_nerfstudio_sees_the_points_where_they_were_observed(scene: Scene, tmp_path: Path) -> None:
    files = write_outputs(scene.model, scene.images, tmp_path, ["nerfstudio", "ply"])
    assert [path.name for path in files] == ["transforms.json", "sparse_pc.ply", "points.ply"]
    content = json.loads((tmp_path / "transforms.json").read_text())
    applied = np.array(content["applied_transform"])
    assert applied[:, :3].tolist() == [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    points = list(scene.model.points3D.values())
    xyz, colours = np.array([one.xyz for one in points]), np.array([one.color for one in points])
    same_points(tmp_path / "points.ply", xyz, colours)
    same_points(tmp_path / content["ply_file_path"], xyz @ applied[:, :3].T + applied[:, 3], colours)
    assert len(content["frames"]) == 4
    for frame in content["frames"]:
        path = tmp_path / frame["file_path"]
        assert path.is_file()
        image = scene.model.find_image_with_name(
            path.resolve().relative_to(scene.images.resolve()).as_posix()
        )
        values = {**content, **frame}
        assert (values["w"], values["h"]) == (WIDTH, HEIGHT)
        seen = image.get_observation_points2D()
        world = np.array([scene.model.points3D[one.point3D_id].xyz for one in seen])
        world = world @ applied[:, :3].T + applied[:, 3]
        matrix = np.linalg.inv(np.array(frame["transform_matrix"]))
        x, y, z = (world @ matrix[:3, :3].T + matrix[:3, 3]).T
        assert (z < 0).all()  # the camera of OpenGL looks backward, y points up
        places = lens(values, x / -z, -y / -z)
        np.testing.assert_allclose(places, [one.xy for one in seen], atol=1e-6)


def test_transforms_come_back_as_they_were_written(scene: Scene, tmp_path: Path) -> None:
    write_outputs(scene.model, scene.images, tmp_path / "out", ["nerfstudio"])
    back = read_transforms(tmp_path / "out" / "transforms.json", scene.images)
    assert sorted(image.name for image in back.images.values()) == sorted(scene.marks)
    rays = np.column_stack([np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2)), np.ones(50)])
    for image in back.images.values():
        given = scene.model.find_image_with_name(image.name)
        pose = given.cam_from_world().matrix()
        np.testing.assert_allclose(image.cam_from_world().matrix(), pose, atol=1e-9)
        places = given.camera.img_from_cam(rays)
        np.testing.assert_allclose(image.camera.img_from_cam(rays), places, atol=1e-9)
        assert image.camera.has_prior_focal_length
    assert back.num_points3D() == 0
    assert back.num_cameras() == 1  # two alike


def test_one_camera_is_said_once_and_kinds_do_not_mix(tmp_path: Path) -> None:
    images = tmp_path / "images"
    one = plain(folder=images, rigs=1)
    write_outputs(one, images, tmp_path, ["nerfstudio"])
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content["fl_x"] == content["fl_y"] == 300
    assert "fl_x" not in content["frames"][0]
    both = plain(folder=images)
    both.cameras[2].model = pycolmap().CameraModelId.OPENCV_FISHEYE
    both.cameras[2].params = np.array(PARAMS["OPENCV_FISHEYE"], float)
    with pytest.raises(GeomatchError, match="perspective or fisheye cameras, not both"):
        write_outputs(both, images, tmp_path / "new", ["nerfstudio"])
    both.cameras[2].model = pycolmap().CameraModelId.FOV
    both.cameras[2].params = np.array([300, 300, 160, 120, 0.1])
    with pytest.raises(GeomatchError, match="no camera model FOV: undistort"):
        write_outputs(both, images, tmp_path / "new", ["nerfstudio"])
    assert not list((tmp_path / "new").iterdir())


def test_frames_of_rigs_are_written_image_by_image(tmp_path: Path) -> None:
    model = plain(folder=tmp_path / "images", rigs=1, cameras=2)
    assert model.num_frames() == 2
    write_outputs(model, tmp_path / "images", tmp_path, ["undistorted", "nerfstudio"])
    _, images, _ = read_binary(tmp_path / "undistorted" / "sparse" / "0")
    old = json.loads((tmp_path / "undistorted" / "names.json").read_text())["images"]
    back = read_transforms(tmp_path / "transforms.json", tmp_path / "images")
    for name, pose, *_ in images.values():
        given = model.find_image_with_name(old[name]).cam_from_world().matrix()
        np.testing.assert_allclose(np.column_stack([rotation(pose[:4]), pose[4:]]), given, atol=1e-9)
        found = back.find_image_with_name(old[name]).cam_from_world().matrix()
        np.testing.assert_allclose(found, given, atol=1e-9)


TURN = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""nerfstudio's ``applied_transform`` of 2023, and instant-ngp's before it centres."""


def transforms(folder: Path, frame: dict[str, Any] | None = None, **content: Any) -> Path:
    whole = {"file_path": "images/a.png", "transform_matrix": np.eye(4).tolist(), **(frame or {})}
    (folder / "transforms.json").write_text(json.dumps({"frames": [whole], **content}))
    return folder / "transforms.json"


def test_poses_of_other_programs(tmp_path: Path) -> None:
    # a camera at (1, 2, 3) that looks along the world's -z, as Blender's does: rotated by nothing
    place = np.eye(4)
    place[:3, 3] = 1, 2, 3
    found = read_transforms(transforms(tmp_path, {"transform_matrix": place.tolist()}, fl_x=5, w=8, h=6))
    (image,) = found.images.values()
    assert image.name == "images/a.png"
    np.testing.assert_allclose(image.projection_center(), [1, 2, 3])
    np.testing.assert_allclose(image.cam_from_world().rotation.matrix(), np.diag([1, -1, -1]), atol=1e-12)
    moved = np.array(TURN) @ place  # what is written after the transform, at half the scale
    moved[:, 3] *= 0.5
    given = {"transform_matrix": [*moved.tolist(), [0, 0, 0, 1]]}
    found = read_transforms(
        transforms(tmp_path, given, fl_x=5, w=8, h=6, applied_transform=TURN, applied_scale=0.5)
    )
    np.testing.assert_allclose(
        next(iter(found.images.values())).cam_from_world().matrix(),
        image.cam_from_world().matrix(),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("values", "model", "params"),
    [
        ({"camera_angle_x": 2 * np.arctan(0.8)}, "PINHOLE", [200, 200, 160, 120]),
        ({"x_fov": np.degrees(2 * np.arctan(0.8)), "fl_y": 210}, "PINHOLE", [200, 210, 160, 120]),
        ({"fl_x": 9, "camera_angle_x": 3, "cx": 161, "p1": 0.1}, "OPENCV", [9, 9, 161, 120, 0, 0, 0.1, 0]),
        ({"fl_x": 200, "k3": 0.1}, "FULL_OPENCV", [200, 200, 160, 120, 0, 0, 0, 0, 0.1, 0, 0, 0]),
        ({"fl_x": 9, "is_fisheye": True, "k4": 0.1}, "OPENCV_FISHEYE", [9, 9, 160, 120, 0, 0, 0, 0.1]),
        ({"fl_x": 9, "camera_model": "RADIAL_FISHEYE"}, "OPENCV_FISHEYE", [9, 9, 160, 120, 0, 0, 0, 0]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("of_frame", [False, True])
def test_cameras_of_other_programs(
    tmp_path: Path, values: dict[str, Any], model: str, params: list[float], of_frame: bool
) -> None:
    size = {"w": 320.0, "h": 240.0}
    path = transforms(tmp_path, values if of_frame else {}, **size, **({} if of_frame else values))
    (camera,) = read_transforms(path).cameras.values()
    assert (camera.model.name, camera.width, camera.height) == (model, 320, 240)
    np.testing.assert_allclose(camera.params, params)


def test_nerfs_files_name_png_images_without_extension_or_size(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    PILImage.new("RGBA", (80, 60)).save(tmp_path / "train" / "r_0.png")
    path = transforms(tmp_path, {"file_path": "./train/r_0"}, camera_angle_x=2 * np.arctan(0.5))
    found = read_transforms(path)
    assert [image.name for image in found.images.values()] == ["train/r_0.png"]
    np.testing.assert_allclose(found.cameras[1].params, [80, 80, 40, 30])
    assert [one.name for one in read_transforms(path, tmp_path / "train").images.values()] == ["r_0.png"]


@pytest.mark.parametrize(
    ("frame", "content", "message"),
    [
        ({}, {}, "focal length is missing: give fl_x"),
        ({}, {"fl_x": -3}, "focal lengths must be positive"),
        ({}, {"fl_x": "wide"}, r"frame 1: not a readable frame .*wide"),
        ({}, {"fl_x": 5, "camera_model": "EQUIRECTANGULAR"}, "'EQUIRECTANGULAR' cannot be read"),
        ({}, {"fl_x": 5, "k4": 0.1}, "no other with k4"),
        ({}, {"fl_x": 5, "is_fisheye": True, "p2": 0.1}, "no fisheye lens with p1 or p2"),
        ({"transform_matrix": (2 * np.eye(4)).tolist()}, {"fl_x": 5}, "no rotation with a shift"),
        ({"transform_matrix": np.diag([1, 1, -1, 1]).tolist()}, {"fl_x": 5}, "no rotation with a shift"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, {"fl_x": 5}, "must be 4 x 4"),
        ({"transform_matrix": np.full((4, 4), np.nan).tolist()}, {"fl_x": 5}, "finite numbers"),
        ({}, {"fl_x": 5, "applied_transform": np.zeros((3, 4)).tolist()}, "Singular matrix"),
        ({"transform_matrix": None}, {"fl_x": 5}, "frame 1: not a readable frame|must be 4 x 4"),
        ({}, {"fl_x": 5, "w": -8}, "frame 1: not a readable frame"),
        ({"file_path": 3}, {"fl_x": 5}, "frame 1: not a readable frame"),
        ({}, {"fl_x": 5, "frames": []}, "no frames"),
    ],
)
def test_errors_name_file_and_image(
    tmp_path: Path, frame: dict[str, Any], content: dict[str, Any], message: str
) -> None:
    path = transforms(tmp_path, frame, **{"w": 8, "h": 6, **content})
    with pytest.raises(GeomatchError, match=message) as raised:
        read_transforms(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_frame_without_a_pose_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeomatchError, match=r"frame 1: not a readable frame .*transform_matrix"):
        read_transforms(transforms(tmp_path, frames=[{"file_path": "a.png"}], fl_x=5, w=8, h=6))


def test_an_image_that_comes_twice_is_refused(tmp_path: Path) -> None:
    frames = [{"file_path": name, "transform_matrix": np.eye(4).tolist()} for name in ("a.png", "./a.png")]
    with pytest.raises(GeomatchError, match=r"a\.png: the image comes twice"):
        read_transforms(transforms(tmp_path, frames=frames, fl_x=5, w=8, h=6))


# the command


def test_the_command_writes_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images = plain("OPENCV", tmp_path / "images"), tmp_path / "images"
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    model.write(str(tmp_path / "sparse" / "0"))
    out = tmp_path / "out"
    command = ["colmap", "outputs", str(tmp_path), str(out)]
    assert main([*command, "--undistort", "--to", "ply", "--to", "nerfstudio"]) == 0  # images/ is beside
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()[:-1]] == [
        str(out / name) for name in ("transforms.json", "sparse_pc.ply", "points.ply", "undistorted")
    ]
    again = ["colmap", "outputs", str(out / "undistorted"), str(tmp_path / "two"), "--to", "nerfstudio"]
    assert main(again) == 0
    assert json.loads((tmp_path / "two" / "transforms.json").read_text())["frames"][0]["k1"] == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "sparse", tmp_path / "elsewhere")
    told = json.dumps({"program": "geomatch reconstruct", "images_folder": str(images)})
    (tmp_path / "elsewhere" / "summary.json").write_text(told)  # as `geomatch reconstruct` does
    other = ["colmap", "outputs", str(tmp_path / "elsewhere"), str(out), "--undistort"]
    assert main(other) == 2
    assert "undistorted exists already" in capsys.readouterr().err
    assert main([*other, "--overwrite"]) == 0
    shutil.move(tmp_path / "elsewhere" / "sparse", tmp_path)
    capsys.readouterr()
    for line, message in (
        (command, "nothing is asked for"),
        ([*command[:3], str(out), "--undistort", "--images", str(out)], "4 of 4 images of the model"),
        (["colmap", "outputs", str(images), str(out), "--undistort"], "no COLMAP model there"),
        ([*command[:2], str(tmp_path / "sparse"), str(out), "--undistort"], "sparse/images: 4 of 4 images"),
    ):  # fmt: skip
        assert main([*line, "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_files_of_others_and_images_that_cannot_be_read_stop_it(tmp_path: Path) -> None:
    model, images, out = plain(folder=tmp_path / "images"), tmp_path / "images", tmp_path / "out"
    (out / "undistorted" / "images").mkdir(parents=True)
    (out / "transforms.json").write_text("{}")
    for form in ("undistorted", "nerfstudio"):
        with pytest.raises(GeomatchError, match="was not written by geomatch"):
            write_outputs(model, images, out, [form])
    first = images / "left" / "0.png"
    whole = first.read_bytes()
    first.write_bytes(b"no image")
    with pytest.raises(GeomatchError, match=r"left/0\.png"):
        write_outputs(model, images, tmp_path / "new", ["undistorted"])
    PILImage.new("RGB", (WIDTH, HEIGHT)).save(first, format="WebP")  # which COLMAP cannot read
    with pytest.raises(GeomatchError, match=r"cannot read 1 of 4 images, such as left/0\.png"):
        write_outputs(model, images, tmp_path / "new", ["undistorted"])
    PILImage.new("RGB", (90, 70)).save(first)  # COLMAP would abort
    with pytest.raises(GeomatchError, match=r"left/0\.png \(90x70\) .* camera \(SIMPLE_RADIAL, 320x240\)"):
        write_outputs(model, images, tmp_path / "new", ["undistorted"])
    first.write_bytes(whole)
    model.cameras[2].model = pycolmap().CameraModelId.EQUIRECTANGULAR
    model.cameras[2].params = np.array([WIDTH, HEIGHT], float)
    with pytest.raises(GeomatchError, match=r"EQUIRECTANGULAR.* no panoramas"):
        write_outputs(model, images, tmp_path / "new", ["undistorted"])
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(GeomatchError, match="no form 'nvm' of outputs"):
        write_outputs(model, images, tmp_path / "new", ["nvm"])
    bare = copy(model)
    for frame in [*bare.frames]:
        bare.deregister_frame(frame)
    with pytest.raises(GeomatchError, match="no image with a pose"):
        write_outputs(bare, images, tmp_path / "new", ["ply"])

"""The cameras of a database: which images share one, known ones, and what distortion does to a geometry."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from geomatch.cameras import Camera, pycolmap
from geomatch.collection import Correspondences
from geomatch.colmap import Cameras, export_database
from geomatch.colmap.cameras import check_cameras, image_sizes
from geomatch.colmap.library import database
from geomatch.colmap.verification import _Pair, _verify, verify_with_ours
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError
from geomatch.types import Features, TwoViewGeometry

QUIET = RunContext(engine=LocalEngine(1), progress=False)
A, B = ("Maker", "One", 35), ("Maker", "Two", 35)


def photograph(path: Path, size: tuple[int, int], exif: tuple[str, str, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PILImage.new("L", size)
    tags = picture.getexif()
    if exif:
        tags[0x010F], tags[0x0110] = exif[:2]
        tags.get_ifd(0x8769)[0xA405] = exif[2]
    picture.save(path, exif=tags)


def export(folder: Path, names: list[str], path: Path, cameras: Cameras, extend: bool = False) -> Any:
    sizes, _ = image_sizes(folder, names, cameras)
    features = {name: Features(np.zeros((0, 2)), np.zeros(0), size) for name, size in sizes.items()}  # type: ignore[arg-type]
    return export_database(
        folder, Correspondences(features, []), path, cameras=cameras, verification="none", extend=extend,
        context=QUIET,
    )  # fmt: skip


def cameras_by_name(path: Path) -> dict[str, Any]:
    with database(str(path)) as opened:
        stored = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        frames = opened.num_frames()
        found = {image.name: stored[image.camera_id] for image in opened.read_all_images()}
        assert frames == len(found)  # each image has one, in the rig of its camera
        assert opened.num_rigs() == len({camera.camera_id for camera in found.values()})
    return found


def groups(path: Path) -> set[frozenset[str]]:
    """The names of the images of each camera."""
    found = cameras_by_name(path)
    ids = {camera.camera_id for camera in found.values()}
    return {frozenset(name for name, one in found.items() if one.camera_id == number) for number in ids}


def test_images_of_one_size_and_exif_share_a_camera(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name, size, exif in (
        ("a0.jpg", (64, 48), A), ("a1.jpg", (64, 48), A), ("b.jpg", (64, 48), B),
        ("longer.jpg", (64, 48), ("Maker", "One", 70)), ("tall.jpg", (48, 64), A),
        ("none0.jpg", (64, 48), None), ("none1.png", (64, 48), None), ("small.png", (32, 24), None),
    ):  # fmt: skip
        photograph(folder / name, size, exif)
    names = sorted(path.name for path in folder.iterdir())
    first = [name for name in names if name not in ("a1.jpg", "none1.png")]
    report = export(folder, first, tmp_path / "x.db", Cameras())
    assert report.cameras.startswith("6: shared by size and EXIF")
    assert "cameras     6: shared by size and EXIF (--camera-mode per-image for one each)" in report.text()
    # added later, they join the camera that a new one would repeat
    export(folder, names, tmp_path / "x.db", Cameras(), extend=True)
    together = [{"a0.jpg", "a1.jpg"}, {"none0.jpg", "none1.png"}]
    alone = [{"b.jpg"}, {"longer.jpg"}, {"tall.jpg"}, {"small.png"}]
    assert groups(tmp_path / "x.db") == {frozenset(group) for group in together + alone}
    found = cameras_by_name(tmp_path / "x.db")
    assert found["a0.jpg"].has_prior_focal_length
    assert not found["none0.jpg"].has_prior_focal_length
    # not one of another model, or with the parameters of a calibration
    photograph(folder / "a2.jpg", (64, 48), A)
    photograph(folder / "none2.jpg", (64, 48))
    export(folder, ["a2.jpg"], tmp_path / "x.db", Cameras(model="OPENCV"), extend=True)
    known = Cameras(params="50,32,24,0.1")
    export(folder, ["none2.jpg"], tmp_path / "x.db", known, extend=True)
    assert groups(tmp_path / "x.db") >= {frozenset({"a2.jpg"}), frozenset({"none2.jpg"})}
    export(folder, names, tmp_path / "each.db", Cameras("per-image"))
    assert len(groups(tmp_path / "each.db")) == len(names)


def test_a_folder_s_images_take_its_camera_when_they_come_later(tmp_path: Path) -> None:
    folder, path = tmp_path / "images", tmp_path / "x.db"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.png"):
        photograph(folder / name, (64, 48))
    export(folder, ["a/1.png", "b/1.png"], path, Cameras("per-folder"))
    export(folder, ["a/2.png", "b/2.png", "c/1.png"], path, Cameras("per-folder"), extend=True)
    pairs = [{"a/1.png", "a/2.png"}, {"b/1.png", "b/2.png"}, {"c/1.png"}]
    assert groups(path) == {frozenset(group) for group in pairs}
    # a model or parameters that their camera does not have would be dropped without a word
    photograph(folder / "a/3.png", (64, 48))
    for other in Cameras("per-folder", "OPENCV"), Cameras("per-folder", params="50,32,24,0.1"):
        with pytest.raises(GeomatchError, match="one of another model or with other parameters"):
            export(folder, ["a/3.png"], path, other, extend=True)


KNOWN = (
    "# cameras\n1 OPENCV 64 48 50 51 32 24 0.1 0.01 0 0\n2 SIMPLE_RADIAL 32 24 25.123456789012345 16 12 0\n"
)


def test_known_cameras_by_size_and_by_name(tmp_path: Path) -> None:
    folder, model = tmp_path / "images", tmp_path / "model"
    model.mkdir()
    (model / "cameras.txt").write_text(KNOWN)
    for name, size in (("a.png", (64, 48)), ("b c.png", (64, 48)), ("s.png", (32, 24))):
        photograph(folder / name, size)
    names = ["a.png", "b c.png", "s.png"]
    known = Cameras(file=model / "cameras.txt")
    export(folder, names[:1], tmp_path / "x.db", known)
    export(folder, names, tmp_path / "x.db", known, extend=True)
    found = cameras_by_name(tmp_path / "x.db")
    assert found["a.png"].camera_id == found["b c.png"].camera_id
    assert found["a.png"].params.tolist() == [50, 51, 32, 24, 0.1, 0.01, 0, 0]
    assert found["s.png"].params[0] == 25.123456789012345
    assert all(camera.has_prior_focal_length for camera in found.values())
    photograph(folder / "odd.png", (10, 10))
    with pytest.raises(GeomatchError, match=r"no camera of the size of 1 images: odd\.png \(10x10\)"):
        image_sizes(folder, [*names, "odd.png"], known)
    # two of one size: the size does not say which, the name does
    (model / "cameras.txt").write_text(f"{KNOWN}3 PINHOLE 64 48 60 60 32 24\n")
    with pytest.raises(GeomatchError, match=r"cameras 1 and 3 are 64x48, as a\.png is; say in images\.txt"):
        image_sizes(folder, names, known)
    pose = "1 0 0 0 0 0 0"
    # as COLMAP reads it: empty lines may stand before an image, and an image's points may be an empty line
    listed = f"# images\n\n1 {pose} 1 a.png\n\n\n2 {pose} 3 b c.png\n3.0 4.0 -1\n"
    (model / "images.txt").write_text(listed)
    by_folder = Cameras(file=model)
    export(folder, names, tmp_path / "y.db", by_folder)
    models = {name: camera.model_name for name, camera in cameras_by_name(tmp_path / "y.db").items()}
    assert models == {"a.png": "OPENCV", "b c.png": "PINHOLE", "s.png": "SIMPLE_RADIAL"}


def test_known_cameras_of_a_binary_model(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(frames=3)
    (tmp_path / "model").mkdir()
    scene.truth.write_binary(str(tmp_path / "model"))
    scene.export(tmp_path / "x.db", cameras=Cameras(file=tmp_path / "model"), verification="geomatch")
    (truth,) = scene.truth.cameras.values()
    for camera in cameras_by_name(tmp_path / "x.db").values():
        assert camera.params.tolist() == truth.params.tolist()
    with database(str(tmp_path / "x.db")) as opened:
        kinds = {geometry.config for geometry in opened.read_two_view_geometries()[1]}
    assert kinds == {int(pycolmap().TwoViewGeometryConfiguration.CALIBRATED)}


def test_what_known_cameras_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(GeomatchError, match="leave out mode, model and parameters"):
        check_cameras(Cameras("single", file=tmp_path))
    for text in ("1 OPENCV 64 48 50\n", "1 LENS 64 48 50 32 24\n", "1 PINHOLE wide\n"):
        (tmp_path / "cameras.txt").write_text(text)
        with pytest.raises(GeomatchError, match=r"cameras\.txt: "):
            check_cameras(Cameras(file=tmp_path / "cameras.txt"))
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "none.txt", tmp_path / "empty"):
        with pytest.raises(GeomatchError, match=r"not a readable model or cameras\.txt"):
            check_cameras(Cameras(file=place))


def test_a_fisheye_lens_needs_its_focal_length(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", (64, 48), A)
    photograph(tmp_path / "b.png", (64, 48))
    fisheye = Cameras(model="OPENCV_FISHEYE")
    image_sizes(tmp_path, ["a.jpg"], fisheye)
    with pytest.raises(
        GeomatchError, match=r"the focal length is missing.* b\.png, .*--camera-params or --cameras"
    ):
        image_sizes(tmp_path, ["a.jpg", "b.png"], fisheye)
    image_sizes(tmp_path, ["b.png"], Cameras(model="OPENCV_FISHEYE", params="20,20,32,24,0,0,0,0"))


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("OPENCV", (420, 430, 322, 238, -0.32, 0.1, 0.002, -0.001)),
        ("OPENCV_FISHEYE", (260, 262, 321, 239, 0.05, -0.01, 0.003, -0.001)),
        ("SIMPLE_RADIAL_FISHEYE", (250, 320, 240, 0.02)),
    ],
)
def test_own_geometry_sees_through_distortion(
    model: str, params: tuple[float, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    library, path = pycolmap(), tmp_path / "x.db"
    camera = library.Camera(model=model, width=640, height=480, params=params)
    camera.has_prior_focal_length = True
    turn, shift = cv2.Rodrigues(np.array([0.02, 0.05, 0.03]))[0], np.array([1.0, 0.1, 0.2])
    points = rng.uniform((-6, -4, 3), (6, 4, 9), (2000, 3))
    views = [camera.img_from_cam(points), camera.img_from_cam(points @ turn.T + shift)]
    seen = np.all([(view > 0).all(1) & (view < (640, 480)).all(1) for view in views], axis=0)
    # where the model folds over, a pixel has another ray
    known = Camera(model, (640, 480), params)
    seen &= np.isfinite(known.rays(views[0] - 0.5) + known.rays(views[1] - 0.5)).all(1)
    right = int(seen.sum())
    assert right > 300
    with database(str(path)) as opened:
        number = opened.write_camera(camera)
        for name, view in zip("ab", views, strict=True):
            image = opened.write_image(library.Image(name=name, camera_id=number))
            wrong = rng.uniform((0, 0), (640, 480), (100, 2))
            opened.write_keypoints(image, np.vstack([view[seen], wrong]).astype(np.float32))
        opened.write_matches(1, 2, np.stack([np.arange(right + 100)] * 2, axis=1).astype(np.uint32))
    with QUIET.started() as run:
        verify_with_ours(path, run.work())
    with database(str(path)) as opened:
        found = opened.read_two_view_geometry(1, 2)
    assert found.config == int(library.TwoViewGeometryConfiguration.CALIBRATED)
    assert set(range(right)) <= set(found.inlier_matches[:, 0].tolist())
    x, y, z = shift
    truth = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    cosine = abs((found.E * truth).sum()) / np.linalg.norm(found.E) / np.linalg.norm(truth)
    assert np.degrees(np.arccos(min(cosine, 1))) < 0.5


def test_a_caption_beside_points_without_a_ray(rng: np.random.Generator) -> None:
    """Both leave matches out, and the mask of one must not be taken for that of all."""
    points0 = rng.uniform((20, 20), (620, 380), (100, 2))
    points1 = points0 * [1.05, 0.97] + [25, -8]
    caption = np.column_stack([np.linspace(100, 500, 30), np.full(30, 470)])
    lost = np.full((5, 2), np.nan)
    both = np.vstack([lost, points0, caption]), np.vstack([lost, points1, caption])
    (found,) = _verify([_Pair(7, both, ((640, 480), (640, 480)), (None, None))])
    assert isinstance(found, TwoViewGeometry)
    assert np.flatnonzero(found.inliers).tolist() == list(range(5, 105))

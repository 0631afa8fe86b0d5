"""Photographs localized in a model whose true poses are known."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image as PILImage
from rendered_scene import courtyard, pose, render, write

from geomatch.cameras import Camera, pycolmap
from geomatch.cli import main
from geomatch.collection import Extraction, find_images, match_collection
from geomatch.colmap import export_database
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError
from geomatch.reconstruction import Localization, Localizer, localize
from geomatch.reconstruction.localization.model import points_at
from geomatch.reconstruction.localization.pose import Trial, estimate_pose
from geomatch.types import Features

FEW = Extraction(max_keypoints=700)
HELD_OUT = ("view03.jpg", "view05.jpg")
LENS = Camera("SIMPLE_RADIAL", (320, 240), (336.0, 160.0, 120.0, -0.08))


@dataclass(frozen=True)
class Place:
    """A model of rendered views with their true poses, and the views that it has not seen."""

    folder: Path
    poses: dict[str, NDArray[np.float64]]

    @property
    def context(self) -> RunContext:
        return RunContext(self.folder / "store", LocalEngine(1), "cpu", False)

    def run(self, queries: list[Path], out: Path) -> dict[str, Localization]:
        return localize(
            queries, self.folder / "sparse", self.folder / "images", out,
            extraction=FEW, nearest=4, context=self.context,
        )  # fmt: skip

    def check(self, name: str, found: Localization) -> None:
        """Within half a degree, and half a percent of the courtyard's nine metres."""
        true = self.poses[name]
        assert found, found.reason
        turn = (np.trace(found.cam_from_world[:, :3] @ true[:, :3].T) - 1) / 2
        assert np.degrees(np.arccos(min(1.0, turn))) < 0.5
        assert np.linalg.norm(found.centre + true[:, :3].T @ true[:, 3]) < 0.045
        assert found.rotation_deviation < 0.2
        assert found.centre_percent < 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = write(tmp_path_factory.mktemp("place"), 8, 320)
    library = pycolmap()
    truth = library.Reconstruction(str(folder / "sparse" / "0"))
    by_name = {image.name: image for image in truth.images.values()}
    (folder / "queries").mkdir()
    for name in HELD_OUT:
        shutil.move(folder / "images" / name, folder / "queries" / name)
    made = Place(folder, {name: image.cam_from_world().matrix() for name, image in by_name.items()})
    images, database = find_images(folder / "images"), folder / "database.db"
    found = match_collection(images, extraction=FEW, context=made.context)
    export_database(folder / "images", found.correspondences, database, context=made.context)
    given = library.Reconstruction()
    with library.Database.open(str(database)) as opened:
        for image in opened.read_all_images():
            camera = library.Camera(
                camera_id=image.camera_id, model=LENS.model, width=320, height=240, params=LENS.params
            )
            if not given.exists_camera(image.camera_id):
                given.add_camera_with_trivial_rig(camera)
            new = library.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            given.add_image_with_trivial_frame(new, by_name[image.name].cam_from_world())
    shutil.rmtree(folder / "sparse")
    (folder / "sparse").mkdir()
    library.triangulate_points(given, str(database), str(folder / "images"), str(folder / "sparse"))
    return made


@pytest.fixture(scope="module")
def localizer(place: Place) -> Localizer:
    return Localizer(
        place.folder / "sparse", place.folder / "images", extraction=FEW, nearest=4, context=place.context
    )


def elsewhere(seed: int, number: int) -> NDArray[np.uint8]:
    """A view of another courtyard, on whose walls hang the same photographs."""
    rng = np.random.default_rng(100 * seed + number)
    return render(courtyard(seed), LENS, *pose(rng, rng.uniform()))[0]


def test_views_that_the_model_has_not_seen_are_where_they_were_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = place.run([place.folder / "queries"], tmp_path)
    for name in HELD_OUT:
        place.check(name, found[name])
        assert found[name].camera == LENS
    lines = (tmp_path / "poses.txt").read_text().split("\n")
    written = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in lines if line}
    model = pycolmap().Reconstruction(str(tmp_path))
    assert written.keys() == {image.name for image in model.images.values()} == set(HELD_OUT)
    for image in model.images.values():
        w, x, y, z, *shift = written[image.name]
        turn = pycolmap().Rotation3d(np.array([x, y, z, w])).matrix()
        wanted = found[image.name].cam_from_world
        np.testing.assert_allclose(np.column_stack([turn, shift]), wanted, atol=1e-9)
        np.testing.assert_allclose(image.cam_from_world().matrix(), wanted, atol=1e-9)
    before = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr(Localizer, "localize", None)
    again = place.run([place.folder / "queries"], tmp_path)
    assert {name: one.to_json() for name, one in again.items()} == {n: o.to_json() for n, o in found.items()}
    assert (tmp_path / "results.json").read_bytes() == before
    if shutil.which("colmap"):
        (tmp_path / "bin").mkdir()
        command = ["colmap", "model_converter", "--input_path", str(tmp_path), "--output_type", "BIN"]
        subprocess.run([*command, "--output_path", str(tmp_path / "bin")], check=True, capture_output=True)
        assert (tmp_path / "bin" / "images.bin").stat().st_size > 100


def test_a_run_that_was_ended_goes_on(
    place: Place, tmp_path: Path, dying: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [place.folder / "queries", place.folder / "images" / "view00.jpg"]
    place.run(queries, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Localizer, "localize", dying(Localizer.localize, 2))
        with pytest.raises(KeyboardInterrupt):
            place.run(queries, tmp_path / "ended")
    assert len(json.loads((tmp_path / "ended" / "results.json").read_text())["queries"]) == 1
    place.run(queries[:1], tmp_path / "ended")
    place.run(queries, tmp_path / "ended")
    for name in ("results.json", "poses.txt", "images.txt", "cameras.txt"):
        assert (tmp_path / "ended" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_raw_pixels_grey_ones_arrays_and_images_of_the_model(
    place: Place, localizer: Localizer, tmp_path: Path
) -> None:
    with PILImage.open(place.folder / "queries" / HELD_OUT[0]) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(tmp_path / "turned.png", exif=exif)
        picture.convert("L").save(tmp_path / "grey.png")
        pixels = np.asarray(picture)
    turned, array = localizer.localize(tmp_path / "turned.png"), localizer.localize(pixels)
    assert turned.to_json() == array.to_json()
    place.check(HELD_OUT[0], turned)
    place.check(HELD_OUT[0], localizer.localize(tmp_path / "grey.png"))
    own = localizer.localize(place.folder / "images" / "view04.jpg")
    place.check("view04.jpg", own)
    assert own.retrieved[0] == "view04.jpg"


def test_elsewhere_is_no_pose_but_a_reason(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "elsewhere.png"), elsewhere(1, 0)[..., ::-1])
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((240, 320), 128, np.uint8))
    line = ["localize", *(str(tmp_path / name) for name in ("elsewhere.png", "blank.png"))]
    line += [str(place.folder / "sparse"), "--images", str(place.folder / "images"), "--nearest", "4"]
    line += ["--max-keypoints", "700", "--workers", "1", "--store", str(place.folder / "store")]
    assert main([*line, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().out
    assert "localized 0 of 2 images" in told
    assert "no pose agrees with 0 2D-3D matches" in told
    assert (tmp_path / "out" / "poses.txt").read_text() == ""
    assert main([*line, "--out", str(place.folder / "sparse")]) == 2
    assert "was not written by `geomatch localize`" in capsys.readouterr().err
    assert main(["localize", "nothing.png", *line[3:]]) == 2
    assert "nothing.png: no such image or folder" in capsys.readouterr().err


@pytest.mark.slow
def test_photographs_of_other_things_have_no_pose(localizer: Localizer) -> None:
    others = [elsewhere(seed, number) for seed in range(1, 4) for number in range(4)]
    folder = Path(skimage.data.__file__).parent
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "ihc.png", "retina.jpg",
                 "camera.png", "moon.png"):  # fmt: skip
        others.append(cv2.imread(str(folder / name))[..., ::-1])
    assert len(others) == 20
    for number, pixels in enumerate(others):
        found = localizer.localize(pixels)
        assert not found, number
        assert found.reason


def test_what_does_not_fit_together_is_said(place: Place, tmp_path: Path) -> None:
    model, images = place.folder / "sparse", place.folder / "images"
    with pytest.raises(GeomatchError, match="is no folder: give that of the model's photographs"):
        Localizer(model, context=place.context)
    with pytest.raises(GeomatchError, match="none of the 6 images of the model can be read"):
        Localizer(model, tmp_path, context=place.context)
    with pytest.raises(GeomatchError, match="run `geomatch triangulate` first"):
        Localizer(model, images, extraction=Extraction("orb", max_keypoints=100), context=place.context)


def seen(rng: np.random.Generator, count: int, flat: bool = False) -> tuple[Any, Any]:
    """Pixels with noise and points before the camera ``LENS`` at the origin."""
    points = rng.uniform((-1.5, -1.1, 4), (1.5, 1.1, 4 if flat else 7), (count, 3))
    camera = pycolmap().Camera(model=LENS.model, width=320, height=240, params=LENS.params)
    return camera.img_from_cam(points) - 0.5 + rng.normal(0, 0.3, (count, 2)), points


def solved(pixels: Any, points: Any, *trials: Trial) -> Localization:
    guess = Trial(Camera("SIMPLE_PINHOLE", (320, 240), (384.0, 160.0, 120.0)), True, True)
    return estimate_pose(pixels, points, [*trials, guess], 10.0)


def test_poses_are_beyond_chance_and_determined(rng: np.random.Generator) -> None:
    known = Trial(LENS)
    for flat in (False, True):
        found = solved(*seen(rng, 60, flat), known)
        assert found.inliers == 60
        errors = np.linalg.norm(found.centre), 3 * found.centre_deviation
        assert errors[0] < errors[1] < 0.1
        assert found.centre_percent == pytest.approx(10 * found.centre_deviation)
    pixels, points = seen(rng, 500)
    for count in (3, 8, 30, 300):  # wrong ones
        wrong = solved(rng.uniform(0, 240, (count, 2)), rng.uniform(-3, 3, (count, 3)), known)
        assert not wrong
        assert "2D-3D matches" in wrong.reason
    line = points[0] + np.linspace(0, 1, 60)[:, None] * (points[1] - points[0])
    camera = pycolmap().Camera(model=LENS.model, width=320, height=240, params=LENS.params)
    assert not solved(camera.img_from_cam(line) - 0.5, line, known)
    # one part of the image agrees, the rest does not
    mixed = rng.uniform((0, 0), (320, 240), (400, 2)), rng.uniform((-1.5, -1.1, 4), (1.5, 1.1, 7), (400, 3))
    part = (pixels > 90).all(axis=1) & (pixels < 150).all(axis=1)
    both = [np.concatenate([own[part], other]) for own, other in zip((pixels, points), mixed, strict=True)]
    assert part.sum() > 10
    assert "of the view alone" in solved(*both, known).reason


def test_a_focal_length_that_the_matches_want_is_taken(rng: np.random.Generator) -> None:
    pixels, points = seen(rng, 200)
    wrong = Trial(Camera("SIMPLE_PINHOLE", (320, 240), (200.0, 160.0, 120.0)))
    for given in ((), (wrong,)):
        found = solved(pixels, points, *given)
        assert found
        assert found.camera.params[0] == pytest.approx(336, rel=0.05)


def test_points_are_at_their_rows_or_at_the_nearest() -> None:
    library, places = pycolmap(), np.array([[10, 10], [10, 10], [50, 50]], np.float32)
    found = Features(places, np.ones(3, np.float32), (100, 100))
    rows = [library.Point2D(place + 0.5) for place in places.astype(float)]
    rows[1].point3D_id = 7
    assert points_at(found, rows).tolist() == [-1, 7, -1]
    assert points_at(found, rows[1:]).tolist() == [7, 7, -1]
    rows[1].xy += 2  # another's keypoint, farther off than a pixel and a half
    assert points_at(found, rows).tolist() == points_at(found, rows[1:]).tolist() == [-1, -1, -1]


def test_the_camera_is_the_model_s_where_file_and_images_agree(
    place: Place, localizer: Localizer, tmp_path: Path
) -> None:
    model, names = localizer._model, ["view00.jpg", "view01.jpg"]
    query = place.folder / "queries" / HELD_OUT[0]
    known, free = model.trials(query, LENS.size, names)
    assert known == Trial(LENS)
    assert (free.estimate, free.refine) == (True, True)
    assert len(model.trials(None, (240, 320), names)) == 1
    with PILImage.open(query) as picture:
        exif = picture.getexif()
        exif[0x010F], exif[0x0110] = "Maker", "Model"
        exif.get_ifd(0x8769)[0xA405] = 36  # focal length on 35 mm film, whose long side has 36 mm
        picture.save(tmp_path / "tagged.jpg", exif=exif)
    tagged, _ = model.trials(tmp_path / "tagged.jpg", LENS.size, names)
    assert tagged.refine
    assert tagged.camera.model == "SIMPLE_PINHOLE"
    assert tagged.camera.params[0] == pytest.approx(320, rel=0.05)

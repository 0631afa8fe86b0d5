"""From a folder of images to a model on disk."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from filelock import FileLock

from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.collection import CollectionOptions, Extraction
from geomatch.colmap import export_database
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import GeomatchError
from geomatch.images import Image
from geomatch.reconstruction import Mapping, reconstruct
from geomatch.reconstruction.mapping import map_database
from geomatch.types import Features

QUIET = RunContext(engine=LocalEngine(1), progress=False)
FEW = Extraction(max_keypoints=50)


def rendered(folder: Path, photo: Image, frames: int = 5) -> None:
    """Views of a corner of three textured walls, by ray casting with a known camera."""
    folder.mkdir(parents=True)
    texture = photo.pixels[..., ::-1]
    size, focal = 480, 480.0
    ys, xs = np.mgrid[0:size, 0:size]
    rays = np.stack([(xs - size / 2) / focal, (ys - size / 2) / focal, np.ones_like(xs, float)], -1)
    for number in range(frames):
        angle = np.radians(-16 + 32 * number / (frames - 1))
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        centre = np.array([-3 * np.sin(angle), 0.15 * number, -3 * np.cos(angle)])
        world = rays @ turn.T
        picture, depth = np.zeros((size, size, 3), np.uint8), np.full((size, size), np.inf)
        for axis, place in ((2, 2.0), (0, -1.4), (1, 1.3)):
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = (place - centre[axis]) / world[..., axis]
            hit = (reach > 0) & (reach < depth)
            point = centre + world * np.where(hit, reach, 0)[..., None]
            u, v = (point[..., (axis + k) % 3] * 140 + 240 for k in (1, 2))
            maps = np.float32(u), np.float32(v)
            warped = cv2.remap(texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            picture[hit], depth[hit] = warped[hit], reach[hit]
        cv2.imwrite(str(folder / f"view {number}.png"), picture)


def test_a_rendered_room_becomes_a_model(
    tmp_path: Path, photo0: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered(tmp_path / "images", photo0)
    arguments = ["reconstruct", str(tmp_path / "images"), str(tmp_path / "out"), "--max-keypoints", "400"]
    arguments += ["--camera-mode", "single", "--camera-model", "SIMPLE_PINHOLE"]
    arguments += ["--camera-params", "480,240,240", "--workers", "1"]
    assert main(arguments) == 0
    assert "5 of 5 images" in capsys.readouterr().out
    (model, *_) = json.loads((tmp_path / "out" / "summary.json").read_text())["models"]
    assert model["registered"] == 5
    assert model["points"] > 200
    assert model["mean_reprojection_error"] < 1
    found = pycolmap().Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    # the cameras stand on a circle of radius 3 about the origin, up to a similarity
    centres = {image.name: image.projection_center() for image in found.images.values()}
    ours = np.array([centres[f"view {k}.png"] for k in range(5)])
    angles = np.radians(-16 + 8 * np.arange(5))
    truth = np.stack([-3 * np.sin(angles), 0.15 * np.arange(5), -3 * np.cos(angles)], 1)
    ratios = np.linalg.norm(np.diff(ours, axis=0), axis=1) / np.linalg.norm(np.diff(truth, axis=0), axis=1)
    assert np.ptp(ratios) / ratios.mean() < 0.05
    assert (tmp_path / "out" / "model.html").is_file()
    assert main(arguments) == 0
    assert "computed    0 images, 0 pairs" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["models"][0] == model


def small_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(3):
        noise = cv2.resize(rng.uniform(0, 255, (40, 40)).astype(np.uint8), (320, 320))
        cv2.imwrite(str(folder / f"{number}.png"), noise)
    return folder


def test_an_honest_message_when_there_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = small_folder(tmp_path / "images"), tmp_path / "out"
    assert main(["reconstruct", str(images), str(out), "--max-keypoints", "50", "--workers", "1"]) == 1
    assert "no model    no pair of images has matches" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["reason"]
    assert not (out / "model.html").exists()
    with pytest.raises(ValueError, match="verified pairs only"):
        Mapping(verification="none")


def test_only_what_could_not_be_done_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = small_folder(tmp_path / "images")
    command = ["colmap", "export", str(images), str(tmp_path / "x.db")]
    command += ["--max-keypoints", "50", "--workers", "1"]
    assert main(command) == 0
    assert "skipped     3 pairs without matches" in capsys.readouterr().out
    assert main([*command, "--extend"]) == 0
    assert "skipped     3 images that the database already had" in capsys.readouterr().out
    (images / "broken.png").write_bytes(b"no image")
    assert main([*command, "--extend"]) == 1
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("place", "least"), [("sacre_coeur/mapping", 10), ("opensfm_lund/images", 15)])
def test_real_photographs(tmp_path: Path, place: str, least: int, sfm: Callable[[str], Path]) -> None:
    many = Extraction(max_keypoints=2000)
    result = reconstruct(sfm(place), tmp_path / "out", CollectionOptions(many), context=QUIET)
    assert result.models[0].registered >= least
    assert result.models[0].mean_reprojection_error < 1


@dataclass(frozen=True)
class Failing:
    def detect(self, image: Image) -> Features:
        raise GeomatchError("no more")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "store" not in path.parts
    }


def test_an_earlier_result_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    images, out = small_folder(tmp_path / "images"), tmp_path / "out"
    reconstruct(images, out, CollectionOptions(FEW), context=QUIET)
    before = content(out)
    assert set(before) == {".lock", "database.db", "summary.json"}
    with pytest.raises(GeomatchError, match="no more"):
        reconstruct(images, out, CollectionOptions(Extraction(Failing())), context=QUIET)
    assert content(out) == before
    (out / ".unfinished").mkdir()  # of a run that was killed
    (out / ".unfinished" / "half.db").write_text("x")
    (out / "sparse" / "0").mkdir(parents=True)  # of a run that found a model, which this one does not
    (out / "undistorted").mkdir()
    (out / "undistorted" / "names.json").write_text('{"program": "geomatch"}')
    for name in ("transforms.json", "sparse_pc.ply"):  # of another program
        (out / name).write_text("{}")
    result = reconstruct(images, out, CollectionOptions(Extraction(max_keypoints=60)), context=QUIET)
    assert not result
    others = {"transforms.json", "sparse_pc.ply"}
    assert set(content(out)) == {".lock", "database.db", "summary.json"} | others
    assert result.export.path == out / "database.db"


def test_images_may_lie_in_the_folder_of_the_results(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    images = small_folder(tmp_path / "scene" / "images")  # COLMAP's workspace
    before = content(images)
    result = reconstruct(images, tmp_path / "scene", CollectionOptions(FEW), context=QUIET)
    assert result.num_images == len(before)
    assert content(images) == before


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    images, out = small_folder(tmp_path / "images"), tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(GeomatchError, match="another run is writing there"):
        reconstruct(images, out, context=QUIET)
    reconstruct(images, out, CollectionOptions(FEW), context=QUIET)
    with closing(sqlite3.connect(out / "database.db")) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("SELECT count(*) FROM images").fetchall()
        with pytest.raises(GeomatchError, match="open in another program"):
            reconstruct(images, out, CollectionOptions(FEW), context=QUIET)


def test_what_cannot_work_is_said_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = small_folder(tmp_path / "images")
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs" / "sparse").mkdir(parents=True)
    (tmp_path / "theirs" / "summary.json").write_text('{"models": []}')
    assert main(["reconstruct", str(tmp_path / "none"), str(tmp_path / "o")]) == 2
    for arguments, words in (
        ([str(images)], "is the folder of images"),
        ([str(tmp_path / "file")], "no folder can be made there"),
        ([str(tmp_path / "theirs")], "was not written by `geomatch reconstruct`"),
        ([str(tmp_path / "o"), "--camera-model", "LENS"], "no camera model 'LENS'"),
        ([str(tmp_path / "o"), "--camera-params", "1,2"], "has 4 parameters"),
        ([str(tmp_path / "o"), "--verification", "none"], "'none' is not one of 'colmap', 'geomatch'"),
        ([str(tmp_path / "o"), "--pairs", "all"], "is no rule for pairs"),
    ):
        assert main(["reconstruct", str(images), *arguments]) == 2
        assert words in capsys.readouterr().err
    cv2.imwrite(str(images / "odd.png"), np.zeros((40, 60), np.uint8))
    assert main(["reconstruct", str(images), str(tmp_path / "p"), "--camera-mode", "single"]) == 2
    assert "images of one camera must be of one size" in capsys.readouterr().err
    for name in ("odd.png", "1.png", "2.png"):
        (images / name).unlink()
    result = reconstruct(images, tmp_path / "one", CollectionOptions(FEW), context=QUIET)
    assert result.reason == "at least two images are needed"


@pytest.mark.slow
def test_one_database_gives_one_model(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    """With more threads sums come in any order, and with them which images are registered."""
    scene = make_scene(frames=4, points=6000)  # with less COLMAP takes one thread anyway
    rng = np.random.default_rng(0)
    noisy = {}
    for name, found in scene.correspondences.features.items():
        moved = found.keypoints + rng.normal(0, 1, found.keypoints.shape)
        noisy[name] = replace(found, keypoints=np.clip(moved, -0.5, np.array(found.image_size) - 0.5))
    path = tmp_path / "out.db"
    given = replace(scene.correspondences, features=noisy)
    export_database(scene.folder, given, path, context=QUIET)
    points = []
    for number in range(2):
        (model, *_) = map_database(path, scene.folder, tmp_path / f"{number}", Mapping(seed=3))
        points.append({key: point.xyz.tolist() for key, point in model.points3D.items()})
    assert points[0] == points[1]

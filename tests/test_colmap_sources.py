"""Keypoints and matches of other programs: all of a database, h5 files as they are, moot options."""

import logging
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.collection import find_images
from geomatch.colmap import (
    check_database,
    copy_database,
    export_database,
    read_correspondences,
    write_correspondences,
)  # fmt: skip
from geomatch.colmap.library import database
from geomatch.engine import LocalEngine, RunContext
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.images import Masks

QUIET = RunContext(engine=LocalEngine(1), progress=False)


@pytest.fixture
def rich(make_scene: Callable[..., Any], tmp_path: Path) -> tuple[Path, Any]:
    """A database with all that COLMAP's can hold, and its scene."""
    scene, path, library = make_scene(frames=4), tmp_path / "truth.db", pycolmap()
    with database(str(path)) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        rows = opened.read_keypoints(1)
        shapes = np.tile(np.float32([3, 0.5]), (len(rows), 1))  # type: ignore[call-overload]
        opened.update_keypoints(1, np.hstack([rows[:, :2], shapes]))
        affine = np.tile(np.float32([2, 0, 0, 4]), (len(opened.read_keypoints(2)), 1))  # type: ignore[call-overload]
        opened.update_keypoints(2, np.hstack([opened.read_keypoints(2)[:, :2], affine]))
        prior = library.PosePrior(position=[1, 2, 3])
        prior.corr_data_id = opened.read_image(1).data_id
        opened.write_pose_prior(prior)
        camera = opened.read_camera(1)
        camera.has_prior_focal_length = True
        opened.update_camera(camera)
        opened.delete_two_view_geometry(1, 2)  # this one is to be verified
        opened.delete_matches(3, 4)  # and this has a geometry only
    assert len(names) == 4
    return path, scene


def content(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}


def test_a_database_is_copied_whole(rich: tuple[Path, Any], tmp_path: Path) -> None:
    source, scene = rich
    (scene.folder / "new").mkdir()
    missing = min(scene.correspondences.features)
    (scene.folder / missing).rename(scene.folder / "new" / "elsewhere.png")
    before, path = content(source), tmp_path / "copy.db"
    report = copy_database(source, path, scene.folder, context=QUIET)
    assert content(source) == before
    after = content(path)
    same = before.keys() - {"two_view_geometries", "sqlite_sequence"}
    assert {table: before[table] for table in same} == {table: after[table] for table in same}
    assert all(before[table] for table in ("descriptors", "pose_priors", "rigs", "frames", "keypoints"))
    (new,) = {row[0] for row in after["two_view_geometries"]} - {
        row[0] for row in before["two_view_geometries"]
    }
    assert new == 2147483647 + 2
    assert set(before["two_view_geometries"]) <= set(after["two_view_geometries"])
    assert (report.images, report.pairs, sum(report.verified.values())) == (4, 5, 6)
    assert report.keypoints == sum(row[1] for row in before["keypoints"])
    assert report.skipped == {"images are not in the folder; the database keeps them": 1}
    assert report.cameras == f"1, as in {source}"
    assert check_database(path).ok
    with pytest.raises(GeomatchError, match="exists already"):
        copy_database(source, path, scene.folder, context=QUIET)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE keypoints SET rows = rows - 1")
    with pytest.raises(GeomatchError, match=r"has errors that must be mended first"):
        copy_database(source, tmp_path / "other.db", scene.folder, context=QUIET)
    assert not (tmp_path / "other.db").exists()


@pytest.mark.skipif(shutil.which("colmap") is None, reason="the colmap program is not installed")
def test_a_database_of_an_old_colmap_is_copied_in_the_schema_of_ours(
    make_scene: Callable[..., Any], tmp_path: Path
) -> None:
    scene, old = make_scene(frames=3), tmp_path / "old.db"
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    subprocess.run(["colmap", "database_creator", "--database_path", old], check=True, env=environment)
    with (
        closing(sqlite3.connect(old, isolation_level=None)) as connection,
        closing(sqlite3.connect(tmp_path / "truth.db")) as truth,
    ):
        for table in ("cameras", "images", "keypoints", "matches"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            columns = [
                name for name in columns if not name.startswith("prior_q") and not name.startswith("prior_t")
            ]
            listed, marks = ", ".join(columns), ", ".join("?" * len(columns))
            rows = truth.execute(f"SELECT {listed} FROM {table}").fetchall()
            connection.executemany(f"INSERT INTO {table} ({listed}) VALUES ({marks})", rows)
    before = old.read_bytes()
    report = copy_database(old, tmp_path / "new.db", scene.folder, context=QUIET)
    assert old.read_bytes() == before
    assert (report.images, report.pairs, sum(report.verified.values())) == (3, 3, 3)
    assert check_database(tmp_path / "new.db", scene.folder).ok


def test_scale_and_orientation_go_along(rich: tuple[Path, Any], tmp_path: Path) -> None:
    source, scene = rich
    found = read_correspondences(source, scene.folder)
    names = list(found.features)
    first, second = found.features[names[0]], found.features[names[1]]
    np.testing.assert_array_equal(first.scales, 6)  # diameters are twice COLMAP's scale
    np.testing.assert_allclose(first.orientations, 0.5)
    np.testing.assert_array_equal(second.scales, 6)
    np.testing.assert_array_equal(second.orientations, 0)
    write_correspondences(found, tmp_path / "text", "text", scene.folder)
    rows = (tmp_path / "text" / "features" / f"{names[0]}.txt").read_text().splitlines()
    assert rows[1].split()[2:4] == ["3", "0.5"]
    write_correspondences(found, tmp_path / "npz", "npz", scene.folder)
    back = read_correspondences(tmp_path / "npz", scene.folder)
    np.testing.assert_array_equal(back.features[names[0]].scales, 6)


def test_a_database_through_the_command(
    rich: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, scene = rich
    images, given = str(scene.folder), ["--from", str(source)]
    assert main(["colmap", "export", images, str(tmp_path / "copy.db"), *given]) == 0
    assert f"cameras     1, as in {source}" in capsys.readouterr().out
    assert len(content(tmp_path / "copy.db")["pose_priors"]) == 1
    assert main(["colmap", "export", images, str(tmp_path / "text"), "--format", "text", *given]) == 0
    lost = "1 cameras, 1 rigs, 4 frames, 1 pose priors, 4 descriptors, 5 two view geometries"
    assert f"skipped     {lost}: only keypoints and matches are taken" in capsys.readouterr().out


def test_options_without_effect_are_errors(
    rich: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, scene = rich
    write_correspondences(scene.correspondences, tmp_path / "npz", "npz", scene.folder)
    npz, db, text = ["--from", str(tmp_path / "npz")], ["--from", str(source)], ["--format", "text"]
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 1024 768 1280 512 384\n")
    known = ["--cameras", str(tmp_path / "cameras.txt")]
    for options, named in (
        ([*npz, "--detector", "sift"], "--detector"), ([*npz, "--pairs", "exhaustive"], "--pairs"),
        ([*npz, "--no-guided"], "--guided"), ([*npz, "--store", "x"], "--store"),
        ([*npz, "--max-keypoints", "100"], "--max-keypoints"), ([*npz, "--timestep", "1"], "--timestep"),
        ([*npz, "--workers", "1"], "--workers"), ([*npz, "--ignore-border", "0"], "--ignore-border"),
        ([*db, "--camera-mode", "auto"], "--camera-mode"), ([*db, *known], "--cameras"),
        ([*text, "--camera-model", "OPENCV"], "--camera-model"), ([*text, "--seed", "0"], "--seed"),
        ([*text, "--verification", "none"], "--verification"), ([*text, *npz, *known], "--cameras"),
        ([*known, "--camera-params", "1,2,3,4"], "--camera-params"),
    ):  # fmt: skip
        assert main(["colmap", "export", str(scene.folder), str(tmp_path / "out"), *options]) == 2, options
        error = capsys.readouterr().err
        assert error.startswith(f"geomatch: {named} has no effect "), error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    arguments = [*npz, "--verification", "geomatch", "--workers", "1", *known]
    assert main(["colmap", "export", str(scene.folder), str(tmp_path / "out"), *arguments]) == 0


def test_names_with_spaces_are_refused_before_the_matching(
    make_scene: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scene = make_scene(frames=3, rename=lambda name: f"a {name}")
    monkeypatch.setattr("geomatch.collection.match_collection", None)
    for form in ("text", "hloc"):
        assert main(["colmap", "export", str(scene.folder), str(tmp_path / "out"), "--format", form]) == 2
        assert "lists of pairs cannot hold spaces; rename 3 images" in capsys.readouterr().err


def test_keypoints_of_16_bits_are_read_and_told_once(
    make_scene: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(frames=3)
    write_correspondences(scene.correspondences, tmp_path / "h5", "hloc", scene.folder)
    path = tmp_path / "h5" / "features.h5"
    names = list(scene.correspondences.features)
    with h5py.File(path, "a") as file:
        for name in names:
            values = file[name]["keypoints"][:]
            values[0] = 1023.4, 767.4  # which becomes 1023.5 and 767.5, on the border
            values[1] = 1023.49, 100
            del file[name]["keypoints"], file[name]["scores"]
            file[name]["keypoints"], file[name]["scores"] = values.astype("f2"), np.ones(len(values), "f2")
    found = read_correspondences(path, scene.folder)
    read = [found.features[name] for name in names for _ in range(2)]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "beyond 1024 they are rounded to whole pixels, beyond 2048 to 2" in told[0]
    for features, name in zip(read[::2], names, strict=True):
        right = scene.correspondences.features[name].keypoints[2:]
        np.testing.assert_allclose(features.keypoints[2:], right, atol=0.25)
    export_database(scene.folder, found, tmp_path / "x.db", verification="none", context=QUIET)
    with h5py.File(path, "a") as file:  # a whole pixel outside is no rounding
        file[names[0]]["keypoints"][0] = 1026, 100
    with pytest.raises(FeaturesError, match="keypoints lie outside"):
        export_database(scene.folder, found, tmp_path / "y.db", verification="none", context=QUIET)


def test_matches_of_16_bits(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene(frames=3)
    write_correspondences(scene.correspondences, tmp_path / "h5", "hloc", scene.folder)
    right = [
        pair.matches.indices.tolist() for pair in read_correspondences(tmp_path / "h5", scene.folder).pairs
    ]
    path = tmp_path / "h5" / "matches.h5"
    groups: list[str] = []
    with h5py.File(path, "a") as file:
        file.visititems(lambda name, item: groups.append(name) if "matches0" in item else None)
        for name in groups:
            values = file[name]["matches0"][:].astype("i2")
            del file[name]["matches0"]
            file[name]["matches0"] = values
    found = read_correspondences(tmp_path / "h5", scene.folder).pairs
    assert [pair.matches.indices.tolist() for pair in found] == right
    with h5py.File(path, "a") as file:
        file[groups[0]]["matches0"][0] = np.int64(40_000).astype("i2")
    with pytest.raises(FeaturesError, match=r"through int16 and wrapped: more than 32767 keypoints"):
        list(found)


def test_files_of_deep_image_matching_and_of_other_names(
    make_scene: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, folder = make_scene(frames=3), tmp_path / "dim"
    folder.mkdir()
    with h5py.File(folder / "feats-x.h5", "w") as file:
        for name, features in scene.correspondences.features.items():
            group, (width, height) = file.create_group(name), features.image_size
            for key, values in (
                ("keypoints", features.keypoints), ("descriptors", np.ones((8, len(features)))),
                ("scores", features.scores), ("tile_idx", np.zeros(len(features))),
                ("image_size", np.array([height, width])),
            ):  # fmt: skip
                group.create_dataset(key, data=values, dtype=np.float16, compression="gzip")
    for number in (0, 1):
        with h5py.File(folder / f"feats-x_matches-{number}.h5", "w") as file:
            for pair in scene.correspondences.pairs[number:]:
                group = file.require_group(pair.name0)
                group.create_dataset(pair.name1, data=pair.matches.indices.astype(np.int32))
    features, matches = folder / "feats-x.h5", folder / "feats-x_matches-1.h5"
    with pytest.raises(FeaturesError, match=r"found 2; name it \(--matches\)"):
        read_correspondences(features, scene.folder)
    with pytest.raises(FeaturesError, match=r"other names: --features and --matches"):
        read_correspondences(folder, scene.folder)
    found = read_correspondences(folder, scene.folder, Path("feats-x.h5"), matches)
    assert [pair.matches.indices.tolist() for pair in found.pairs] == [
        pair.matches.indices.tolist() for pair in scene.correspondences.pairs[1:]
    ]
    for name, right in scene.correspondences.features.items():
        assert found.features[name].image_size == right.image_size
        np.testing.assert_allclose(found.features[name].keypoints, right.keypoints, atol=0.26)
    target, given = str(tmp_path / "x.db"), ["--features", str(features), "--matches", str(matches)]
    assert main(["colmap", "export", str(scene.folder), target, *given]) == 0
    assert "pairs       2" in capsys.readouterr().out
    with h5py.File(matches, "a") as file:
        name0 = next(iter(file))
        name1 = next(iter(file[name0]))
        for wrong, says in (
            (np.ones((3, 3), int), "whole numbers of shape"),
            (np.ones((3, 2)), "got float64"),
            (np.full((3, 2), -1), "must not be negative"),
        ):
            del file[name0][name1]
            file[name0][name1] = wrong
            file.flush()
            with pytest.raises(FeaturesError, match=says):
                list(found.pairs)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for path in (root / "a" / "1.png", root / "2.png", other / "deep" / "3.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((48, 64), np.uint8))
    (root / ".hidden").symlink_to(other)
    (root / "b").symlink_to(other)
    (root / "again").symlink_to(other)  # twice the same images would be matched with themselves
    (root / "a" / "up").symlink_to(root)  # circles
    (other / "back").symlink_to(root)
    (other / "deep" / "round").symlink_to(other)
    found = find_images(root)
    assert found.names == ("2.png", "a/1.png", "again/deep/3.png")
    path = tmp_path / "x.db"
    with database(str(path)):
        pass
    pycolmap().import_images(str(path), str(root), image_names=list(found.names))
    with database(str(path)) as opened:
        assert {image.name for image in opened.read_all_images()} == set(found.names)
    (tmp_path / "link").symlink_to(root)
    assert find_images(tmp_path / "link").names == found.names


def test_folders_of_masks_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("images/1.png", "masks/1.png.png", ".hidden/2.png", "elsewhere/images/1.png.png"):
        path = tmp_path / "project" / name if "elsewhere" not in name else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((48, 64), np.uint8))
    root = tmp_path / "project"
    assert find_images(root).names == ("images/1.png", "masks/1.png.png")
    assert find_images(root, masks=Masks(root / "masks")).names == ("images/1.png",)
    assert not caplog.records
    assert find_images(root, masks=Masks(tmp_path / "elsewhere")).names == ("images/1.png",)
    assert "not taken for images, as masks are given: masks" in caplog.text

"""The file of a database: whole or not at all, and never in place of something else."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geomatch.cli import main
from geomatch.collection import LazyPairs, MatchedPair
from geomatch.colmap import Cameras, check_database
from geomatch.colmap.library import database
from geomatch.colmap.target import SPARE
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.reconstruction.mapping import map_database
from geomatch.reconstruction.models import summarise_model
from geomatch.types import Features


@pytest.fixture
def scene(make_scene: Callable[..., Any]) -> Any:
    return make_scene(frames=3)


@pytest.fixture
def path(scene: Any, tmp_path: Path) -> Path:
    """The scene's database, without verified pairs."""
    scene.export(tmp_path / "out.db", verification="none")
    return tmp_path / "out.db"


def test_databases_that_cannot_be_extended(scene: Any, path: Path) -> None:
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(GeomatchError, match="in use by another program"):
            scene.export(path, extend=True)
        other.execute("ROLLBACK")
    path.chmod(0o444)
    with pytest.raises(GeomatchError, match="read-only"):
        scene.export(path, extend=True)
    path.chmod(0o644)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as other, other:
        wrong = np.array([[0, 100_000]], np.uint32).tobytes()
        other.execute("UPDATE matches SET rows = 1, data = ?", (wrong,))
    before = path.read_bytes()
    # COLMAP would verify its matches, too, and read beyond the keypoints
    with pytest.raises(GeomatchError, match="has errors that must be mended first"):
        scene.export(path, extend=True)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 3800000")
    with pytest.raises(GeomatchError, match="schema of another COLMAP"):
        scene.export(path, extend=True)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(GeomatchError, match="no database of COLMAP"):
        scene.export(path, extend=True)
    with pytest.raises(OSError, match="no such folder"):
        scene.export(path.parent / "none" / "out.db")


def test_a_killed_export_leaves_the_old_database(scene: Any, path: Path) -> None:
    before = path.read_bytes()
    code = f"""
import time
from pathlib import Path
from geomatch.colmap import export_database, read_correspondences
from geomatch.collection import Correspondences, LazyPairs
path, images = Path({str(path)!r}), Path({str(scene.folder)!r})
found = read_correspondences(path, images)
def pairs():
    yield from found.pairs
    print("half way", flush=True)
    time.sleep(60)
export_database(images, Correspondences(found.features, LazyPairs(pairs)), path, extend=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.kill()
    assert path.read_bytes() == before
    report = scene.export(path, extend=True)  # what the killed one held does not bar the way
    assert report.skipped["images that the database already had"] == 3


def test_a_file_that_appears_or_changes_meanwhile_stays(scene: Any, path: Path) -> None:
    def meanwhile() -> Iterator[MatchedPair]:
        path.write_bytes(path.read_bytes() + bytes(4096) if path.exists() else b"of somebody else")
        yield from scene.correspondences.pairs

    slow = scene.changed(pairs=LazyPairs(meanwhile))
    size = path.stat().st_size
    with pytest.raises(GeomatchError, match="was changed by another program meanwhile"):
        slow.export(path, extend=True)
    assert path.stat().st_size == size + 4096
    path.unlink()
    with pytest.raises(GeomatchError, match="made by another program meanwhile"):
        slow.export(path)
    assert path.read_bytes() == b"of somebody else"
    assert sorted(item.name for item in path.parent.iterdir()) == ["out.db", "scene", "truth.db"]


def test_a_full_disk_is_told_before_it_is_full(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLMAP ends the process when a write fails."""
    usage = shutil.disk_usage(tmp_path)
    for free in (0, SPARE + 4000):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: usage._replace(free=free))
        with pytest.raises(GeomatchError, match=r"MiB are free on this disk, \d+ are needed"):
            scene.export(tmp_path / "out.db")
    monkeypatch.undo()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["scene", "truth.db"]


def test_extending(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    scene = make_scene()
    names = sorted(scene.correspondences.features)
    part = {name: scene.correspondences.features[name] for name in names[:3]}
    real, link = tmp_path / "real.db", tmp_path / "link.db"
    inside = [pair for pair in scene.correspondences.pairs if {pair.name0, pair.name1} <= set(part)]
    scene.changed(features=part, pairs=inside).export(real, cameras=Cameras("single"), verification="none")
    with pytest.raises(GeomatchError, match="exists already"):
        scene.export(real)
    real.chmod(0o640)
    link.symlink_to(real.name)
    report = scene.export(link, extend=True, cameras=Cameras("single"))
    assert (report.images, report.pairs) == (3, 12)
    assert report.skipped == {f"{what} that the database already had": 3 for what in ("images", "pairs")}
    assert sum(report.verified.values()) == 15  # the first pairs, too, which had matches only
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    with database(str(real)) as opened:
        assert (len(opened.read_all_cameras()), opened.num_images()) == (1, 6)
    assert check_database(real, scene.folder).ok
    (model,) = map_database(real, scene.folder, tmp_path / "sparse")
    assert summarise_model(model).mean_reprojection_error < 0.01
    before = real.read_bytes()
    moved = {**scene.correspondences.features, names[0]: part[names[0]][::-1]}
    with pytest.raises(FeaturesError, match="has other keypoints"):
        scene.changed(features=moved).export(real, extend=True)
    cv2.imwrite(str(scene.folder / names[0]), np.zeros((50, 60), np.uint8))
    odd = {names[0]: Features(np.zeros((0, 2)), np.zeros(0), (60, 50))}  # type: ignore[arg-type]
    with pytest.raises(FeaturesError, match=r"its camera in the database is of .* the file has 60x50"):
        scene.changed(features=odd, pairs=[]).export(real, extend=True)
    assert real.read_bytes() == before


def test_what_cannot_be_written_is_said_before_the_matching(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(scene.folder / "odd.png"), np.zeros((50, 60), np.uint8))
    (tmp_path / "there.db").write_text("x")

    def matching(*arguments: Any, **options: Any) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr("geomatch.collection.match_collection", matching)
    for arguments, words in (
        (["there.db"], "there.db exists already"),
        (["there.db", "--extend"], "is no database of COLMAP"),
        (["."], "is a folder, not a database"),
        (["no/out.db"], "no such folder for the database"),
        (["out.db", "--camera-model", "LENS"], "no camera model 'LENS'"),
        (["out.db", "--camera-params", "-1,2,3,4"], "focal lengths must be positive"),
        (["out.db", "--camera-mode", "single"], "images of one camera must be of one size"),
        (["there.db", "--format", "hloc"], "exists already"),
        (["out", "--format", "text", "--extend"], "--extend has no effect on text files"),
    ):
        target, *options = arguments
        assert main(["colmap", "export", str(scene.folder), str(tmp_path / target), *options]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.R_OK)
    assert main(["colmap", "export", str(scene.folder), str(tmp_path / "out.db")]) == 2
    assert f"{tmp_path}: nothing can be written to this folder" in capsys.readouterr().err

"""Databases with one mistake each, and correct ones."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.colmap import export_database, sqlite
from geomatch.colmap.doctor.check import CheckReport, check_database, format_report
from geomatch.colmap.library import database
from geomatch.errors import GeomatchError

SIZE = (1024, 768)
BASE = 2147483647
Change = Callable[..., CheckReport]


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, three images each, every pair verified; as pycolmap writes it."""
    path = tmp_path_factory.mktemp("synthetic") / "right.db"
    with database(str(path)) as opened:
        options = pycolmap().SyntheticDatasetOptions(
            num_rigs=2, num_cameras_per_rig=1, num_frames_per_rig=3, num_points3D=100
        )
        pycolmap().synthesize_dataset(options, opened)
    return path


@pytest.fixture
def path(synthetic: Path, tmp_path: Path) -> Path:
    """A copy in a folder whose name must be escaped."""
    folder = tmp_path / "100% #1?"
    folder.mkdir()
    return Path(shutil.copy(synthetic, folder / "data base.db"))


@pytest.fixture
def changed(path: Path) -> Change:
    """Run a statement on the correct database and examine it."""

    def change(statement: str, values: Sequence[Any] = ()) -> CheckReport:
        alter(path, statement, values)
        return check_database(path)

    return change


def alter(path: Path, statement: str, values: Sequence[Any] = ()) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(statement, values)


def found(report: CheckReport, severity: str, text: str) -> str:
    """The message of the one finding that holds ``text``."""
    (finding,) = (one for one in report.findings if text in one.message)
    assert finding.severity == severity
    assert "\n" not in finding.message
    return finding.message


def says(report: CheckReport, text: str) -> bool:
    return any(text in finding.message for finding in report.findings)


def keypoints(points: Any, image_id: int = 1) -> tuple[str, tuple[Any, ...]]:
    rows = np.asarray(points, np.float32)
    statement = f"UPDATE keypoints SET rows = ?, cols = ?, data = ? WHERE image_id = {image_id}"
    return statement, (*rows.shape, rows.tobytes())


def matches(indices: Any, table: str = "matches") -> tuple[str, tuple[Any, ...]]:
    rows = np.asarray(indices).astype(np.uint32)
    statement = f"UPDATE {table} SET rows = ?, cols = ?, data = ? WHERE pair_id = {BASE + 2}"
    return statement, (*rows.shape, rows.tobytes())


def subpixel(count: int = 110, size: tuple[int, int] = SIZE) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(3).uniform(0, size, (count, 2))


def test_correct_database_has_no_mistake(path: Path) -> None:
    before = path.read_bytes()
    report = check_database(path)
    assert report.ok
    assert [finding.severity for finding in report.findings] == ["note"]
    assert says(report, "guess")
    assert report.counts == {
        "cameras": 2, "images": 6, "keypoints": 660, "descriptors": 660, "pairs with matches": 15,
        "matches": 1500, "verified pairs": 15, "inlier matches": 1500, "pairs uncalibrated": 15,
    }  # fmt: skip
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_database_that_pycolmap_holds_open(path: Path) -> None:
    with database(str(path)) as opened:
        image_id = opened.write_image(pycolmap().Image(name="late.jpg", camera_id=1))
        opened.write_keypoints(image_id, np.zeros((3, 2), np.float32))
        assert check_database(path).counts["images"] == 7


def test_what_is_no_database(tmp_path: Path, path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("hello, this is no database at all")
    alter(other, "CREATE TABLE cameras (camera_id INTEGER)")
    for wrong, message in (
        (tmp_path / "none.db", "no such file"),
        (tmp_path, "not a file"),
        (text, "no SQLite"),
        (other, "no table images, keypoints, matches"),
    ):
        with pytest.raises(GeomatchError, match=message):
            check_database(wrong)
    for table in "images", "keypoints", "matches":
        alter(other, f"CREATE TABLE {table} (x INTEGER)")
    with pytest.raises(GeomatchError, match="no such column"):
        check_database(other)
    with pytest.raises(GeomatchError, match="no such folder"):
        check_database(path, tmp_path / "nowhere")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(GeomatchError, match="locked"):
            check_database(path)
    path.write_bytes(path.read_bytes()[:8192])
    with pytest.raises(GeomatchError, match="damaged"):
        check_database(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("CREATE VIEW spy AS SELECT * FROM images", "view 'spy'"),
        ("ALTER TABLE images RENAME TO old; CREATE VIEW images AS SELECT * FROM old", "view 'images'"),
        ("CREATE TRIGGER spy AFTER INSERT ON matches BEGIN DELETE FROM images; END", "trigger 'spy'"),
        ("CREATE VIRTUAL TABLE spy USING fts5(x)", "table 'spy'"),
        ("UPDATE keypoints SET data = zeroblob(20000)", "too big"),
        ("UPDATE keypoints SET rows = 'many', data = 'text'", None),
        ("UPDATE matches SET pair_id = -5 WHERE pair_id = (SELECT min(pair_id) FROM matches)", None),
    ],
)
def test_a_database_is_refused_before_it_runs_code_or_fills_memory(
    path: Path, tmp_path: Path, script: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_BLOB", 10_000)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA ignore_check_constraints = 1; {script}")
    if message is None:
        assert not check_database(path).ok
    else:
        with pytest.raises(GeomatchError, match=message):
            check_database(path)
    for arguments in (["check"], ["export", str(tmp_path), str(tmp_path / "x.db"), "--from"]):
        code = main(["colmap", *arguments, str(path)])
        assert code == (1 if arguments == ["check"] and message is None else 2)
    with pytest.raises(GeomatchError):
        export_database(tmp_path, sqlite.read(path), path, extend=True)


def test_report_for_the_terminal(path: Path, changed: Change) -> None:
    assert format_report(check_database(path)).startswith("2 cameras, 6 images, 660 keypoints")
    alter(path, "UPDATE images SET name = ? WHERE image_id = 1", ("two\nlines\x1b[31m.jpg",))
    report = changed("DELETE FROM keypoints")
    lines = format_report(report).splitlines()
    assert lines[2].startswith("error   15 pairs in matches (two?lines?[31m.jpg - camera")
    assert "; ...)" in lines[2]
    assert not report.ok


def camera(*params: float) -> tuple[str, tuple[bytes]]:
    return "UPDATE cameras SET params = ?", (np.array(params, float).tobytes(),)


def pair(pair_id: int) -> tuple[str, tuple[int, int]]:
    return "UPDATE matches SET pair_id = ? WHERE pair_id = ?", (pair_id, BASE + 2)


NOT_FINITE = subpixel()
NOT_FINITE[5, 1] = np.nan
MISTAKES: list[tuple[tuple[str, Sequence[Any]], str, str]] = [
    (("UPDATE keypoints SET data = ?", (bytes(5280),)), "error", "64 bits"),
    (("UPDATE keypoints SET data = ?", (bytes(1320),)), "error", "16 bits"),
    (("UPDATE keypoints SET data = 'text', rows = 'many' WHERE image_id < 3", ()), "error",
     "0 bytes for many x 6; camera"),
    (keypoints(np.c_[subpixel(), np.ones(110)]), "error", "2, 4 or 6 columns"),
    (keypoints(NOT_FINITE), "error", "keypoints are NaN"),
    (keypoints(subpixel()[:, ::-1]), "error", "write x first"),
    (keypoints(subpixel(size=(1, 1))), "error", "write pixels"),
    (("UPDATE keypoints SET image_id = 99 WHERE image_id = 1", ()), "warning",
     "of keypoints does not"),
    (("UPDATE matches SET data = ?", (bytes(1600),)), "error", "64 bits per number; ...): matches have"),
    (matches(np.zeros((9, 3))), "error", "2 columns"),
    (pair(BASE + 1), "error", "matched to itself"),
    (pair(BASE + 77), "error", "images 1 and 77"),
    (pair(2 * BASE + 1), "error", "larger image_id comes first"),
    (("DROP TABLE two_view_geometries", ()), "warning", "No images with matches found"),
    (("UPDATE two_view_geometries SET config = 42", ()), "error", "no such configuration"),
    (("UPDATE two_view_geometries SET F = ?", (b"1234",)), "error", "9 float64"),
    (("UPDATE cameras SET params = ?", (b"12345678",)), "error", "another length than the camera"),
    (camera(1e6, 512, 384, 0), "warning", "1e+06"),
    (camera(900, 384, 5120, 0), "warning", "principal point"),
    (camera(np.nan, 512, 384, 0), "error", "parameters are NaN"),
    (("UPDATE cameras SET model = 99", ()), "warning", "model is not known"),
    (("UPDATE cameras SET width = 0", ()), "error", "must be positive"),
    (("UPDATE images SET camera_id = 9 WHERE image_id = 2", ()), "error", "camera does not exist"),
    (("DELETE FROM frame_data WHERE data_id < 4", ()), "error", "add a frame to each"),
    (("UPDATE frame_data SET sensor_id = 2 WHERE data_id = 1", ()), "error", "of another camera"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "severity", "text"), MISTAKES, ids=[case[2] for case in MISTAKES])
def test_each_mistake_is_named(changed: Change, statement: Any, severity: str, text: str) -> None:
    found(changed(*statement), severity, text)


def test_keypoints_outside(changed: Change) -> None:
    points = subpixel()
    points[:7, 0] += 2 * SIZE[0]
    assert ", 7 of 110)" in found(changed(*keypoints(points)), "warning", "outside the image")


def test_integer_coordinates_are_right_at_the_centres_of_a_grid_only(changed: Change) -> None:
    found(changed(*keypoints(subpixel().round())), "warning", "add 0.5")
    assert not says(changed(*keypoints(np.floor(subpixel()) + 0.5)), "0.5")
    xs, ys = np.meshgrid(np.arange(16, 1024, 32), np.arange(16, 768, 32))
    grid = np.stack([xs.ravel(), ys.ravel()], 1)
    assert not says(changed(*keypoints(grid)), "0.5")
    found(changed(*keypoints(grid[:-40] - 16)), "warning", "add 0.5")


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_half_precision(path: Path, changed: Change, shift: float) -> None:
    alter(path, "UPDATE cameras SET width = 4000, height = 3000")
    points = subpixel(size=(4000, 3000))
    for exact in points, subpixel(size=(2000, 1500)):
        for right in exact, np.floor(exact) + shift, np.floor(exact / 8) * 8 + shift:
            assert not says(changed(*keypoints(right)), "float16")
    for wrong in points, np.floor(points):
        half = wrong.astype(np.float16).astype(np.float32) + np.float32(shift)
        found(changed(*keypoints(half)), "warning", "float16")


def test_index_out_of_range(path: Path, changed: Change) -> None:
    for index, text in (
        (-1, "-1 for no match"), (110, "past the last keypoint"), (40000 - 65536, "went through int16")
    ):  # fmt: skip
        for table in ("matches", "two_view_geometries"):
            message = found(changed(*matches([[1, 2], [index, 3]], table)), "error", text)
            assert message.startswith(f"1 pair in {table} (camera000001_frame000000.png - camera")
            assert "1 of 4" in message
            changed(*matches([[1, 2]], table))
    alter(path, *keypoints(subpixel(200), 2))
    found(changed(*matches([[150, 3], [7, 4]])), "error", "columns are exchanged")


def test_repeated_matches(changed: Change) -> None:
    report = changed(*matches([[1, 2], [3, 4], [1, 2], [1, 2]]))
    assert "2 of 4" in found(report, "warning", "written several times")
    assert not says(report, "several matches")
    report = changed(*matches([[1, 2], [1, 5], [6, 5], [7, 8]]))
    assert "3 of 4" in found(report, "warning", "several matches in one image")


def test_matches_without_keypoints(changed: Change) -> None:
    report = changed("DELETE FROM keypoints WHERE image_id = 2")
    messages = [finding.message for finding in report.findings if "have no keypoints" in finding.message]
    assert [message[:17] for message in messages] == ["5 pairs in matche", "5 pairs in two_vi"]
    found(report, "warning", "extract features")


def test_not_verified(changed: Change) -> None:
    report = changed("DELETE FROM two_view_geometries")
    assert "geometric_verification" in found(report, "warning", "No images with matches found")
    assert report.ok
    found(changed("DELETE FROM matches"), "warning", "there are no matches")


def test_configurations(path: Path, changed: Change) -> None:
    set_config = "UPDATE two_view_geometries SET config = "
    found(changed(set_config + "1 WHERE pair_id < 5e9"), "warning", "DEGENERATE")
    empty = "UPDATE two_view_geometries SET rows = 0, data = NULL WHERE pair_id < 5e9"
    assert not says(changed(empty), "DEGENERATE")
    found(changed(set_config + "6"), "note", "global mapping")
    assert not says(changed(set_config + f"2 WHERE pair_id = {3 * BASE + 4}"), "global")
    report = changed(set_config + "0")
    found(report, "error", "UNDEFINED (0)")
    found(report, "warning", "there will be no model")
    assert report.counts["pairs undefined"] == 15
    found(changed("PRAGMA user_version = 3900"), "warning", "UNDEFINED (0)")


def test_geometry_that_says_nothing(changed: Change) -> None:
    report = changed("UPDATE two_view_geometries SET config = 2")
    assert len(report.findings) == 1  # with geometry it is right
    for matrix in (np.eye(3), np.zeros((3, 3))):
        report = changed("UPDATE two_view_geometries SET F = ?, E = ?, H = ?", (matrix.tobytes(),) * 3)
        found(report, "warning", "nothing was verified")


def test_image_without_match_and_groups(path: Path) -> None:
    rest = (BASE + 2, 3 * BASE + 4, 3 * BASE + 5)
    for table in "matches", "two_view_geometries":
        alter(path, f"DELETE FROM {table} WHERE pair_id NOT IN (?, ?, ?)", rest)
    report = check_database(path)
    found(report, "note", "no match with any other image")
    assert "(of 3, 2 images)" in found(report, "note", "2 groups")


def test_every_camera_model(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    with database(str(path)) as opened:
        for name, model in pycolmap().CameraModelId.__members__.items():
            if name != "INVALID":
                opened.write_camera(pycolmap().Camera.create_from_model_id(0, model, 900.0, *SIZE))
    report = check_database(path)
    assert len(report.findings) == 2, format_report(report)
    assert says(report, "there are no images")
    assert says(report, "guess")


def test_names(path: Path) -> None:
    for image_id, name in enumerate(["/data/a.jpg", "C:\\data\\b.jpg", "left\\c.jpg", "a b.jpg"], 1):
        alter(path, "UPDATE images SET name = ? WHERE image_id = ?", (name, image_id))
    report = check_database(path)
    assert found(report, "warning", "must be relative").startswith("2 images")
    found(report, "warning", "backslash")
    found(report, "note", "spaces")


def test_frames_of_no_image(path: Path, changed: Change) -> None:
    alter(path, "DELETE FROM frame_data")
    assert changed("DELETE FROM frames").ok


def test_descriptors(path: Path, changed: Change) -> None:
    found(changed("UPDATE descriptors SET type = -1 WHERE image_id = 1"), "warning", "abort")
    alter(path, "UPDATE descriptors SET type = 1, cols = 512, data = zeroblob(110 * 512)")
    assert len(check_database(path).findings) == 1  # ALIKED, which is right
    found(changed("UPDATE descriptors SET type = 0"), "warning", "do not call them")
    found(changed("UPDATE descriptors SET cols = 128"), "error", "descriptors have another length")
    report = changed("UPDATE descriptors SET rows = 9, data = zeroblob(9 * 128)")
    found(report, "error", "differ in number")


def test_image_files(path: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM images ORDER BY image_id").fetchall()
    files = [tmp_path / "images" / name for (name,) in names]
    for file in files:
        PILImage.new("L", SIZE).save(file)
    assert len(check_database(path, tmp_path / "images").findings) == 1
    files[0].unlink()
    files[1].write_text("nothing")
    PILImage.new("L", (512, 384)).save(files[2])
    turned = PILImage.new("L", SIZE[::-1])
    turned.getexif()[274] = 6
    turned.save(files[3], exif=turned.getexif())
    report = check_database(path, tmp_path / "images")
    assert files[0].name in found(report, "warning", "no such file")
    found(report, "warning", "not a readable image")
    assert "camera 1024 x 768, file 512 x 384" in found(report, "error", "another size")
    assert files[3].name in found(report, "error", "EXIF")


@pytest.mark.skipif(shutil.which("colmap") is None, reason="colmap is not installed")
def test_old_schema(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    subprocess.run(
        ["colmap", "database_creator", "--database_path", str(old)],
        check=True, capture_output=True, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    with closing(sqlite3.connect(old)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute("ATTACH ? AS new", (str(path),))
        for table in "cameras", "images", "keypoints", "descriptors", "matches", "two_view_geometries":
            new = {row[1] for row in connection.execute(f"PRAGMA new.table_info({table})")}
            own = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
            names = ", ".join(name for name in own if name in new)
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        connection.commit()
    assert check_database(old) == check_database(path)
    alter(old, "UPDATE two_view_geometries SET config = 0")
    alter(old, "UPDATE descriptors SET cols = 64, data = zeroblob(110 * 64)")
    report = check_database(old)
    found(report, "warning", "UNDEFINED (0)")
    found(report, "warning", "abort")
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == version < 4_000_000


def test_schema_of_3_6_has_no_matrices(path: Path, changed: Change) -> None:
    for name in "F", "E", "H", "qvec", "tvec":
        alter(path, f"ALTER TABLE two_view_geometries DROP COLUMN {name}")
    for table in "descriptors", "frame_data", "frames":
        alter(path, f"DROP TABLE {table}")
    assert changed("PRAGMA user_version = 3600").ok

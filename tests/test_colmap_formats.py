"""Text, h5 and our own files: there and back, and through Debian's colmap as an independent reader."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomatch.cameras import pycolmap
from geomatch.cli import main
from geomatch.collection import Correspondences, MatchedPair
from geomatch.colmap import export_database, read_correspondences, write_correspondences
from geomatch.engine import RunContext
from geomatch.errors import FeaturesError
from geomatch.reconstruction.mapping import map_database
from geomatch.reconstruction.models import summarise_model
from geomatch.types import Matches

QUIET = RunContext(progress=False)


def content(found: Correspondences) -> dict[tuple[str, str], list[list[int]]]:
    """Matches by pair, whatever the order."""
    rows = {}
    for pair in found.pairs:
        indices = pair.matches.indices
        flipped = pair.name0 > pair.name1
        key = (pair.name1, pair.name0) if flipped else (pair.name0, pair.name1)
        rows[key] = sorted((indices[:, ::-1] if flipped else indices).tolist())
    return rows


@pytest.mark.parametrize("form", ["text", "hloc", "npz", "database"])
def test_there_and_back(make_scene: Callable[..., Any], tmp_path: Path, form: Any) -> None:
    scene = make_scene(frames=4, rename=lambda name: f"é/{name}" if name[-5] == "1" else name)
    if form == "hloc":
        pytest.importorskip("h5py")
    path = tmp_path / "out"
    if form == "database":
        export_database(scene.folder, scene.correspondences, path, context=QUIET)
    else:
        assert write_correspondences(scene.correspondences, path, form, scene.folder) == {}
    before = path.read_bytes() if form == "database" else b""
    back = read_correspondences(path, scene.folder)
    assert sorted(back.features) == sorted(scene.correspondences.features)
    for name, features in scene.correspondences.features.items():
        np.testing.assert_allclose(back.features[name].keypoints, features.keypoints, atol=1e-3)
        assert back.features[name].image_size == features.image_size
    assert content(back) == content(scene.correspondences)
    if form == "database":
        assert path.read_bytes() == before
    else:
        with pytest.raises(FileExistsError, match="exists already"):
            write_correspondences(scene.correspondences, path, form, scene.folder)
        assert export_database(scene.folder, back, tmp_path / "x.db", context=QUIET).pairs == 6
    assert {item.name for item in tmp_path.iterdir()} <= {"out", "scene", "truth.db", "x.db"}


def run_colmap(command: str, **options: object) -> None:
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    done = subprocess.run(["colmap", command, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("colmap") is None, reason="the colmap program is not installed")
def test_the_text_files_map_in_another_colmap_as_the_database_does(
    make_scene: Callable[..., Any], tmp_path: Path
) -> None:
    scene = make_scene(frames=4)
    write_correspondences(scene.correspondences, tmp_path / "text", "text", scene.folder)
    files, database = tmp_path / "text", tmp_path / "cli.db"
    shared = {"database_path": database, "image_path": scene.folder}
    run_colmap("feature_importer", **shared, import_path=files / "features")
    no_gpu = {"SiftMatching.use_gpu": 0}
    listed = files / "matches.txt"
    run_colmap("matches_importer", database_path=database, match_list_path=listed, match_type="raw", **no_gpu)
    (tmp_path / "sparse").mkdir()
    run_colmap("mapper", **shared, output_path=tmp_path / "sparse")
    theirs = pycolmap().Reconstruction(str(tmp_path / "sparse" / "0"))
    export_database(scene.folder, scene.correspondences, tmp_path / "ours.db", context=QUIET)
    (ours,) = map_database(tmp_path / "ours.db", scene.folder, tmp_path / "own")
    names = [{image.name for image in model.images.values()} for model in (theirs, ours)]
    assert names[0] == names[1] == set(scene.correspondences.features)
    assert summarise_model(theirs).mean_reprojection_error < 0.01
    assert abs(summarise_model(theirs).points - summarise_model(ours).points) <= 3
    # their principal points are fixed at the image's centre: half a pixel forgotten would show here
    with closing(sqlite3.connect(database)) as connection:
        (data,) = connection.execute("SELECT data FROM keypoints ORDER BY image_id LIMIT 1").fetchone()
    first = scene.correspondences.features[min(scene.correspondences.features)]
    assert np.frombuffer(data, np.float32)[:2] == pytest.approx(first.keypoints[0] + 0.5, abs=1e-3)


def test_names_that_a_format_cannot_hold(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    scene = make_scene(frames=3, rename=lambda name: f"a {name}")
    for form in ("text", "hloc"):
        with pytest.raises(FeaturesError, match="spaces"):
            write_correspondences(scene.correspondences, tmp_path / form, form, scene.folder)  # type: ignore[arg-type]
        assert not (tmp_path / form).exists()
    first, second, _ = scene.correspondences.features.values()
    for name in ("a/b.png", "a-b.png"):
        (scene.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(next(scene.folder.glob("*.png")), scene.folder / name)
    scene = scene.changed(features={"a/b.png": first, "a-b.png": second}, pairs=[])
    with pytest.raises(FeaturesError, match="one name in hloc's files"):
        write_correspondences(scene.correspondences, tmp_path / "h5", "hloc", scene.folder)
    assert scene.export(tmp_path / "x.db").images == 2


@pytest.fixture
def hloc(make_scene: Callable[..., Any], tmp_path: Path) -> Callable[[], Correspondences]:
    """Reads the files of hloc in the folder ``h5``, which were written for three images."""
    pytest.importorskip("h5py")
    scene, folder = make_scene(frames=3), tmp_path / "h5"
    write_correspondences(scene.correspondences, folder, "hloc", scene.folder)
    return lambda: read_correspondences(folder / "features.h5", scene.folder)


def test_matches_that_make_no_sense(hloc: Callable[[], Correspondences], tmp_path: Path) -> None:
    import h5py

    matches = tmp_path / "h5" / "matches.h5"
    with h5py.File(matches, "r") as file:
        values = np.asarray(next(iter(file[next(iter(file))].values()))["matches0"])
    assert values.dtype == np.int32
    for wrong, says in (
        (values[:-1], "are both files of one run"),
        (values.astype(float), "a whole number for each"),
        (np.where(values < 0, -7, values - 40_000), "wrapped: more than"),
        (values.astype(np.int8).clip(-1), "wrapped: more than"),
        (None, "lacks matches0"),
    ):
        with h5py.File(matches, "a") as file:
            group = next(iter(file[next(iter(file))].values()))
            del group["matches0"]
            if wrong is not None:
                group["matches0"] = wrong
        with pytest.raises(FeaturesError, match=says):
            list(hloc().pairs)
    with h5py.File(matches, "w") as file:
        file.create_group("gone/too")
    with pytest.raises(FeaturesError, match="names an image that has no features"):
        list(hloc().pairs)
    matches.unlink()
    with pytest.raises(FeaturesError, match=r"expected one file matches.h5"):
        hloc()


def test_keypoints_that_make_no_sense(hloc: Callable[[], Correspondences], tmp_path: Path) -> None:
    import h5py

    features, name = tmp_path / "h5" / "features.h5", min(hloc().features)
    wrong: tuple[Any, ...] = (7.0, np.zeros(4), np.full((3, 2), np.nan), ["text"])
    for values in wrong:
        with h5py.File(features, "a") as file:
            del file[name]["keypoints"]
            file[name]["keypoints"] = values
        with pytest.raises(FeaturesError, match=rf"features.h5: (the keypoints of )?{name}"):
            _ = hloc().features[name]
    whole = features.read_bytes()
    features.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeaturesError, match=r"features.h5: not a readable h5 file of hloc"):
        hloc()


def test_what_is_no_input(make_scene: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "x").write_text("words")
    for path in (tmp_path, tmp_path / "x"):
        with pytest.raises(FeaturesError, match="expected a COLMAP database, an h5 file, or a folder"):
            read_correspondences(path, tmp_path)
    for rows, says in (
        ("0 1\n0 1 2", "3: not a readable line of two names or numbers"),
        ("x y", "2: not a readable line of two names or numbers"),
    ):
        (tmp_path / "matches.txt").write_text(f"a b\n{rows}\n")
        with pytest.raises(FeaturesError, match=f"matches.txt:{says}"):
            list(read_correspondences(tmp_path, tmp_path).pairs)
    (tmp_path / "features" / "a.txt").write_text("3 128\n1 2 3 4\n")
    with pytest.raises(FeaturesError, match="1 rows, 3 are announced"):
        _ = read_correspondences(tmp_path, tmp_path).features["a"]
    pytest.importorskip("h5py")
    scene = make_scene(frames=3)
    first = scene.correspondences.pairs[0]
    names = sorted(scene.correspondences.features)
    for rows, says in (
        ([[0, 1], [0, 2]], "several matches, which hloc cannot hold"),
        ([[9_999, 0]], "names keypoint 9999"),
    ):
        wrong = Matches(np.array(rows), np.ones(len(rows), np.float32))
        changed = scene.changed(pairs=[first, MatchedPair(names[1], names[2], wrong)])
        with pytest.raises(FeaturesError, match=says):
            write_correspondences(changed.correspondences, tmp_path / "h5", "hloc", scene.folder)
    assert not (tmp_path / "h5").exists()


def test_commands_convert_and_check(
    make_scene: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(frames=4)
    write_correspondences(scene.correspondences, tmp_path / "files", "npz", scene.folder)
    images, files, path = str(scene.folder), str(tmp_path / "files"), str(tmp_path / "x.db")
    assert main(["colmap", "export", images, path, "--from", files]) == 0
    assert "verified    6 uncalibrated" in capsys.readouterr().out
    assert main(["colmap", "check", path, "--images", images]) == 0
    assert main(["colmap", "export", images, path, "--from", files]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["colmap", "export", images, str(tmp_path / "t"), "--from", path, "--format", "text"]) == 0
    assert (tmp_path / "t" / "matches.txt").is_file()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE two_view_geometries SET config = 0")
    capsys.readouterr()
    assert main(["colmap", "check", path]) == 1
    assert "error" in capsys.readouterr().out
    assert main(["colmap", "check", str(tmp_path / "none.db")]) == 2

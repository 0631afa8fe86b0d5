"""Matches that other programs have written, a file for each pair: right ones score fully, in every task."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import posed_data as posed
import pytest
from correspondence_data import save
from pair_data import SIZE, TRUTH, images, run
from posed_data import make_list

from geomatch.benchmarks.harness.task import Entry, find_task
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods.functions import MatchFiles
from geomatch.benchmarks.tasks.pairs.views import Views
from geomatch.cli import main
from geomatch.errors import FeaturesError, GeomatchError
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.store import Store

GRID = np.stack(np.meshgrid(np.arange(9, 190, 9.0), np.arange(9, 140, 9.0)), axis=-1).reshape(-1, 2)
BLACK = Image(np.zeros((SIZE[1], SIZE[0], 3), np.uint8), "black")


def write(folder: Path, pair: str, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{pair}.npz"
    np.savez(path, **arrays)
    return path


def exact(count: int = 1000) -> dict[str, np.ndarray]:
    """Points of a grid that the plane's motion leaves in the image, and where it sends them."""
    moved = warp_points(TRUTH, GRID)
    inside = ((moved >= 0) & (moved <= np.array(SIZE) - 1)).all(axis=1)
    return {"points0": GRID[inside][:count], "points1": moved[inside][:count]}


@pytest.fixture
def planes(tmp_path: Path, photo0: Image) -> Path:
    """A list of two pairs, in folders of which one lies beside the list's."""
    images(tmp_path / "data" / "a", photo0.pixels, ("1.png", "2.png"))
    images(tmp_path / "b", photo0.pixels, ("1.png", "2.png"))
    np.savetxt(tmp_path / "data" / "H", TRUTH)
    (tmp_path / "data" / "pairs.txt").write_text("a/1.png a/2.png H\n../b/1.png ../b/2.png H\n")
    return tmp_path / "data"


def test_right_matches_are_right_in_every_frame_of_homographies(photo0: Image, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "files"
    images(data / "v_p", photo0.pixels, ("1.png", "2.png"))
    np.savetxt(data / "v_p" / "H_1_2", TRUTH)
    write(folder, "v_p 1-2", **exact())
    protocols = find_task("hpatches").protocols
    result = run("hpatches", data, "all", {"files": f"matches:{folder}"})
    rows = {row["protocol"]: row for row in result.record["rows"]}
    assert set(rows) == set(protocols) - {"superpoint"}  # which needs keypoints that repeat
    assert len({protocols[name].frame for name in rows}) > 1
    for name, row in rows.items():
        assert row["reason"] is None
        if protocols[name].kind == "mma":
            assert row["within"][0] == row["matches"] > 200
        else:
            # DKM's code, and so `roma`, moves points by half a pixel, and the corners not
            assert max(row["errors_px"]) < (0.5 if protocols[name].corner_origin else 0.1)
    wrong = exact()
    wrong["points1"] = wrong["points1"] + [4.5, 0]
    write(folder, "v_p 1-2", **wrong)
    again = run("hpatches", data, "mma", {"files": f"matches:{folder}"})
    assert again.computed == 1  # another file, another key
    assert again.record["rows"][0]["within"][3:5] == [0, again.record["rows"][0]["matches"]]


def test_right_matches_have_right_poses_and_epipolar_lines(photo0: Image, tmp_path: Path) -> None:
    data, folder = make_list(tmp_path / "list"), tmp_path / "files"
    for scene in find_task("pose").read(data, None).units:
        for pair in scene.pairs:
            points0, points1 = (posed.project(posed.STEMS.index(path.stem)) for path in pair.paths)
            write(folder, pair.name, points0=points0, points1=points1)
    result = run("pose", data, "all", {"files": f"matches:{folder}"})
    assert {round(row["AUC@5"]) for row in result.summaries()} == {100}
    # two categories of WxBS have pairs of one name; two planes make the matrix unique
    wxbs = tmp_path / "wxbs"
    other = TRUTH + np.outer([25.0, 3.0, 0.02], [0.002, 0.001, 0.3])
    planes = [np.hstack([GRID, warp_points(matrix, GRID)]) for matrix in (TRUTH, other)]
    inside = [rows[((rows[:, 2:] >= 0) & (rows[:, 2:] < SIZE)).all(axis=1)] for rows in planes]
    for category in ("WGBS", "WLABS"):
        images(wxbs / category / "kyiv", photo0.pixels, ("01.png", "02.png"))
        np.savetxt(wxbs / category / "kyiv" / "corrs.txt", inside[0][::20])
    write(folder, "WGBS%kyiv 1-2", points0=np.vstack(inside)[:, :2], points1=np.vstack(inside)[:, 2:])
    write(folder, "WLABS%kyiv 1-2", points0=np.zeros((0, 2)), points1=np.zeros((0, 2)))
    result = run("wxbs", wxbs, "all", {"files": f"matches:{folder}"})
    found = {row["pair"]: row for row in result.record["rows"] if row["protocol"] == "wxbs-f"}
    assert max(found["WGBS/kyiv 1-2"]["errors"]) < 0.1
    assert found["WLABS/kyiv 1-2"]["reason"] == "no fundamental matrix among 0 matches"
    assert "finds no partners" in result.record["skipped"]["files under wxbs-pck"]


def test_a_pair_without_a_file_is_named_and_tried_again(
    planes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    write(folder, "a%1.png a%2.png", **exact())
    methods = {"files": f"matches:{folder}"}
    result = run("pairs", planes, "pairs", methods)
    path = folder / "..%b%1.png ..%b%2.png.npz"
    reason = f"{path}: not a readable .npz file of matches (No such file or directory)"
    assert result.record["skipped"] == {"files on ../b/1.png ../b/2.png": reason}
    (row,) = (row for row in result.record["rows"] if row["reason"] is None)
    assert max(row["errors_px"]) < 0.1
    command = ["benchmark", "pairs", str(planes), "--method", methods["files"], "--protocol", "pairs"]
    assert main([*command, "--workers", "1", "--out", str(tmp_path / "command")]) == 1
    assert reason in capsys.readouterr().err
    write(folder, path.stem, **exact())
    result = run("pairs", planes, "pairs", methods)
    assert not result.record["skipped"]
    assert result.computed == 2


def test_matches_beyond_the_image_or_masked_are_left_out_on_both_sides(planes: Path, tmp_path: Path) -> None:
    points0, points1 = np.array([[10, 20], [150, 20], [-9, 20], [150, 40.0]]), np.full((4, 2), 30.0)
    points1[3] = 160, -3
    write(tmp_path / "files", "x", points0=points0, points1=points1, confidence=[1, 2, 3, 4])
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    mask[:, :100] = 0
    save(planes / "a" / "masks" / "1.png.png", mask)
    method = create_method(f"matches:{tmp_path / 'files'}")
    views = Views(Entry(method, method.key()), Store.at(tmp_path / "store"))
    found = views.pair("x", (planes / "a" / "1.png", planes / "a" / "2.png"), "size100x75", False)
    assert found.features0.keypoints.tolist() == [[75, 10]]
    assert found.features1.keypoints.tolist() == [[15, 15]]


def test_best_first(tmp_path: Path) -> None:
    points = np.arange(6.0).reshape(3, 2)
    write(tmp_path / "files", "x", points0=points, points1=points + 1, confidence=[0.2, 0.9, 0.5])
    write(tmp_path / "files", "y", points0=points, points1=points + 1)
    files = MatchFiles(str(tmp_path / "files"))
    first, second = files.read("x", BLACK, BLACK)
    assert first.keypoints.tolist() == points[[1, 2, 0]].tolist()
    assert second.keypoints.tolist() == (points[[1, 2, 0]] + 1).tolist()
    assert first.scores.tolist() == np.array([0.9, 0.5, 0.2], np.float32).tolist()
    assert files.read("y", BLACK, BLACK)[0].keypoints.tolist() == points.tolist()


def _claims_much(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 2)}".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points0.npy", b"\x93NUMPY\x01\x00v\x00" + header)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"points1": np.zeros((3, 2))}, r"not a readable \.npz file of matches \(it lacks 'points0'\)"),
        ({"points0": np.zeros((3, 2)), "points1": np.zeros((2, 2))}, r"must be .*got \[\(3, 2\), \(2, 2\)\]"),
        ({"points0": np.zeros((2, 3)), "points1": np.zeros((2, 3))}, r"must be .*got \[\(2, 3\), \(2, 3\)\]"),
        ({"points0": np.zeros((2, 2)), "points1": np.zeros((2, 2)), "confidence": np.zeros((2, 2))},
         r"must be .*got \[\(2, 2\), \(2, 2\), \(2, 2\)\]"),
        ({"points0": np.full((2, 2), np.nan), "points1": np.zeros((2, 2))}, "not finite"),
        ({"points0": np.array([["a", "b"]]), "points1": np.zeros((1, 2))}, "not a readable .*convert string"),
        ({"points0": np.array([{}], object), "points1": np.zeros((1, 2))}, "another number of bytes"),
        (_claims_much, "another number of bytes"),
        (Path.touch, "not a zip file"),
    ],
)  # fmt: skip
def test_files_that_are_none_of_matches(
    arrays: dict[str, Any] | Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    if isinstance(arrays, dict):
        write(tmp_path, "x", **arrays)
    else:
        arrays(tmp_path / "x.npz")
    with pytest.raises(FeaturesError, match=rf"x\.npz: .*{says}"):
        MatchFiles(str(tmp_path)).read("x", BLACK, BLACK)


def test_the_key_is_that_of_names_and_content(tmp_path: Path) -> None:
    path = write(tmp_path / "files", "x", **exact())
    text = f"matches:{tmp_path / 'files'}"
    keys = [create_method(text).key()]
    assert str(tmp_path) not in str(keys)
    keys.append((path.rename(path.with_name("y.npz")), create_method(text).key())[1])
    write(tmp_path / "files", "y", **exact(50))
    keys.append(create_method(text).key())
    write(tmp_path / "files", "z", **exact())
    keys.append(create_method(text).key())
    assert all(one != other for k, one in enumerate(keys) for other in keys[:k])
    moved = (tmp_path / "files").rename(tmp_path / "elsewhere")
    assert create_method(f"matches:{moved}").key() == keys[-1]
    with pytest.raises(FeaturesError, match=r"/files: no files of matches PAIR\.npz there"):
        create_method(text).key()


def test_what_the_method_cannot_do_is_said(planes: Path, tmp_path: Path) -> None:
    for text in ("matches", "matches:", "matches:files+mnn[ratio=0.8]"):
        with pytest.raises(ValueError, match="matches:FOLDER"):
            create_method(text)
    assert create_method("matches:files+usac_magsac").estimator == "usac_magsac"
    with pytest.raises(GeomatchError, match=r"nothing can run: .*no files of matches"):
        run("pairs", planes, "pairs", {"files": f"matches:{tmp_path / 'none'}"})

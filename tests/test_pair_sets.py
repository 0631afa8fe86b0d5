"""Folders of pairs with homographies, on made-up data with known answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pair_data import SIZE, TRUTH, exact, images, run

import geomatch
from geomatch.benchmarks.harness.measures import mean_accuracy
from geomatch.benchmarks.harness.run import RunResult
from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.tasks.homography.protocols import PAIR_PROTOCOLS
from geomatch.benchmarks.tasks.homography.sequences import read_planes
from geomatch.cli import main
from geomatch.images import Image

BEHIND = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 150, 0, 1]])
"""A plane whose points from x = 150 on lie behind the second camera."""


def make_set(task: str, folder: Path, photo: np.ndarray, matrix: np.ndarray = TRUTH) -> Path:
    """One pair in the layout of a task; its name is ``graf`` where it has one."""
    if task == "evd":
        images(folder, photo, ("EVD/1/graf.png", "EVD/2/graf.png"), matrix)
        (folder / "EVD" / "h").mkdir()
        lines = "\n".join("\t".join(f"{3 * value:.20f}" for value in row) for row in matrix)
        (folder / "EVD" / "h" / "graf.txt").write_text(lines)
    elif task == "homogr":
        images(folder, photo, ("grafA.png", "grafB.png"), matrix)
        np.savetxt(folder / "graf_model.txt", np.linalg.inv(matrix))
    elif task == "oxford":
        images(folder, photo, ("graf/img1.png", "graf/img3.png"), matrix)
        np.savetxt(folder / "graf" / "H1to3p", matrix)
    else:
        images(folder, photo, ("a/x.png", "a/y.png"), matrix)
        np.savetxt(folder / "a" / "H", matrix)
        (folder / "pairs.txt").write_text(f"# a comment\n\n{folder}/a/x.png a/y.png a/H\n")
    return folder


def scores(result: RunResult, split: str = "all") -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if "@" in key and "spread" not in key}
        for row in result.summaries()
        if row["split"] == split
    ]


@pytest.mark.parametrize("task", ["evd", "homogr", "oxford", "pairs"])
def test_exact_matches_give_100_and_none_give_0(task: str, tmp_path: Path, photo0: Image) -> None:
    data = make_set(task, tmp_path / "data", photo0.pixels)
    methods = {"exact": exact(TRUTH), "none": exact(TRUTH, empty=True)}
    result = run(task, data, "all", methods)
    right, wrong, right_evd, wrong_evd = scores(result)
    for found in (right, right_evd):
        assert set(found.values()) == {100}
        assert {"visible mAA@20", "accuracy@3", "back accuracy@3"} <= found.keys()
    assert set(wrong.values()) == set(wrong_evd.values()) == {0}
    assert right.keys() == wrong.keys()
    again = run(task, data, "all", methods)
    assert (again.computed, again.record) == (0, result.record)
    assert str(tmp_path) not in str(again.record["rows"])


def test_the_other_direction_of_homogr_is_wrong(tmp_path: Path, photo0: Image) -> None:
    data = make_set("homogr", tmp_path / "data", photo0.pixels)
    (found,) = scores(run("homogr", data, "pairs", {"turned": exact(np.linalg.inv(TRUTH))}))
    assert found["visible mAA@20"] < 50


def test_a_truth_of_ones_own_goes_from_image_0_to_1_whatever_its_name(tmp_path: Path, photo0: Image) -> None:
    data = make_set("pairs", tmp_path / "data", photo0.pixels)
    (data / "a" / "H").rename(data / "a" / "own_model.txt")
    (data / "pairs.txt").write_text("a/x.png a/y.png a/own_model.txt\n")
    (scene,) = read_planes("pairs", data).units
    assert scene.pairs[0].truth == pytest.approx(TRUTH)


def test_evd_measure_by_its_definition(tmp_path: Path, photo0: Image) -> None:
    """The mean over every pixel of image 1 that lies in image 2, and mAA's ten thresholds."""
    moved = np.array([[1.0, 0, 50.5], [0, 1, -20.25], [0, 0, 1]])
    wrong = moved @ np.array([[1.02, 0, 3], [0, 0.99, 0], [0, 0, 1]])
    data = make_set("evd", tmp_path / "data", photo0.pixels, moved)
    result = run("evd", data, "evd", {"wrong": exact(wrong)})
    (row,) = result.record["rows"]
    apart = []
    for x in range(SIZE[0]):
        for y in range(SIZE[1]):
            p = np.array([x, y, 1.0])
            a, b = moved @ p, wrong @ p
            if 0 <= a[0] <= SIZE[0] - 1 and 0 <= a[1] <= SIZE[1] - 1:
                apart.append(np.hypot(*(a[:2] - b[:2])))
    assert row["errors_visible"] == [pytest.approx(np.mean(apart), abs=1e-3)]
    thresholds = np.logspace(np.log2(1.0), np.log2(20), 10, base=2.0)
    (found,) = scores(result)
    assert found["visible mAA@20"] == pytest.approx(100 * np.mean(np.mean(apart) <= thresholds))
    assert mean_accuracy([1.0, np.inf], 20) == 0.5


def test_corners_behind_the_plane_have_no_error(
    tmp_path: Path, photo0: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_set("evd", tmp_path / "data", photo0.pixels, -BEHIND)
    result = run("evd", data, "all", {"exact": exact(BEHIND)})
    (row, _) = result.record["rows"]
    assert "errors_px" not in row
    assert row["warning"].startswith("a corner of image 0 lies behind the plane")
    assert "errors_back" in row
    for summary in result.summaries():  # a corner behind the plane is no reason to refuse the estimate either
        assert (summary["visible mAA@20"], summary["without corner error"]) == (100, 1)
        assert "accuracy@3" not in summary
    command = ["benchmark", "evd", str(data), "--method", "orb", "--out", str(tmp_path / "out")]
    main([*command, "--workers", "1", "--max-keypoints", "50"])
    assert "warning     graf 1-2: a corner of image 0 lies behind" in capsys.readouterr().err


def test_every_numbered_image_of_a_folder_is_a_pair(tmp_path: Path, photo0: Image) -> None:
    folder = tmp_path / "my scene"
    for number in (2, 7, 10):
        images(folder, photo0.pixels, ("1.png", f"{number}.jpg"))
        np.savetxt(folder / f"H_1_{number}", TRUTH)
    (scene,) = read_planes("pairs", tmp_path).units
    # reports take what stands before a space for the scene
    assert [pair.name for pair in scene.pairs] == ["my_scene 1-2", "my_scene 1-7", "my_scene 1-10"]
    (folder / "H_1_7").unlink()
    with pytest.raises(geomatch.GeomatchError, match="H_1_7"):
        read_planes("pairs", tmp_path)


def test_layouts_that_are_not_there_say_what_is_missing(tmp_path: Path, photo0: Image) -> None:
    def refused(task: str, words: str) -> None:
        with pytest.raises(geomatch.GeomatchError, match=words):
            find_task(task).read(tmp_path / "data", None)

    refused("evd", "no such folder")
    (tmp_path / "data").mkdir()
    refused("evd", r"no Extreme View Dataset there \(EVD/1/NAME.png, ")
    refused("homogr", r"no homogr there \(NAMEA.png, NAMEB.png and NAME_model.txt")
    refused("oxford", r"no Oxford-Affine there \(NAME/img1.ppm")
    refused("pairs", r"no Pairs there \(a list of lines")
    refused("wxbs", "expected CATEGORY/NAME/01.png")
    data = make_set("evd", tmp_path / "data", photo0.pixels)
    (data / "EVD" / "2" / "graf.png").unlink()
    refused("evd", "image graf is missing")
    (data / "pairs.txt").write_text("a b\n")
    refused("pairs", "line 1: expected IMAGE0 IMAGE1 HFILE")
    (data / "pairs.txt").write_text("a b EVD/h/graf.txt\n")
    refused("pairs", "image a is missing")
    (data / "pairs.txt").write_text("EVD/1/graf.png EVD/1/graf.png EVD/h/graf.txt\n" * 2)
    refused("pairs", "listed twice")
    (data / "EVD" / "h" / "graf.txt").write_text("1 0 0\n1 0 0\n0 0 1")
    refused("pairs", "singular")
    (data / "EVD" / "h" / "graf.txt").write_text("1 0 nan\n0 1 0\n0 0 1")
    refused("pairs", "finite numbers")
    with pytest.raises(ValueError, match="pairs has no splits"):
        read_planes("pairs", data, "test")


def test_pair_protocols_are_those_of_the_sets() -> None:
    with pytest.raises(ValueError, match="own: the headline must be visible"):
        replace(PAIR_PROTOCOLS["pairs"], name="own", headline="accuracy@3")
    assert list(find_task("evd").protocols) == list(PAIR_PROTOCOLS)
    assert find_task("homogr").whole == 16

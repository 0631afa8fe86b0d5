"""The search: equal to single runs, resumable, growing, with skips counted."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

import geomatch
from geomatch import DIFTExtractor, GeomatchError, Image
from geomatch.benchmarks.harness.heat_map import draw_heat_map, markdown, summarise
from geomatch.benchmarks.harness.sweep import Grid, run_sweep
from geomatch.benchmarks.tasks.homography.sequences import find_sequences
from geomatch.benchmarks.tasks.homography.task import HomographyTask, accuracy
from geomatch.cli import main
from geomatch.dift import PRESETS, FeatureMap
from geomatch.keypoints import OpenCVDetector
from geomatch.synthetic import render_view

TINY = replace(PRESETS["dift-tiny-dense"], noise=True, image_size=320)
PAIR = geomatch.bundled_pair()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of two pairs in HPatches layout, made from the bundled photograph."""
    folder = tmp_path_factory.mktemp("hpatches")
    pixels = geomatch.load_image(PAIR.image0).pixels
    half = np.diag([0.5, 0.5, 1.0])
    for name, angle in (("v_turned", 0.1), ("i_shifted", 0.0)):
        (folder / name).mkdir()
        for number in (1, 2, 3):
            turn = angle * (number - 1)
            matrix = np.array(
                [
                    [np.cos(turn), -np.sin(turn), 8.0 * (number - 1)],
                    [np.sin(turn), np.cos(turn), 0],
                    [0, 0, 1],
                ]
            )
            view = render_view(pixels, matrix @ half, (320, 240))
            PILImage.fromarray(view).save(folder / name / f"{number}.ppm")
            if number > 1:
                np.savetxt(folder / name / f"H_1_{number}", matrix)
    return folder


@pytest.fixture
def task(data: Path) -> HomographyTask:
    return HomographyTask(data, OpenCVDetector("sift", max_keypoints=150))


def single_run(task: HomographyTask, extractor: DIFTExtractor) -> list[dict[str, object]]:
    def maps(image: Image, prompt: str | None = None) -> Iterator[tuple[str, FeatureMap]]:
        yield "", extractor.dense(image)

    return [row for unit in task.units for row in task.evaluate(unit, maps, [""])]


def test_cells_are_those_of_single_runs(task: HomographyTask, tmp_path: Path) -> None:
    """One pass for all layers and ensemble sizes gives what one extractor per cell gives."""
    grid = Grid((10, 60), ("up_blocks.0", 1), (1, 3))
    together = run_sweep(task, TINY, grid, tmp_path, progress=False)
    assert len(together.rows) == 2 * 2 * 2 * 4
    for timestep, layer, size in ((10, "up_blocks.0", 1), (60, 1, 3)):
        config = replace(TINY, timestep=timestep, layers=(layer,), ensemble_size=size)
        rows = single_run(task, DIFTExtractor(config))
        cell = [
            r
            for r in together.rows
            if (r["timestep"], r["layer"], r["ensemble_size"]) == (timestep, layer, size)
        ]
        for expected, found in zip(rows, cell, strict=True):
            assert found["pair"] == expected["pair"]
            assert found["matches"] == pytest.approx(expected["matches"], abs=2)
            assert found["correct_share"] == pytest.approx(expected["correct_share"], abs=0.03)


def test_stopping_and_going_on(task: HomographyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((10, 20), (0,))
    whole = run_sweep(task, TINY, grid, tmp_path / "whole", progress=False)
    assert whole.computed == 4
    original = HomographyTask.evaluate
    calls: list[str] = []

    def counted(self: HomographyTask, unit: str, maps: object, cells: object) -> object:
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, unit, maps, cells)  # type: ignore[arg-type]

    monkeypatch.setattr(HomographyTask, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(task, TINY, grid, tmp_path / "parts", progress=False)
    again = run_sweep(task, TINY, grid, tmp_path / "parts", progress=False)
    assert (again.computed, len(calls)) == (2, 5)  # two before the stop, the one stopped, two after
    assert again.rows == whole.rows
    # a larger grid adds only what is new; a repeated one nothing
    more = run_sweep(task, TINY, Grid((10, 20), (0, 1)), tmp_path / "parts", progress=False)
    assert more.computed == 4
    assert [row for row in more.rows if row["layer"] == 0] == whole.rows
    assert run_sweep(task, TINY, Grid((20,), (1,)), tmp_path / "parts", progress=False).computed == 0
    # other settings are another search
    other = run_sweep(task, replace(TINY, seed=1), Grid((10,), (0,)), tmp_path / "parts", progress=False)
    assert other.folder != more.folder
    # a broken file is computed again
    (more.folder / "i_shifted--t10.json").write_text("{")
    mended = run_sweep(task, TINY, grid, tmp_path / "parts", progress=False)
    assert (mended.computed, mended.rows) == (1, whole.rows)


def test_changed_data_is_computed_again(task: HomographyTask, data: Path, tmp_path: Path) -> None:
    grid = Grid((10,), (0,))
    run_sweep(task, TINY, grid, tmp_path, progress=False)
    path = data / "i_shifted" / "3.ppm"
    kept = path.read_bytes()
    path.write_bytes(kept[:-300] + b"\x00" * 300)
    try:
        assert (
            run_sweep(HomographyTask(data, task.detector), TINY, grid, tmp_path, progress=False).computed == 1
        )
        path.write_bytes(b"no picture")
        result = run_sweep(HomographyTask(data, task.detector), TINY, grid, tmp_path, progress=False)
        assert result.skipped.keys() == {"i_shifted"}
        assert {row["pair"] for row in result.rows} == {"v_turned 1-2", "v_turned 1-3"}
    finally:
        path.write_bytes(kept)


def test_scores_by_hand(tmp_path: Path) -> None:
    grid = Grid((0,), ("a",), (1, 2))
    where = {"timestep": 0, "layer": "a"}
    rows = [
        {**where, "ensemble_size": 1, "split": split, "corner_error_px": error, "correct_share": share}
        for split, error, share in (
            ("viewpoint", 0.5, 1.0),
            ("viewpoint", 4.0, 0.5),
            ("illumination", 3.0, 0.5),
            ("illumination", None, 0.0),
        )
    ]
    assert [accuracy(rows, t) for t in (1, 3, 5)] == [25, 50, 75]
    task = HomographyTask(tmp_path)
    scores = summarise(rows, grid, task.measures)
    assert [(s["split"], s["pairs"], s["failures"]) for s in scores] == [
        ("all", 4, 1),
        ("illumination", 2, 1),
        ("viewpoint", 2, 0),
    ]
    assert "| 0 | a | 1 | all | 4 | 25.0 | 50.0 | 75.0 | 50.0 | 1 |" in markdown(scores)
    pytest.importorskip("matplotlib")
    draw_heat_map(scores, grid, "by hand", tmp_path / "map.png", task.headline)
    with PILImage.open(tmp_path / "map.png") as picture:
        assert picture.size[0] > 300


def test_data_that_is_no_hpatches(tmp_path: Path) -> None:
    with pytest.raises(GeomatchError, match="no such folder"):
        find_sequences(tmp_path / "none")
    with pytest.raises(GeomatchError, match="no HPatches sequences there"):
        find_sequences(tmp_path)
    (tmp_path / "v_a").mkdir()
    (tmp_path / "v_a" / "H_1_2").write_text("1 0 0\n0 1 0\n")
    with pytest.raises(GeomatchError, match="image 1 is missing"):
        find_sequences(tmp_path)
    for number in (1, 2):
        PILImage.new("RGB", (8, 8)).save(tmp_path / "v_a" / f"{number}.png")
    with pytest.raises(GeomatchError, match=r"expected a 3 x 3 homography, got shape \(2, 3\)"):
        find_sequences(tmp_path)
    (tmp_path / "v_a" / "H_1_2").write_text("words")
    with pytest.raises(GeomatchError, match="no readable homography"):
        find_sequences(tmp_path)


@pytest.mark.parametrize(
    "values",
    [{"timesteps": ()}, {"layers": (1, 1)}, {"ensemble_sizes": (2, 2)}, {"ensemble_sizes": (0, 2)}],
    ids=str,
)
def test_wrong_grids(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Grid(**{"timesteps": (1,), "layers": (0,), **values})  # type: ignore[arg-type]


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    command = ["benchmark", "sweep", str(data), "--timesteps", "0,40", "--layers", "0,up_blocks.1"]
    command += ["--max-keypoints", "100", "--image-size", "160", "--out", str(tmp_path)]
    run: Callable[[], int] = lambda: main(command)  # noqa: E731
    assert run() == 0
    first = capsys.readouterr().out
    assert "| 40 | up_blocks.1 | 1 | all | 4 |" in first
    assert "computed    4 of 4 files" in first
    (folder,) = tmp_path.iterdir()
    assert {"settings.json", "results.json", "table.md", "heatmap.png"} <= {p.name for p in folder.iterdir()}
    scores = json.loads((folder / "results.json").read_text())["scores"]
    assert {score["split"] for score in scores} == {"all", "illumination", "viewpoint"}
    assert run() == 0
    assert "computed    0 of 4 files" in capsys.readouterr().out
    for extra, words in (
        (["--descriptor", "dift-tiny"], "dense features without projection head"),
        (["--timestep", "3"], "No such option"),
        (["--ensemble-sizes", "1,two"], "whole numbers"),
        (["--timesteps", "0,1000"], "timestep must be"),
        (["--layers", "0,70"], "layer 70: up_ft indices"),
    ):
        assert main([*command, *extra]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

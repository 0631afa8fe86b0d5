"""The search: methods of one run, with tables and pictures of its record."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import geomatch
from geomatch import DIFTExtractor
from geomatch.benchmarks.harness.sweep import Grid, SweepResult, run_sweep
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.pairs.evaluation import PairEvaluation
from geomatch.cli import main
from geomatch.dift import PRESETS
from geomatch.engine import LocalEngine, RunContext
from geomatch.estimators import OpenCVEstimator
from geomatch.geometry import corner_error, warp_points
from geomatch.keypoints import OpenCVDetector
from geomatch.matching import match_mutual
from geomatch.synthetic import render_view

TINY = replace(PRESETS["dift-tiny-dense"], head=False, noise=True, image_size=96, device="cpu")
METHOD = "sift+dift-tiny-dense[head=false,noise=true,image_size=96]"
PAIR = geomatch.bundled_pair()
GRID = Grid((10, 60), ("up_blocks.0", 1), (1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of two pairs in HPatches layout, made from the bundled photograph."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("hpatches")
    pixels = geomatch.load_image(PAIR.image0).pixels
    for name, angle in (("v_turned", 0.1), ("i_shifted", 0.0)):
        (folder / name).mkdir()
        for number in (1, 2, 3):
            turn, shift = angle * (number - 1), 8.0 * (number - 1)
            c, s = np.cos(turn), np.sin(turn)
            matrix = np.array([[c, -s, shift], [s, c, 0], [0, 0, 1]])
            view = render_view(pixels, matrix @ np.diag([0.25, 0.25, 1.0]), (160, 120))
            PILImage.fromarray(view).save(folder / name / f"{number}.ppm")
            if number > 1:
                np.savetxt(folder / name / f"H_1_{number}", matrix)
    return folder


def sweep(data: Path, out: Path, grid: Grid = GRID, method: str = METHOD) -> SweepResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    settings = Settings(max_keypoints=100, cache_features=False)
    return run_sweep("hpatches", data, PROTOCOLS["sweep"], method, grid, out, context, settings)


@pytest.fixture(scope="module")
def swept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return sweep(data, tmp_path_factory.mktemp("swept"))


def test_every_point_is_that_of_its_own_descriptor(swept: SweepResult, data: Path) -> None:
    """Mutual nearest neighbours of SIFT keypoints and MAGSAC++, written out."""
    assert swept.run.computed == 8 * 2
    rows = {(row["method"], row["pair"]): row for row in swept.run.record["rows"]}
    detector, estimator = OpenCVDetector("sift", max_keypoints=100), OpenCVEstimator()
    points = product(GRID.timesteps, GRID.layers, GRID.ensemble_sizes)
    for (timestep, layer, size), text in zip(points, swept.run.record["methods"], strict=True):
        assert text == METHOD.replace("]", f",t={timestep},layer={layer},ensemble={size}]")
        if (layer, size) not in (("up_blocks.0", 1), (1, 2)):
            continue
        extractor = DIFTExtractor(replace(TINY, timestep=timestep, layers=(layer,), ensemble_size=size))
        images = [geomatch.load_image(data / "v_turned" / f"{k}.ppm") for k in (1, 3)]
        found = [extractor.describe(image, detector.detect(image)) for image in images]
        assert found[0].descriptors is not None
        assert found[1].descriptors is not None
        matches = match_mutual(found[0].descriptors, found[1].descriptors).indices
        points0, points1 = (found[k].keypoints[matches[:, k]].astype(float) for k in (0, 1))
        truth = np.loadtxt(data / "v_turned" / "H_1_3")
        right = np.linalg.norm(warp_points(truth, points0) - points1, axis=1) <= 3
        estimate = estimator.estimate(points0, points1, images[0].size)
        row = rows[text, "v_turned 1-3"]
        assert row["matches"] == pytest.approx(len(matches), abs=2)
        assert row["precision@3"] == pytest.approx(right.mean(), abs=0.03)
        if estimate and row["errors_px"][0] is not None and row["matches"] == len(matches):
            expected = corner_error(estimate.matrix, truth, images[0].size)
            assert row["errors_px"][0] == pytest.approx(expected, rel=0.5)


def test_tables_and_pictures_are_made_of_the_rows(swept: SweepResult) -> None:
    (score,) = [s for s in swept.scores if s["split"] == "all" and s["timestep"] == 60 and s["layer"] == 1
                and s["ensemble"] == 2]  # fmt: skip
    own = [r for r in swept.run.record["rows"] if r["method"].endswith("t=60,layer=1,ensemble=2]")]
    errors = np.array([np.inf if row["errors_px"][0] is None else row["errors_px"][0] for row in own])
    assert (score["pairs"], score["failures"]) == (4, sum(row["reason"] is not None for row in own))
    assert [score[f"accuracy@{t}"] for t in (1, 3, 5)] == [100 * np.mean(errors <= t) for t in (1, 3, 5)]
    assert score["precision@3"] == pytest.approx(100 * np.mean([row["precision@3"] for row in own]))
    results, table, picture = swept.written
    assert json.loads(results.read_text()) == {"scores": swept.scores, "skipped": {}}
    assert table.read_text().count("| all |") == 8
    with PILImage.open(picture) as opened:
        assert opened.size[0] > 300


def test_stopping_and_going_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((10, 20), (0,))
    whole = sweep(data, tmp_path / "whole", grid)
    assert whole.run.computed == 4
    original = PairEvaluation.rows
    calls: list[int] = []

    def counted(self: Any, protocol: Any, wanted: list[int]) -> object:
        calls.append(len(wanted))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, protocol, wanted)

    monkeypatch.setattr(PairEvaluation, "rows", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(data, tmp_path / "parts", grid)
    again = sweep(data, tmp_path / "parts", grid)
    assert (again.run.computed, len(calls)) == (2, 5)  # two before the stop, the one stopped, two after
    assert again.scores == whole.scores
    # a larger grid adds only what is new; a repeated one nothing
    more = sweep(data, tmp_path / "parts", Grid((10, 20), (0, 1)))
    assert (more.run.computed, calls[5:]) == (4, [1] * 4)
    assert [score for score in more.scores if score["layer"] == 0] == whole.scores
    assert sweep(data, tmp_path / "parts", Grid((20,), (1,))).run.computed == 0
    # other settings are another search
    other = METHOD.replace("]", ",seed=1]")
    assert sweep(data, tmp_path / "parts", Grid((10,), (0,)), other).run.computed == 2


def test_a_model_in_a_folder_and_images_that_cannot_be_read(data: Path, tmp_path: Path) -> None:
    """Names of methods in the record have no folders, and rows that could not be measured have no scores."""
    folder = Path(geomatch.__file__).parent / "weights" / "dift-tiny"
    method = f"sift+{folder}[noise=true,image_size=64,head=false,sampling=dense]"
    shutil.copytree(data / "i_shifted", tmp_path / "data" / "i_shifted")
    grid = Grid((10,), (1,))
    found = sweep(tmp_path / "data", tmp_path / "out", grid, method)
    assert [(score["timestep"], score["pairs"]) for score in found.scores] == [(10, 2)]
    (tmp_path / "data" / "i_shifted" / "1.ppm").write_bytes(b"no image")
    found = sweep(tmp_path / "data", tmp_path / "out", grid, method)
    assert (found.scores, len(found.run.record["skipped"])) == ([], 1)


def test_wrong_grids() -> None:
    values: dict[str, Any]
    for values in {"timesteps": ()}, {"layers": (1, 1)}, {"ensemble_sizes": (2, 2)}, {"ensemble_sizes": (0,)}:
        with pytest.raises(ValueError, match=next(iter(values))):
            Grid(**{"timesteps": (1,), "layers": (0,), **values})


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "sweep", str(data), "--timesteps", "0,40", "--layers", "0,up_blocks.1"]
    command += ["--max-keypoints", "50", "--method", "sift+dift-tiny-dense[image_size=120]"]
    command += ["--workers", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "| 40 | up_blocks.1 | 1 | all | 4 |" in first
    assert "computed    8 evaluations of a sequence" in first
    (record,) = tmp_path.glob("hpatches-*.json")
    folder = record.with_suffix("")
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md", "heatmap.png"}
    assert main(command) == 0
    assert "computed    0 evaluations" in capsys.readouterr().out
    for option, value, words in (
        ("--method", "sift", "a sweep needs dense features"),
        ("--method", "sift+dift-tiny", "a sweep needs dense features"),
        ("--method", "sift+dift-tiny-dense[depth=3]", "unknown setting 'depth=3'"),
        ("--ensemble-sizes", "1,two", "whole numbers"),
        ("--timesteps", "0,1000", "timestep must be"),
        ("--layers", "0,70", "layer 70: the numbers of this model"),
        ("--prompt", "a hill", "--prompt has no meaning for hpatches"),
    ):
        assert main([*command, option, value]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

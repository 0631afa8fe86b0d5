"""Searches: values in braces are methods of one run."""

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
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings
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
PLAIN = "sift+dift-tiny-dense[head=false,noise=true,image_size=96]"
METHOD = PLAIN.replace("]", ",t={10,60},layer={up_blocks.0,1},ensemble={1,2}]")
PAIR = geomatch.bundled_pair()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of two pairs in HPatches layout, made from the bundled photograph."""
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


def search(data: Path, out: Path, method: str = METHOD) -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    return run_benchmark("hpatches", data, "sweep", method, out, context, Settings(100))


def test_every_point_is_that_of_its_own_descriptor(data: Path, tmp_path: Path) -> None:
    """Mutual nearest neighbours of SIFT keypoints and MAGSAC++, written out."""
    found = search(data, tmp_path)
    assert found.computed == 8 * 2
    rows = {(row["method"], row["pair"]): row for row in found.record["rows"]}
    detector, estimator = OpenCVDetector("sift", max_keypoints=100), OpenCVEstimator()
    points = product((10, 60), ("up_blocks.0", 1), (1, 2))
    for (timestep, layer, size), text in zip(points, found.record["methods"], strict=True):
        assert text == f"{PLAIN[:-1]},t={timestep},layer={layer},ensemble={size}]"
        if (layer, size) not in (("up_blocks.0", 1), (1, 2)):
            continue
        extractor = DIFTExtractor(replace(TINY, timestep=timestep, layers=(layer,), ensemble_size=size))
        images = [geomatch.load_image(data / "v_turned" / f"{k}.ppm") for k in (1, 3)]
        seen = [extractor.describe(image, detector.detect(image)) for image in images]
        assert seen[0].descriptors is not None
        assert seen[1].descriptors is not None
        matches = match_mutual(seen[0].descriptors, seen[1].descriptors).indices
        points0, points1 = (seen[k].keypoints[matches[:, k]].astype(float) for k in (0, 1))
        truth = np.loadtxt(data / "v_turned" / "H_1_3")
        right = np.linalg.norm(warp_points(truth, points0) - points1, axis=1) <= 3
        estimate = estimator.estimate(points0, points1, images[0].size)
        row = rows[text, "v_turned 1-3"]
        assert row["matches"] == pytest.approx(len(matches), abs=2)
        assert row["precision@3"] == pytest.approx(right.mean(), abs=0.03)
        if estimate and row["errors_px"][0] is not None and row["matches"] == len(matches):
            expected = corner_error(estimate.matrix, truth, images[0].size)
            assert row["errors_px"][0] == pytest.approx(expected, rel=0.5)


def test_stopping_and_going_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = PLAIN.replace("]", ",t={10,20},layer=0]")
    whole = search(data, tmp_path / "whole", grid)
    assert whole.computed == 4
    original = PairEvaluation.rows
    calls: list[int] = []

    def counted(self: Any, protocol: Any) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, protocol)

    monkeypatch.setattr(PairEvaluation, "rows", counted)
    with pytest.raises(KeyboardInterrupt):
        search(data, tmp_path / "parts", grid)
    again = search(data, tmp_path / "parts", grid)
    assert (again.computed, len(calls)) == (2, 5)  # two before the stop, the one stopped, two after
    assert again.summaries() == whole.summaries()
    # a larger grid adds only what is new; a part of it nothing
    more = search(data, tmp_path / "parts", grid.replace("layer=0", "layer={0,1}"))
    assert (more.computed, len(calls)) == (4, 9)
    assert [row for row in more.summaries() if "layer=0" in row["method"]] == whole.summaries()
    assert search(data, tmp_path / "parts", PLAIN.replace("]", ",t=20,layer=1]")).computed == 0
    # other settings are another search
    assert search(data, tmp_path / "parts", PLAIN.replace("]", ",t=10,layer=0,seed=1]")).computed == 2


def test_a_model_in_a_folder_and_images_that_cannot_be_read(data: Path, tmp_path: Path) -> None:
    """Names of methods in the record have no folders, and rows that could not be measured have no scores."""
    folder = Path(geomatch.__file__).parent / "weights" / "dift-tiny"
    method = f"sift+{folder}[noise=true,image_size=64,head=false,sampling=dense,t={{10}}]"
    shutil.copytree(data / "i_shifted", tmp_path / "data" / "i_shifted")
    found = search(tmp_path / "data", tmp_path / "out", method)
    assert {row["pairs"] for row in found.summaries()} == {2}
    assert not any("/" in name for name in found.record["methods"])
    (tmp_path / "data" / "i_shifted" / "1.ppm").write_bytes(b"no image")
    found = search(tmp_path / "data", tmp_path / "out", method)
    assert (found.summaries(), len(found.record["skipped"])) == ([], 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("depth={3,4}", "unknown setting 'depth=3'"),
        ("ensemble={1,two}", "ensemble cannot be 'two'"),
        ("t={0,1000}", "timestep must be"),
        ("layer={0,70},head=false", "layer 70: the numbers of this model"),
        ("layer={0,1}", "was fitted with"),
    ],
)
def test_wrong_points_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, words: str
) -> None:
    command = ["benchmark", "hpatches", str(data), "--method", f"sift+dift-tiny-dense[{settings}]"]
    assert main([*command, "--workers", "1", "--out", str(tmp_path)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert words in lines[-1]

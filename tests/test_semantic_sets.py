"""Readers of the data sets of semantic correspondence: what they make of whole ones, and of broken ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from correspondence_data import MOTIONS, POINTS, make_semantic

import geomatch
from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.tasks.semantic.data import Category
from geomatch.benchmarks.tasks.semantic.task import TASKS
from geomatch.cli import main
from geomatch.images import Image

LAYOUT = "Layout/large/test.txt"
CAT, PAIRS = "000001*cat.json", "test_pairs_pf.csv"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, photo0: Image) -> Path:
    return make_semantic(tmp_path_factory.mktemp("semantic"), photo0.pixels)


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


@pytest.mark.parametrize(
    ("dataset", "spoil", "words"),
    [
        ("spair", (CAT, '"trg_imname"', "trg_imname"), r"json: not a readable annotation .*line 3"),
        ("spair", (CAT, '"trg_kps"', '"other"'), "json: .*it lacks 'trg_kps'"),
        ("spair", (CAT, "  40", '  "x"'), "not a readable list of points"),
        ("spair", (CAT, "  120,\n  110", "  20,\n  20"), "has no extent"),
        ("spair", (CAT, '"cat"', '"a cat"'), "category must be a word"),
        ("spair", lambda f: next(f.rglob("000002*dog.json")).unlink(), r"test\.txt:4: .*is missing"),
        ("spair", lambda f: (f / LAYOUT).write_text("\n"), "no annotated pair"),
        ("spair", lambda f: (f / LAYOUT).write_text("000001-2008_0-2008_1:cat\n" * 2), "twice"),
        ("willow", (PAIRS, "60.0000", "sixty"), "csv:2: not a readable list of points"),
        ("willow", (PAIRS, "60.0000,", ""), "csv:2: expected 42"),
        ("willow", (PAIRS, "(S)/060_0000.png", "/../.."), "2: expected im"),
        ("willow", lambda f: (f / PAIRS).unlink(), "csv: no such file"),
        ("cub", ("part_locs.txt", "1 2 80.0", "1 2 nan"), "locs.txt:2: expected"),
        ("cub", ("bounding_boxes.txt", "2 20.0", "20.0"), "boxes.txt:2: expected"),
        ("cub", ("bounding_boxes.txt", "100.0 90.0", "0.0 0.0"), "boxes.txt:1: a box"),
        ("cub", ("train_test_split.txt", "3 0", ""), "image 3 of images.txt is missing"),
    ],
)
def test_broken_annotations_are_refused_with_file_and_line(
    dataset: str, spoil: Any, words: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if callable(spoil):
        spoil(data / dataset)
    else:
        name, old, new = spoil
        (path,) = (data / dataset).rglob(name)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    with pytest.raises(geomatch.GeomatchError, match=words):
        find_task(dataset).read(data / dataset, None)
    assert main(["benchmark", dataset, str(data / dataset)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_the_loaders_read(pristine: Path) -> None:
    found: dict[str, DataSet[Category]] = {
        name: find_task(name).read(pristine / name, None) for name in TASKS
    }
    assert [category.name for category in found["spair"].units] == ["cat", "dog"]
    cat = found["spair"].units[0]
    assert [pair.name for pair in cat.pairs] == ["2008_0-2008_1", "2008_0-2008_2"]
    assert cat.pairs[0].box_side == 100
    assert [(c.name, c.words) for c in found["willow"].units] == [("duck(S)", "duck")]
    pair = found["willow"].units[0].pairs[1]
    np.testing.assert_allclose(pair.points1, geomatch.warp_points(MOTIONS[2], POINTS), atol=1e-3)
    assert pair.box_side == pytest.approx(float(np.ptp(pair.points1, axis=0).max()))
    (birds,) = found["cub"].units
    assert len(birds.pairs) == 6
    counts = {pair.name: len(pair.points0) for pair in birds.pairs}
    assert counts == {"1-2": 9, "1-3": 10, "2-1": 9, "2-3": 9, "3-1": 10, "3-2": 9}  # a part is hidden in 2
    assert birds.pairs[0].box_side == 100
    with pytest.raises(ValueError, match="unknown split"):
        find_task("spair").read(pristine / "spair", "train")
    with pytest.raises(ValueError, match="has no splits"):
        find_task("cub").read(pristine / "cub", "test")


def test_birds_are_spread_over_the_release(tmp_path: Path) -> None:
    """350 of 1000 test images, the first and the last among them, in 14 splits of 25."""
    (tmp_path / "parts").mkdir()
    numbers = range(1, 1001)
    rows = {"images": "{0} 001.A/{0}.jpg", "bounding_boxes": "{0} 1.0 2.0 30.0 40.0",
            "train_test_split": "{0} 0", "parts/part_locs": "{0} 1 10.0 12.0 1\n{0} 2 0.0 0.0 0"}  # fmt: skip
    for name, line in rows.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(line.format(k) for k in numbers) + "\n")
    found = find_task("cub").read(tmp_path, None)
    assert [len(category.pairs) for category in found.units] == [25 * 24] * 14
    images = {path for category in found.units for path in category.images}
    assert len(images) == 350
    assert {Path("images/001.A/1.jpg"), Path("images/001.A/1000.jpg")} <= images
    assert not found.complete  # no image is there

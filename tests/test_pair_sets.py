"""Folders of pairs with homographies, WxBS, and variants of protocols, on made-up data with known answers."""

import json
import sys
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

import geomatch
from geomatch.benchmarks.harness.measures import mean_accuracy
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings, find_task
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.homography.protocols import PAIR_PROTOCOLS, PROTOCOLS, with_change
from geomatch.benchmarks.tasks.homography.sequences import read_planes
from geomatch.benchmarks.tasks.pairs.changes import CHANGES, changed
from geomatch.benchmarks.tasks.pairs.matches import line_distances
from geomatch.cli import main
from geomatch.engine import LocalEngine, RunContext
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.types import Features

sys.path.append(str(Path(__file__).parent / "helpers"))
from correspondence_data import save, view

SCHEMA = files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text()
RECORD = jsonschema.Draft202012Validator(json.loads(SCHEMA))
SIZE = (200, 150)
TRUTH = np.array([[1.05, 0.04, -6.0], [-0.03, 0.97, 4.0], [1e-4, -5e-5, 1.0]])
BEHIND = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 150, 0, 1]])
"""A plane whose points from x = 150 on lie behind the second camera."""


@dataclass(frozen=True)
class Exact:
    """Matches a grid by the truth, wherever it leads into image 1; between images of any names."""

    truth: tuple[float, ...]
    empty: bool = False
    noise: float = 0.0

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        matrix = np.reshape(self.truth, (3, 3))
        x, y = np.meshgrid(np.arange(2, image0.size[0], 7.0), np.arange(2, image0.size[1], 7.0))
        points0 = np.column_stack([x.ravel(), y.ravel()])
        points1 = warp_points(matrix, points0)
        inside = (points1 >= 0).all(1) & (points1 <= np.array(image1.size) - 1).all(1)
        inside &= points0 @ matrix[2, :2] + matrix[2, 2] > 0
        if self.empty:
            inside[:] = False
        scores = np.ones(inside.sum(), np.float32)
        points1 = points1 + np.random.default_rng(0).normal(0, self.noise, points1.shape)
        return Features(points0[inside], scores, image0.size), Features(points1[inside], scores, image1.size)


def exact(matrix: np.ndarray, **changes: Any) -> Method:
    return Method("exact", pair_matcher=Exact(tuple(matrix.ravel().tolist()), **changes))


def run(task: str, data: Path, protocols: Any, methods: dict[str, Any], **settings: Any) -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    result = run_benchmark(
        task, data, protocols, methods, data.parent / "out", context, Settings(500, **settings)
    )
    RECORD.validate(json.loads(result.path.read_text()))
    return result


def images(folder: Path, photo: np.ndarray, names: tuple[str, str], matrix: np.ndarray = TRUTH) -> None:
    small = cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA)
    save(folder / names[0], small)
    save(folder / names[1], view(small, matrix, SIZE))


def make_set(task: str, folder: Path, photo: np.ndarray, matrix: np.ndarray = TRUTH) -> Path:
    """One pair in the layout of a task; its name is ``graf`` where it has one."""
    if task == "evd":
        images(folder, photo, ("EVD/1/graf.png", "EVD/2/graf.png"), matrix)
        (folder / "EVD" / "h").mkdir()
        lines = "\n".join("\t".join(f"{3 * value:.20f}" for value in row) for row in matrix)
        (folder / "EVD" / "h" / "graf.txt").write_text(lines)
    elif task == "homogr":
        from scipy.io import savemat

        images(folder, photo, ("grafA.png", "grafB.png"), matrix)
        np.savetxt(folder / "graf_model.txt", np.linalg.inv(matrix))
        points = np.array([[20.0, 30], [90, 40], [60, 100]])
        both = np.vstack(
            [np.insert(points, 2, 1, 1).T, 2 * np.insert(warp_points(matrix, points), 2, 1, 1).T]
        )
        savemat(folder / "graf_vpts.mat", {"validation": {"pts": both}})
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
        assert ("points mAA@20" in found) == (task == "homogr")
    assert set(wrong.values()) == set(wrong_evd.values()) == {0}
    assert right.keys() == wrong.keys()
    again = run(task, data, "all", methods)
    assert (again.computed, again.record) == (0, result.record)
    assert str(tmp_path) not in str(again.record["rows"])


def test_the_other_direction_of_homogr_is_wrong(tmp_path: Path, photo0: Image) -> None:
    data = make_set("homogr", tmp_path / "data", photo0.pixels)
    (found,) = scores(run("homogr", data, "pairs", {"turned": exact(np.linalg.inv(TRUTH))}))
    assert found["visible mAA@20"] < 50
    assert found["points accuracy@3"] == 0


def test_a_truth_of_ones_own_goes_from_image_0_to_1_whatever_its_name(tmp_path: Path, photo0: Image) -> None:
    data = make_set("pairs", tmp_path / "data", photo0.pixels)
    (data / "a" / "H").rename(data / "a" / "own_model.txt")
    (data / "pairs.txt").write_text("a/x.png a/y.png a/own_model.txt\n")
    (scene,) = read_planes("pairs", data).units
    assert scene.pairs[0].truth.matrix == pytest.approx(TRUTH)


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
    for (
        summary
    ) in result.summaries():  # a corner behind the plane is no reason to refuse the estimate, either
        assert (summary["visible mAA@20"], summary["without corner error"]) == (100, 1)
        assert "accuracy@3" not in summary
    command = [
        "benchmark",
        "evd",
        str(data),
        "--method",
        "orb",
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    main([*command, "--max-keypoints", "50"])
    assert "warning     graf 1-2: a corner of image 0 lies behind" in capsys.readouterr().err


def test_confirmed_truth_is_a_split_of_its_own(tmp_path: Path, photo0: Image) -> None:
    data = make_set("oxford", tmp_path / "data", photo0.pixels)
    make_set("oxford", tmp_path / "other", photo0.pixels)
    (tmp_path / "other" / "graf").rename(data / "wall")
    (data / "confirmed.txt").write_text("wall \nbark\n\n")
    counts = {
        row["split"]: row["pairs"] for row in run("oxford", data, "evd", {"a": exact(TRUTH)}).summaries()
    }
    assert counts == {"confirmed": 1, "unconfirmed": 1, "all": 2}
    (data / "confirmed.txt").write_text("wal\n")
    with pytest.raises(geomatch.GeomatchError, match="no scene is called wal; there are graf, wall"):
        read_planes("oxford", data)


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


@pytest.fixture
def wxbs(tmp_path: Path, photo0: Image) -> Path:
    """Two views of a plane, whose points lie on the epipolar lines of infinitely many matrices."""
    root = tmp_path / "wxbs" / "v1.1"
    points = np.array([[20.0, 30], [90, 40], [60, 100], [150, 90]])
    for name in ("WGBS/kyiv", "WLABS/kyiv", "WGABS/petrzin"):
        images(root / name, photo0.pixels, ("01.png", "02.png"))
        np.savetxt(root / name / "corrs.txt", np.hstack([points, warp_points(TRUTH, points)]))
    save(root / "WGBS" / "kyiv" / "03.png", photo0.pixels)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "WGBS" / ".DS_Store").write_bytes(b"x")
    return root.parent


@dataclass(frozen=True)
class Partners:
    """Exact for two images of a motion, whichever comes first, and for a point that is given."""

    shift: float = 0.0

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        x, y = np.meshgrid(np.arange(5, 190, 9.0), np.arange(5, 140, 9.0))
        points = np.column_stack([x.ravel(), y.ravel()])
        # a second plane makes the matrix unique
        other = TRUTH @ np.diag([1, 1, 1.0]) + np.outer([25.0, 3.0, 0.02], [0.002, 0.001, 0.3])
        side = (np.arange(len(points)) % 2).astype(bool)[:, None]
        moved = np.where(side, warp_points(other, points), warp_points(TRUTH, points)) + self.shift
        scores = np.ones(len(points), np.float32)
        return Features(points, scores, image0.size), Features(moved, scores, image1.size)

    def match_points(self, image0: Image, image1: Image, points: np.ndarray) -> np.ndarray:
        matrix = TRUTH if image0.name.endswith("01.png") else np.linalg.inv(TRUTH)
        return warp_points(matrix, points) + self.shift


def test_wxbs_by_its_protocols(wxbs: Path) -> None:
    methods = {
        "exact": Method("x", pair_matcher=Partners()),
        "none": exact(TRUTH, empty=True),
        "orb": create_method("orb", 200),
    }
    result = run("wxbs", wxbs, "all", methods)
    assert list(result.record["data"]["units"]) == ["WGBS/kyiv", "WLABS/kyiv"]
    assert "(2 of 32 pairs)" in str(result.warning)
    found = {(row["protocol"], row["method"]): row for row in result.summaries() if row["split"] == "all"}
    # at 0 px nothing that is computed is right
    for name in ("wxbs-f", "wxbs-f-loma"):
        assert found[name, "exact"]["mAA@10"] == pytest.approx(100 * 10 / 11, abs=10)
        assert found[name, "exact"]["failures"] == 0
        assert found[name, "none"]["failures"] == 2
    assert found["wxbs-pck", "exact"]["mAA@10"] == pytest.approx(100, abs=100 / 11)
    assert found["wxbs-f", "none"]["mAA@10"] == found["wxbs-f", "none"]["mAA@19"] == 0
    # the stand-in's lines are level: points as far from them as they moved vertically, by the root of two
    (row,) = [r for r in result.record["rows"] if r["protocol"] == "wxbs-f-loma" and r["method"] == "none"][
        :1
    ]
    corrs = np.loadtxt(wxbs / "v1.1" / "WGBS" / "kyiv" / "corrs.txt")
    assert row["errors"] == pytest.approx(np.abs(corrs[:, 1] - corrs[:, 3]) * 2**0.5)
    assert "finds no partners" in result.record["skipped"]["orb under wxbs-pck"]
    shifted = run(
        "wxbs", wxbs, "wxbs-pck", {"off": Method("off", pair_matcher=Partners(3.0))}, split="validation"
    )
    assert list(shifted.record["data"]["units"]) == ["WGABS/petrzin"]
    assert "(1 of 2 pairs)" in str(shifted.warning)
    (row,) = shifted.record["rows"]
    assert row["errors"] == pytest.approx([18**0.5] * 8)
    assert shifted.summaries()[-1]["mAA@10"] == pytest.approx(100 * 6 / 11)  # 5 to 10 px of 0 to 10
    wrong = Method("wrong", pair_matcher=Partners(np.zeros((2, 1, 2))))
    (row,) = run("wxbs", wxbs, "wxbs-pck", {"wrong": wrong}, split="validation").record["rows"]
    assert "match_points returned shape" in row["reason"]


def test_dense_descriptors_find_partners_of_points(wxbs: Path) -> None:
    method = create_method("sift+dift-tiny-dense[image_size=64]", 50)
    (row, _) = run("wxbs", wxbs, "wxbs-pck", {"dense": method}).record["rows"]
    assert len(row["errors"]) == 8
    assert row["reason"] is None


def test_line_distances_by_hand() -> None:
    """Level lines, y0 and y1 apart by 3; a matrix whose lines are x = 2 in one image, y = 1 in the other."""
    level = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert line_distances(level, np.array([[5.0, 4, 70, 7]])) == pytest.approx([3 * 2**0.5])
    some = np.array([[1e-6, 3e-5, -0.02], [-2e-5, 4e-6, 0.01], [0.03, -0.02, 1.0]])
    places = np.random.default_rng(0).uniform(0, 300, (20, 4))
    swapped = line_distances(some.T, np.roll(places, 2, axis=1))
    assert line_distances(some, places) == pytest.approx(swapped)
    product = np.outer([0.0, 1, -1], [1.0, 0, -2])  # (y1 - 1) (x0 - 2)
    assert line_distances(product, np.array([[6.0, 9, 0, 4]])) == pytest.approx([(4**2 + 3**2) ** 0.5])


@pytest.mark.parametrize("change", ["rotation=30", "rotation=90", "rotation=210", "scale=0.5", "scale=1.41"])
def test_a_spot_goes_where_the_matrix_says(change: str) -> None:
    x, y = np.meshgrid(np.arange(120.0), np.arange(80.0))
    for place in ([30.0, 50.0], [90.5, 20.25]):
        spot = 255 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 50)
        image, matrix = changed(Image(np.repeat(spot[..., None], 3, 2).round().astype(np.uint8), "a"), change)
        weights = image.pixels[..., 0].astype(float)
        rows, columns = np.indices(weights.shape)
        found = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
        assert warp_points(matrix, [place])[0] == pytest.approx(found, abs=0.05)


def test_changes_of_an_image(photo0: Image) -> None:
    image = Image(photo0.pixels[:90, :120], "a")
    for name, (_, strengths) in CHANGES.items():
        for strength in strengths:
            shown, matrix = changed(image, f"{name}={strength:g}")
            again, _ = changed(image, f"{name}={strength:g}")
            assert np.array_equal(shown.pixels, again.pixels)
            corners = warp_points(matrix, [[0, 0], [119, 0], [119, 89], [0, 89]])
            assert (corners >= -0.5).all()
            assert (corners <= np.array(shown.size) - 0.5).all()
            if name not in ("rotation", "scale"):
                assert np.array_equal(matrix, np.eye(3))
    for same in ("rotation=0", "scale=1", "noise=0", "blur=0", "darkness=1", "resolution=1"):
        assert np.array_equal(changed(image, same)[0].pixels, image.pixels)
    assert np.array_equal(changed(image, "rotation=90")[0].pixels, np.rot90(image.pixels, -1))
    assert np.std(changed(image, "noise=20")[0].pixels.astype(float) - image.pixels) == pytest.approx(
        20, rel=0.1
    )
    assert changed(image, "darkness=4")[0].pixels.mean() == pytest.approx(image.pixels.mean() / 4, rel=0.02)


@dataclass(frozen=True)
class Spots:
    """Matches spots of different colours by their centres."""

    colours: tuple[tuple[int, int, int], ...]

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        found = []
        directions = np.array(self.colours, float) / np.linalg.norm(self.colours, axis=1, keepdims=True)
        for image in (image0, image1):
            bright = np.linalg.norm(image.pixels.astype(float), axis=2)
            nearest = (image.pixels @ directions.T).argmax(2)
            rows, columns = np.indices(bright.shape)
            own = [np.where((nearest == k) & (bright > 30), bright, 0) for k in range(len(directions))]
            points = [[(w * columns).sum() / w.sum(), (w * rows).sum() / w.sum()] for w in own]
            found.append(Features(np.array(points), np.ones(len(points)), image.size))
        return found[0], found[1]


def test_variants_of_an_exact_matcher_are_right_at_every_strength(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = tuple(c for c in np.ndindex(3, 3, 3) if max(c) == 2)[::3]
    rng, picture = np.random.default_rng(2), np.zeros((100, 140, 3), np.uint8)
    x, y = np.meshgrid(np.arange(20, 140, 33), np.arange(20, 100, 30))
    places = rng.permutation(np.column_stack([x.ravel(), y.ravel()]))[: len(colours)].tolist()
    for place, colour in zip(places, colours, strict=True):
        cv2.circle(picture, place, 8, tuple(127 * c for c in colour), -1, cv2.LINE_AA)
    folder = tmp_path / "data" / "v_spots"
    matrix = np.array([[1.0, 0, 4], [0, 1, -3], [0, 0, 1]])
    save(folder / "1.png", picture)
    save(folder / "2.png", view(picture, matrix, (140, 100)))
    np.savetxt(folder / "H_1_2", matrix)
    plain = replace(PROTOCOLS["geomatch"], name="plain", solver="ransac 3", seeds=1)
    every = [with_change(plain, name) for name in ("rotation", "scale")]
    task = find_task("hpatches")
    result = run(
        "hpatches", tmp_path / "data", every, {"spots": Method("spots", pair_matcher=Spots(colours))}
    )
    for protocol in every:
        found = [row for row in result.summaries() if row["protocol"] == protocol.name]
        by_strength = {row["split"]: row["accuracy@3"] for row in found if "=" in row["split"]}
        assert by_strength == {f"{protocol.change}={s:g}": 100 for s in protocol.strengths}
        rows = [row for row in result.record["rows"] if row["protocol"] == protocol.name]
        x_values, y_values = task.curve(protocol, rows)
        assert x_values.tolist() == list(protocol.strengths)
        assert set(y_values) == {100}
        assert task.protocol_of(json.loads(json.dumps(result.record["protocols"][protocol.name]))) == protocol
    with pytest.raises(ValueError, match="no variant 'fog' of geomatch; choose from: rotation"):
        with_change(PROTOCOLS["geomatch"], "fog")
    with pytest.raises(ValueError, match="no variant 'blur' of superpoint"):
        with_change(PROTOCOLS["superpoint"], "blur")
    with pytest.raises(ValueError, match="no variant 'fog' of own"):
        replace(plain, name="own", change="fog", strengths=(1.0,))
    with pytest.raises(ValueError, match="with strengths"):
        replace(plain, change="blur")
    files_of = create_method(f"npz:{tmp_path}:mine")
    assert "as they are" in str(task.undefined(every[0], files_of))
    command = ["benchmark", "hpatches", str(tmp_path / "data"), "--method", "orb", "--protocol", "geomatch"]
    assert main([*command, "--variant", "blur", "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "### geomatch-blur" in capsys.readouterr().out
    assert main([*command, "--variant", "fog"]) == 2


def test_pair_protocols_are_those_of_the_sets() -> None:
    with pytest.raises(ValueError, match="own: the headline must be visible"):
        replace(PAIR_PROTOCOLS["pairs"], name="own", headline="accuracy@3")
    assert list(find_task("evd").protocols) == list(PAIR_PROTOCOLS)
    assert find_task("homogr").whole == 16

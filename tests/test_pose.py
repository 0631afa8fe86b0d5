"""The benchmark of relative pose: published layouts, protocols, and errors where theory has them."""

import json
import pickle
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import posed_data as made
import pytest
from PIL import Image as PILImage
from posed_data import Knows, make_list, make_megadepth, make_model, make_scannet, relative

import geomatch
from geomatch.benchmarks.harness.leaderboard import published_rows
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings, find_task
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.pairs.views import FramedPair
from geomatch.benchmarks.tasks.pose import task as evaluation
from geomatch.benchmarks.tasks.pose.data import Camera, RelativePose, read_cameras
from geomatch.benchmarks.tasks.pose.protocols import MEGADEPTH, POSE, SCANNET
from geomatch.benchmarks.tasks.pose.task import epipolar_distances, evaluate, pose_errors, solve
from geomatch.cli import main
from geomatch.engine import LocalEngine, RunContext
from geomatch.types import Features

SCHEMA = json.loads(files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text())
LIMITS = ("AUC@5", "AUC@10", "AUC@20")


def run(name: str, data: Path, out: Path, *methods: Method, protocols: Any = "all") -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    return run_benchmark(name, data, protocols, list(methods), out, context, Settings(300))


@pytest.mark.parametrize(
    ("name", "make", "lens", "corner"),
    [
        ("megadepth", make_megadepth, 0.0, True),
        ("scannet", make_scannet, 0.0, False),
        ("pose", make_list, 0.0, False),
        ("pose", make_model, -0.08, True),
    ],
)
def test_exact_matches_give_100_and_none_give_0(
    name: str, make: Any, lens: float, corner: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each layout, whatever its pixel origin and lens, in the frame of every protocol."""
    if name == "scannet":  # one camera for all images
        monkeypatch.setattr(made, "MATRICES", made.MATRICES[[0, 0, 0]])
    data = make(tmp_path / "data")
    methods = {
        shift: Method(f"shift{shift}", pair_matcher=Knows(shift, lens)) for shift in (0.0, 0.5)
    }  # fmt: skip
    nothing = Method("nothing", pair_matcher=Knows(count=0))
    protocols = {p.name: replace(p, seeds=min(2, p.seeds)) for p in find_task(name).protocols.values()}
    given = list(protocols.values())
    result = run(name, data, tmp_path / "out", *methods.values(), nothing, protocols=given)
    jsonschema.validate(json.loads(result.path.read_text()), SCHEMA)
    assert {row["reason"] for row in result.record["rows"] if row["method"] == "nothing"} == {
        "no essential matrix among 0 matches"
    }
    for row in result.summaries():
        protocol = protocols[row["protocol"]]
        counts = corner if protocol.corner_origin is None else protocol.corner_origin
        measures = [row[limit] for limit in (*LIMITS, f"precision@{protocol.precision:g}")]
        if row["method"] == "nothing":
            assert measures == [0] * 4
        elif row["method"] == f"shift{0.5 * counts}":
            assert measures == pytest.approx([100] * 4, abs=0.1), row
        else:
            assert measures[0] < 99.9
    assert run(name, data, tmp_path / "out", *methods.values(), nothing, protocols=given).computed == 0


def test_layouts_say_what_is_there(tmp_path: Path) -> None:
    data = make_megadepth(tmp_path / "mega" / "megadepth_test_1500").parent
    for index in (data / "megadepth_test_1500").glob("*.npz"):
        index.rename(data / index.name)
    found = read_cameras("megadepth", data)
    assert [pair.name for pair in found.units[0].pairs] == ["0015 0-2", "0015 2-4", "0015 0-4"]
    assert found.units[0].pairs[0].truth.matrix == pytest.approx(relative(0, 1))
    assert (found.complete, found.missing) == (False, "1497 pairs")
    before = found.units[0].fingerprint
    (data / "megadepth_test_1500/Undistorted_SfM/0015/images/13.jpg").unlink()
    found = read_cameras("megadepth", data)
    assert len(found.units[0].pairs) == 1
    assert found.units[0].fingerprint != before
    assert "2 pairs lack an image, such as" in found.broken["0015"]
    own = read_cameras("scannet", make_scannet(tmp_path / "own", own=True)).units[0].pairs[0]
    depth = read_cameras("scannet", make_scannet(tmp_path / "depth")).units[0].pairs[0].truth.cameras[0]
    assert own.truth.cameras[0].matrix == pytest.approx(made.MATRICES[0])
    assert depth.size == (640, 480)
    make_list(tmp_path / "two" / "a")
    model = make_model(tmp_path / "two" / "b")
    scenes = read_cameras("pose", tmp_path / "two").units
    assert [(scene.name, len(scene.pairs)) for scene in scenes] == [("a", 3), ("b", 2)]  # 0 and 2 share none
    (model / "images" / "12.jpg").unlink()
    assert read_cameras("pose", tmp_path / "two").missing == "2 pairs"


class Evil:
    def __reduce__(self) -> Any:
        return eval, ("open('stolen', 'w')",)


def test_indexes_that_name_anything_but_arrays_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Evil(), {"pair_infos": [Evil()]}, np.array([Evil()], object)):
        Path("index.npz").write_bytes(pickle.dumps(content))
        with pytest.raises(geomatch.GeomatchError, match=r"index\.npz: not a readable .*builtins\.eval"):
            read_cameras("megadepth", tmp_path)
    assert main(["benchmark", "megadepth", "."]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("stolen").exists()


def test_faults_are_one_line(tmp_path: Path) -> None:
    data = make_list(tmp_path / "list")
    lines = data / "pairs_with_gt.txt"
    first = lines.read_text().split("\n")[0]
    parts = first.split()
    for bad, words in (
        ([*parts[:2], "1", "0", *parts[4:]], ":2: .*turned first"),
        ([*parts[:4], "x", *parts[5:]], ":2: not a readable line of 38 columns"),
        ([*parts, "1"], ":2: .*it has 39"),
        ([*parts[:22], "2", *parts[23:]], "list 11-12 needs .* a rotation"),
    ):
        lines.write_text(f"{first}\n{' '.join(bad)}\n")
        with pytest.raises(geomatch.GeomatchError, match=words):
            read_cameras("pose", data)
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("scannet", "www.scan-net.org"),
        ("megadepth", "geomatch data megadepth"),
        ("pose", "38 columns"),
    ):
        with pytest.raises(geomatch.GeomatchError, match=words):
            read_cameras(name, tmp_path / "empty")
        with pytest.raises(ValueError, match="no splits"):
            read_cameras(name, tmp_path / "empty", "test")


def test_an_image_that_its_camera_is_not_for_is_no_answer(tmp_path: Path) -> None:
    data = make_model(tmp_path / "turned")
    cameras = data / "sparse" / "0" / "cameras.txt"
    cameras.write_text(cameras.read_text().replace("OPENCV 324 242", "OPENCV 242 324"))
    result = run("pose", data, tmp_path / "out", Method("m", pair_matcher=Knows(0.5)), protocols="pose")
    assert "the image is 324x242, its camera is for 242x324" in next(iter(result.record["skipped"].values()))
    data = make_megadepth(tmp_path / "mega")
    path = data / "Undistorted_SfM" / "0015" / "images" / "12.jpg"
    for size, errors in (((162, 121), 0), ((200, 242), 2)):  # reduced, and cut
        PILImage.new("RGB", size).save(path)
        found = run(
            "megadepth", data, tmp_path / "out", Method("m", pair_matcher=Knows(0.5)), protocols="megadepth"
        )
        rows = found.record["rows"]
        assert sum("its camera is for 324x242" in (row["reason"] or "") for row in rows) == errors


def test_pose_errors_where_theory_has_them(rng: np.random.Generator) -> None:
    truth = np.eye(4)
    truth[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.4, 0.2]))[0]
    truth[:3, 3] = [1.0, 0, 0]
    turn = cv2.Rodrigues(np.radians(30) * np.array([0, 0.6, 0.8]))[0]
    for degrees, folded in ((0, 0), (10, 10), (90, 90), (100, 80), (180, 0)):
        direction = 7 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0])
        expected = (max(30, folded), 30, folded, degrees)
        assert pose_errors(truth, truth[:3, :3] @ turn, direction) == pytest.approx(expected, abs=1e-5)
    assert pose_errors(truth, truth[:3, :3], np.zeros(3)) is None
    assert pose_errors(truth, np.full((3, 3), np.nan), truth[:3, 3]) is None
    # a point off its line by d in one image: d squared, and as much again in the other under pure translation
    level = np.eye(4)
    level[0, 3] = 1.0
    rays = rng.normal(size=(20, 2))
    assert epipolar_distances(level, rays, rays + np.array([0.3, 0.01])) == pytest.approx(np.full(20, 2e-4))
    noisy = rng.normal(size=(20, 2))
    swapped = epipolar_distances(np.linalg.inv(truth), noisy, rays)
    assert epipolar_distances(truth, rays, noisy) == pytest.approx(swapped)


def synthetic(noise: float, rng: np.random.Generator, far: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """Rays of both cameras, with a fifth of them wrong, and focal lengths."""
    size = np.array([1.5, 1.0, 2.0]) * max(1.0, far / 4)
    points = rng.uniform(-size, size, (200, 3)) + np.array([0, 0, 6 + 2 * far])
    seen = points @ relative(0, 1)[:3, :3].T + relative(0, 1)[:3, 3]
    rays = [p[:, :2] / p[:, 2:] + rng.normal(0, noise, (200, 2)) for p in (points, seen)]
    if not far:
        rays[1][:40] = rng.uniform(-0.4, 0.4, (40, 2))
    return rays[0], rays[1], np.array([300.0, 310.0]), np.array([350.0, 340.0])


@pytest.mark.parametrize("estimator", ["poselib", "ransac", "usac_magsac", "lmeds"])
def test_estimators_and_swapped_images(estimator: str, rng: np.random.Generator) -> None:
    rays0, rays1, focal0, focal1 = synthetic(2e-4, rng)
    protocol = replace(POSE["pose"], estimator=estimator)
    there = solve(protocol, rays0, rays1, focal0, focal1)
    back = solve(protocol, rays1, rays0, focal1, focal0)
    for found, truth in ((there, relative(0, 1)), (back, relative(1, 0))):
        assert found is not None
        errors = pose_errors(truth, *found[:2])
        assert errors is not None
        assert max(errors[0], errors[3]) < 3
        assert 100 < found[2] <= 175
    assert solve(protocol, rays0[:4], rays1[:4], focal0, focal1) is None


def test_slips_of_others_are_theirs_only(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of SuperGlue's code, the threshold's frame, and a limit of depth that nobody meant."""
    thresholds = []

    def noted(*arguments: Any) -> tuple[None, None]:
        thresholds.append(arguments[5])
        return None, None

    cameras = tuple(
        Camera(np.array([[a, 0, 80], [0, b, 60], [0, 0, 1.0]])) for a, b in ((100, 110), (200, 220))
    )
    truth = RelativePose((cameras[0], cameras[1]), relative(0, 1))
    features = [Features(rng.uniform(0, 60, (30, 2)), np.ones(30), (160, 120)) for _ in range(2)]
    for protocol in (MEGADEPTH["megadepth-loftr"], MEGADEPTH["megadepth-roma"], SCANNET["scannet-superglue"],
                     replace(POSE["pose"], estimator="ransac")):  # fmt: skip
        pair = FramedPair(*features, np.eye(3), np.eye(3))
        with monkeypatch.context() as patched:
            patched.setattr(evaluation.cv2, "findEssentialMat", noted)
            assert evaluate(replace(protocol, seeds=1), pair, None, truth)["errors_deg"] == [None]
    size = 640 / 160  # and 480 / 120
    expected = [0.5 / 160, 0.5 / (157.5 * 1200 / 160), 1 / (160 * size), 1 / 157.5]
    assert thresholds == pytest.approx(expected)
    far = synthetic(0, rng, far=100.0)
    assert solve(MEGADEPTH["megadepth-roma"], *far) is None
    found = solve(replace(MEGADEPTH["megadepth-roma"], max_depth=POSE["pose"].max_depth), *far)
    assert found is not None
    assert (pose_errors(relative(0, 1), *found[:2]) or (90,))[0] < 0.1
    import poselib

    known = dict(poselib.RansacOptions())
    assert known["max_epipolar_error"] > 0
    known["max_error"] = known.pop("max_epipolar_error")
    monkeypatch.setattr(poselib, "RansacOptions", lambda: known)
    with pytest.raises(geomatch.GeomatchError, match="no option max_epipolar_error"):
        solve(POSE["pose"], *synthetic(0, rng))


def published_area(errors: Any, limit: float) -> float:
    """SuperGlue's rule, in words: recall over error, cut at the limit."""
    ordered = np.r_[0.0, np.sort(errors)]
    recall = np.arange(len(ordered)) / (len(ordered) - 1)
    last = np.searchsorted(ordered, limit)
    x, y = np.r_[ordered[:last], limit], np.r_[recall[:last], recall[last - 1]]
    return 100 * float(np.trapezoid(y, x)) / limit


def test_areas_by_the_published_rule(rng: np.random.Generator) -> None:
    errors = rng.exponential(8, (40, 5))
    rows = [
        {"split": "all", "reason": None, "precision": 0.5,
         "errors_deg": [None if error > 30 else error for error in own]}
        for own in errors.tolist()
    ]  # fmt: skip
    for protocol in (MEGADEPTH["megadepth-roma"], MEGADEPTH["megadepth"]):
        task = find_task("megadepth")
        (found,) = task.summarise(protocol, rows)
        for limit in (5, 10, 20):
            each = [published_area(column, limit) for column in errors.T]
            expected = published_area(errors.ravel(), limit) if protocol.pooled else np.mean(each)
            assert found[f"AUC@{limit}"] == pytest.approx(expected)
            assert (f"AUC@{limit} spread" in found) is not protocol.pooled
        assert found["precision@0.0001"] == 50
        assert task.statistic(protocol, task.values(protocol, rows)) == pytest.approx(found["AUC@5"])
        assert (
            task.protocol_of(json.loads(json.dumps({f: getattr(protocol, f) for f in protocol.__slots__})))
            == protocol
        )


def test_published_rows_are_of_our_measures() -> None:
    for name, protocols in (("megadepth", MEGADEPTH), ("scannet", SCANNET)):
        assert not published_rows(name, name)
        for protocol in protocols.values():
            for row in published_rows(name, protocol.name):
                assert row["measures"].keys() <= set(LIMITS)
                assert list(row["measures"].values()) == sorted(row["measures"].values())


def test_methods_of_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ratio test in a string, features from files, and an estimator that has no essential matrix."""
    data, root = make_list(tmp_path / "list"), tmp_path / "files"
    (root / "list").mkdir(parents=True)
    rows = np.random.default_rng(1).normal(size=(60, 16))
    for k, stem in enumerate(made.STEMS):
        with (root / "list" / f"{stem}.jpg.mine").open("wb") as stream:
            np.savez(stream, keypoints=made.project(k), descriptors=rows)
    methods = f"npz:{root}:mine,npz:{root}:mine+mnn[ratio=0.8]+ransac,npz:{root}:mine+kornia"
    arguments = ["--method", methods, "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["benchmark", "pose", str(data), *arguments]) == 1
    said = capsys.readouterr()
    assert said.out.count("| 100.0 ") >= 8 - 1
    assert "kornia estimates no essential matrix" in said.err
    first, second = rows[:30], np.r_[rows[:10] - 0.01, rows[:10] + 0.01, rows[10:30]]
    features = [
        Features(np.zeros((len(r), 2)), np.ones(len(r)), (9, 9), descriptors=r) for r in (first, second)
    ]
    assert len(create_method("sift").match(*features)) == 30
    assert len(create_method("sift+mnn[ratio=0.8]").match(*features)) == 20  # ten have two alike
    assert create_method("sift+mnn[ratio=0.8]").key() != create_method("sift").key()
    for text, words in (
        ("sift+mnn[ratio=2]", "write mnn, or mnn.ratio"),
        ("sift+mnn[t=0.8]", "write mnn, or mnn.ratio"),
        ("matches:folder+mnn[ratio=0.8]", "DETECTOR"),
    ):
        with pytest.raises(ValueError, match=words):
            create_method(text)

"""Videos: J and F against independent computations, loaders and runs on data of known motion."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import correspondence_data as made
import cv2
import jsonschema
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

import geomatch
from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.methods import Method, create_dense_method
from geomatch.benchmarks.methods.backbones import image_size
from geomatch.benchmarks.tasks.temporal import evaluation
from geomatch.benchmarks.tasks.temporal.data import Video, read_videos
from geomatch.benchmarks.tasks.temporal.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.temporal.task import TASKS, hits, mean_of_joints
from geomatch.cli import main
from geomatch.dift import PRESETS, FeatureMap
from geomatch.engine import LocalEngine, RunContext
from geomatch.images import Image

SCHEMA = json.loads(files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text())
TINY = "dift-tiny-dense"
STILL, PAN = [made.moved(0, 0)] * 3, [made.moved(2 * k, -k) for k in range(4)]
Mask = NDArray[np.bool_]


# small and exact: one neighbour, and frames of their own size
DAVIS = replace(PROTOCOLS["davis"]["davis"], top_k=1, size=120)
JHMDB = replace(PROTOCOLS["jhmdb"]["jhmdb"], top_k=1, size=(160, 160))
PROTOCOL = {"davis": DAVIS, "jhmdb": JHMDB}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, photo0: Image) -> Path:
    folder = tmp_path_factory.mktemp("temporal")
    made.make_davis(folder / "davis", photo0.pixels, {"still": STILL, "pan": PAN})
    pytest.importorskip("scipy")
    made.make_jhmdb(folder / "jhmdb", photo0.pixels, {"still": STILL, "pan": PAN})
    return folder


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def run(data: Path, out: Path, dataset: str, methods: Sequence[str] = (TINY,)) -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    return run_benchmark(dataset, data / dataset, [PROTOCOL[dataset]], methods, out, context)


@pytest.fixture(scope="module")
def davis(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(pristine, tmp_path_factory.mktemp("runs"), "davis")


def blobs(rng: np.random.Generator, shape: tuple[int, int] = (90, 120)) -> Mask:
    noise = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 6)
    return np.asarray(noise > np.quantile(noise, 0.8))


def outline(mask: Mask) -> Mask:
    """Pixels that differ from a neighbour to the right, below or slanting, one at a time."""
    found = np.zeros_like(mask)
    bottom, right = mask.shape[0] - 1, mask.shape[1] - 1
    for y, x in np.ndindex(mask.shape):
        across, down = [(y, x + 1)] * (x < right), [(y + 1, x)] * (y < bottom)
        slanting = [(y + 1, x + 1)] * (x < right and y < bottom)
        found[y, x] = any(mask[y, x] != mask[place] for place in across + down + slanting)
    return found


def test_boundary_by_the_distance_transform(rng: np.random.Generator) -> None:
    """Shares of outline within the reach of the other outline, by exact distances instead of dilation."""
    for _ in range(6):
        truth, found = blobs(rng), blobs(rng)
        reach = np.ceil(evaluation.TOLERANCE * np.hypot(*truth.shape))
        lines = outline(found), outline(truth)
        to = [
            cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for own in lines
        ]
        precision, recall = (to[1][lines[0]] <= reach).mean(), (to[0][lines[1]] <= reach).mean()
        expected = 2 * precision * recall / (precision + recall)
        assert evaluation.boundary_accuracy(found, truth) == pytest.approx(expected, abs=1e-12)
        assert evaluation.boundary_accuracy(found, truth) == evaluation.boundary_accuracy(truth, found)
        assert evaluation.region_similarity(found, truth) == pytest.approx(
            (found & truth).sum() / (found | truth).sum()
        )


def test_masks_with_known_answers() -> None:
    square = np.zeros((100, 100), np.bool_)
    square[20:60, 20:60] = True
    none = np.zeros_like(square)
    for one, other, value in ((square, square, 1), (none, none, 1), (none, square, 0), (square, none, 0)):
        assert evaluation.region_similarity(one, other) == evaluation.boundary_accuracy(one, other) == value
    half = square.copy()
    half[40:] = False
    assert evaluation.region_similarity(half, square) == 0.5
    # the reach is two pixels here: a shift by two leaves all within, one by forty nothing on that side
    assert evaluation.boundary_accuracy(np.roll(square, 2, 1), square) == 1
    assert evaluation.boundary_accuracy(np.roll(square, 4, 1), square) < 1
    whole = np.ones_like(square)
    assert evaluation.boundary_accuracy(whole, square) == 0  # it has no outline


def test_statistics_by_hand() -> None:
    mean, recall, decay = evaluation.statistics([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert mean == pytest.approx(0.65)
    assert recall == 5 / 8
    # ends at frames 1, 3, 5 (of 4.5, rounded to even, with a hair more), 6, 8: each quarter has both its ends
    assert decay == pytest.approx(np.mean([1.0, 0.9, 0.8]) - np.mean([0.5, 0.4, 0.3]))
    assert evaluation.statistics([0.4] * 5)[1:] == (0, 0)
    rows: list[dict[str, Any]] = [
        {"split": "all", "J": [0.8, 0.6], "F": [0.4, 0.2], "reason": None},
        {"split": "all", "J": [0.0, 0.0], "F": [0.0, 0.0], "reason": "no such file"},
    ]
    (summary,) = TASKS["davis"].summarise(PROTOCOLS["davis"]["davis"], rows)
    assert (summary["objects"], summary["failures"]) == (2, 1)
    assert (summary["J"], summary["F"], summary["J&F"]) == pytest.approx((35, 15, 25))
    task, protocol = find_task("davis"), PROTOCOLS["davis"]["davis"]
    assert task.statistic(protocol, task.values(protocol, rows)) == pytest.approx(25)


def test_joints_by_hand() -> None:
    rows = [{"errors": [[0.05, 0.3], [], [9.0, 0.1]]}, {"errors": [[0.1], [0.4], []]}]
    counts = hits(rows, 0.1)
    assert counts.tolist() == [[[1, 0, 1], [2, 0, 2]], [[1, 0, 0], [1, 1, 0]]]
    assert mean_of_joints(counts) == pytest.approx(100 * (2 / 3 + 0 + 1 / 2) / 3)


def test_a_still_video_is_followed(davis: RunResult) -> None:
    rows = {row["pair"]: row for row in davis.record["rows"]}
    for number in (1, 2):
        still, pan = rows[f"still object-{number}"], rows[f"pan object-{number}"]
        assert len(still["J"]) == 1  # the first frame is given, the last left out
        assert len(pan["J"]) == 2
        assert min(still["J"]) > 0.8  # cells of eight pixels: perfect features do no better
        assert np.mean(pan["J"]) > 0.55


class Codes:
    """Not features of an image, but what the test says of its first pixel."""

    def __init__(self, maps: Callable[[int], torch.Tensor]) -> None:
        self.maps = maps

    def dense_many(self, images: Sequence[Image]) -> list[FeatureMap]:
        return [FeatureMap((self.maps(int(image.pixels[0, 0, 0])),), image.size) for image in images]


def coded(maps: Callable[[int], torch.Tensor]) -> Method:
    return Method("codes", None, Codes(maps))  # type: ignore[arg-type]


CODES = torch.randn(48, 15, 20, generator=torch.Generator().manual_seed(0))
FIXED = coded(lambda level: CODES)
"""Codes of cells that never move, whatever the images show."""


def aligned(folder: Path, steps: int) -> Video:
    """A box of 5x5 cells of eight pixels that jumps two cells to the right between frames of one grey."""
    for index in range(steps):
        made.save(folder / f"{index:05d}.png", np.full((120, 160, 3), 10 * index, np.uint8))
        mask = np.zeros((120, 160), np.uint8)
        mask[40:80, 16 + 16 * index : 56 + 16 * index] = 1
        made.save(folder / "masks" / f"{index:05d}.png", mask)
    names = [f"{index:05d}.png" for index in range(steps)]
    return Video("jumps", tuple(folder / n for n in names), tuple(folder / "masks" / n for n in names))


def test_every_frame_is_measured_against_its_own_truth(tmp_path: Path) -> None:
    """Codes of cells that jump with the object: a frame too early or too late would have J = 0.43."""
    # what leaves to the right comes in at the left
    method = coded(lambda level: CODES.roll(level // 5, 2))
    (row,) = evaluation.evaluate_masks(aligned(tmp_path, 6), replace(DAVIS, radius=30), method)
    assert len(row["J"]) == 4
    assert min(row["J"]) > 0.97  # corners of cells are cut
    assert min(row["F"]) > 0.97


def test_objects_that_leave_have_no_region(tmp_path: Path) -> None:
    """Frames that look like the background alone have no label but it, and count fully where that is true."""
    empty = CODES[:, 14:, :1].expand(48, 15, 20)  # the last row's first cell, all over
    video = aligned(tmp_path, 4)
    made.save(video.masks[1], np.zeros((120, 160), np.uint8))
    protocol = replace(DAVIS, radius=30)
    (row,) = evaluation.evaluate_masks(video, protocol, coded(lambda level: CODES if level == 0 else empty))
    assert row["J"] == [1, 0]  # it left in truth, and then did not
    assert row["F"] == [1, 0]


def test_label_maps_are_those_of_the_protocol() -> None:
    """By hand: a Gaussian sits on whole cells, and its place is its cell times the cell's width."""
    points = np.array([[80.0, 60.0], [83.0, 61.0], [-4.0, 60.0], [-40.0, 60.0], [159.0, 119.0]])
    labels = evaluation.draw_labels(points, (160, 120), (20, 15))
    assert labels[0, 8, 10] > labels[0].flatten().sort().values[-2]  # 80 / 8 = 10, 60 / 8 = 7.5
    assert torch.equal(labels[0], labels[1])
    assert labels[2].amax() > 0  # just outside
    assert not labels[3].any()
    places = evaluation.read_labels(labels, (160, 120))
    assert np.isnan(places[3]).all()
    assert np.abs(places[[0, 1, 4]] - points[[0, 1, 4]]).max() < 8
    single = torch.zeros(1, 15, 20)
    single[0, 3, 5] = 1
    assert evaluation.read_labels(single, (160, 120))[0].tolist() == [40, 24]


def test_evaluation_with_perfect_features(pristine: Path) -> None:
    """Features that are the same in every frame carry the first mask unchanged."""
    for video in read_videos("davis", pristine / "davis").units:
        rows = evaluation.evaluate_masks(video, DAVIS, FIXED)
        masks = [np.array(PILImage.open(path)) for path in video.masks]
        for row, number in zip(rows, (1, 2), strict=True):
            expected = [
                evaluation.region_similarity(masks[0] == number, later == number) for later in masks[1:-1]
            ]
            assert row["J"] == pytest.approx(expected, abs=0.2)  # the grid's coarseness
    poses = read_videos("jhmdb", pristine / "jhmdb").units
    pose_protocol = replace(JHMDB, size=(160, 120))
    (still,) = evaluation.evaluate_poses(poses[0], pose_protocol, FIXED)
    box = np.ptp(poses[0].joints[0], axis=0)
    assert np.max(still["errors"]) * 0.6 * np.hypot(*box) < 8  # whole cells of eight pixels
    (pan,) = evaluation.evaluate_poses(poses[1], pose_protocol, FIXED)
    moved = np.linalg.norm(poses[1].joints[3] - poses[1].joints[0], axis=1) / (0.6 * np.hypot(*box))
    assert np.abs(np.array(pan["errors"])[:, 2] - moved).max() * 0.6 * np.hypot(*box) < 8


def test_joints_without_a_label_are_left_out(pristine: Path) -> None:
    video = read_videos("jhmdb", pristine / "jhmdb").units[0]
    joints = video.joints.copy()
    joints[:, 3] = -50
    (row,) = evaluation.evaluate_poses(replace(video, joints=joints), JHMDB, FIXED)
    assert row["errors"][3] == []
    assert len(row["errors"][4]) == 2
    (whole,) = evaluation.evaluate_poses(video, JHMDB, FIXED)
    assert row["errors"][4] == whole["errors"][4]  # nor does its place count for the box


def test_joints_are_followed(pristine: Path, tmp_path: Path) -> None:
    result = run(pristine, tmp_path, "jhmdb")
    summary = {row["split"]: row for row in result.summaries()}
    assert summary["all"]["videos"] == 2
    assert [TASKS["jhmdb"].amount(2, split) for split in "12"] == ["2 of 268 videos", "2 of 270 videos"]
    assert summary["all"]["PCK@0.2"] > 80
    jsonschema.validate(json.loads(result.path.read_text()), SCHEMA)


def test_videos_that_are_done_are_not_done_again(data: Path, tmp_path: Path, davis: RunResult) -> None:
    first = run(data, tmp_path, "davis")
    assert (first.computed, first.record["rows"]) == (2, davis.record["rows"])
    assert run(data, tmp_path, "davis").computed == 0
    frames = data / "davis" / "JPEGImages" / "480p"
    for number in range(3):
        shutil.copyfile(frames / "pan" / f"{number:05d}.jpg", frames / "still" / f"{number:05d}.jpg")
    assert run(data, tmp_path, "davis").computed == 1


def test_missing_and_damaged_frames_are_counted(data: Path, tmp_path: Path) -> None:
    frames = data / "davis" / "JPEGImages" / "480p"
    (frames / "still" / "00001.jpg").unlink()
    (frames / "pan" / "00001.jpg").write_bytes(b"no picture")
    result = run(data, tmp_path, "davis")
    missing, *unreadable = result.record["skipped"].items()
    assert missing == ("JPEGImages/480p/still/00001.jpg", "no such frame")
    assert sorted(name.partition(" on ")[2] for name, _ in unreadable) == [
        "pan object-1", "pan object-2", "still object-1", "still object-2",
    ]  # fmt: skip
    assert not result.summaries()  # they count for nobody
    rows = {row["pair"]: row for row in result.record["rows"]}
    assert "00001.jpg" in rows["pan object-1"]["reason"]
    assert "J" not in rows["pan object-1"]
    (data / "jhmdb" / "Rename_Images" / "wave" / "pan" / "00002.png").unlink()
    result = run(data, tmp_path, "jhmdb")
    rows = {row["pair"]: row for row in result.record["rows"]}
    assert "00002.png" in rows["pan pose"]["reason"]
    assert "errors" not in rows["pan pose"]
    assert rows["still pose"]["reason"] is None


def replaced(folder: Path, name: str, content: bytes | str) -> None:
    path = next(folder.rglob(name))
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def other_size(folder: Path) -> None:
    PILImage.new("L", (20, 20)).save(next(folder.rglob("pan/00002.png")))


def no_object(folder: Path) -> None:
    for path in folder.rglob("00000.png"):
        PILImage.new("P", made.SIZE).save(path)


@pytest.mark.parametrize(
    ("dataset", "spoil", "words"),
    [
        ("davis", lambda f: replaced(f, "val.txt", "still\nnowhere\n"), "val.txt:2: no annotation"),
        ("davis", lambda f: replaced(f, "val.txt", "\n"), "split val have no video"),
        ("davis", lambda f: replaced(f, "00002.png", b"no picture"), "00002.png: not an image"),
        ("davis", lambda f: next(f.rglob("pan/00002.png")).unlink(), "00002.png: missing"),
        ("davis", other_size, r"00002.png: has \(20, 20\) pixels, the first frame \(160, 120\)"),
        ("davis", no_object, "00000.png: no object in the first frame"),
        ("jhmdb", lambda f: replaced(f, "wave_test_split1.txt", "a.avi 2\nb.avi\n"), "split1.txt:1: "),
        ("jhmdb", lambda f: replaced(f, "wave_test_split1.txt", "pan.avi 2\nb.avi\n"), "split1.txt:2: "),
        ("jhmdb", lambda f: replaced(f, "joint_positions.mat", b"no matlab"), "mat: not a readable file of"),
        ("jhmdb", lambda f: replaced(f, "wave_test_split1.txt", "pan.avi 1\n"), "split 1 have no video"),
        ("jhmdb", lambda f: shutil.rmtree(f / "splits"), "no list"),
    ],
)  # fmt: skip
def test_broken_annotations_are_refused_with_file_and_line(
    dataset: str, spoil: Callable[[Path], None], words: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data / dataset)
    with pytest.raises(geomatch.GeomatchError, match=words):
        find_task(dataset).read(data / dataset, None)
    assert main(["benchmark", dataset, str(data / dataset)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_scipy_the_extra_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(geomatch.MissingDependencyError, match=r"geomatch-dift\[jhmdb\]"):
        read_videos("jhmdb", data / "jhmdb")


def test_the_sizes_of_protocols_reach_the_methods() -> None:
    dift = create_dense_method("dift-adm-temporal").at_size(480)
    assert dift.dift == replace(PRESETS["dift-adm-temporal"], device="cpu")
    square: Any = create_dense_method("dift-sd-temporal").at_size((320, 320))
    assert square.descriptor.config == square.dift
    assert square.dift.image_size == (320, 320)
    dino: Any = create_dense_method("dino:nowhere").at_size(480)
    assert dino.descriptor.size == 480


def test_the_grid_of_the_baselines_is_theirs() -> None:
    """DINO's tokens at a short side of 480 lie on the protocol's grid: 832 x 480 of 854 x 480."""
    assert image_size((854, 480), 480, 8) == (832, 480)
    assert image_size((480, 854), 480, 8) == (480, 832)
    assert image_size((854, 480), 480, 14) == (826, 476)
    assert image_size((854, 480), (768, 768), 14) == (770, 770)


def test_the_commands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(data / "davis", "val.txt", "still\n")
    command = ["benchmark", "davis", str(data / "davis"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--protocol", "davis-dino"]) == 0
    printed = capsys.readouterr()
    assert "| dift-tiny-dense | all | 2 | 0 |" in printed.out
    assert "not the whole of DAVIS-2017 (1 of 30 videos)" in printed.err
    assert main([*command, "--split", "test"]) == 2
    assert "unknown split 'test'" in capsys.readouterr().err
    assert main([*command, "--protocol", "jhmdb"]) == 2
    assert "unknown protocol 'jhmdb'; choose from: davis" in capsys.readouterr().err

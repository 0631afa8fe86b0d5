"""Points and masks tracked through videos whose truth is known: results, cache and files."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTExtractor, cached_extractor
from geomatch.errors import ImageError
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.store import Store
from geomatch.synthetic import render_view
from geomatch.video.frames import frames_of
from geomatch.video.masks import load_mask, object_colours, write_mask
from geomatch.video.propagation import LabelPropagator, PropagationConfig, point_labels
from geomatch.video.track import KIND, default_propagation, propagate_labels, track_mask, track_points

SIZE = (160, 120)
POINTS = np.array([(x, y) for y in (30.0, 60.0, 90.0) for x in (30.0, 65.0, 100.0, 130.0)])
EXTRACTOR = cached_extractor(PRESETS["dift-tiny-dense"])
RULES, CELLS = PropagationConfig(context=2, top_k=5, radius=10, temperature=0.02), 40
Video = tuple[list[Image], list[NDArray[np.float64]]]


def objects() -> NDArray[np.uint8]:
    """An ellipse and a polygon."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    cv2.ellipse(mask, (55, 55), (26, 18), 20, 0, 360, 1, -1)
    cv2.fillPoly(mask, [np.array([[95, 60], [130, 45], [140, 95], [112, 88]])], 2)
    return mask


@pytest.fixture(scope="module")
def moving(photo0: Image) -> Video:
    """Six frames of a camera over a photograph, and the homographies from the first."""
    frames, matrices = [], []
    for number in range(6):
        zoom, turn = 0.5 * (1 + 0.02 * number), 0.02 * number
        view = np.eye(3)
        view[:2, :2] = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        view[:2, 2] = 80 + 2.5 * number, 60 - 1.5 * number
        centre = np.eye(3)
        centre[:2, 2] = -350, -220
        matrices.append(view @ centre)
        frames.append(Image(render_view(photo0.pixels, matrices[-1], SIZE), f"frame {number}"))
    return frames, [matrix @ np.linalg.inv(matrices[0]) for matrix in matrices]


def overlap(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """The smallest IoU of the objects 1 and 2."""
    shares = [((found == n) & (truth == n)).sum() / ((found == n) | (truth == n)).sum() for n in (1, 2)]
    return float(min(shares))


def test_nothing_moves_in_a_still_video(moving: Video) -> None:
    still = moving[0][:1] * 5
    for found in track_points(EXTRACTOR, still, POINTS, RULES, CELLS):
        assert np.linalg.norm(found.points - POINTS, axis=1).max() < 1  # a third of a cell
        assert found.confidence.min() > 0.6
    own: Any = SimpleNamespace(dense=EXTRACTOR.dense)  # a user's describer
    for frame in track_mask(own, still, objects(), RULES, CELLS):
        assert overlap(frame.mask, objects()) > 0.95


def test_points_and_objects_follow_a_known_motion(moving: Video) -> None:
    frames, matrices = moving
    errors, mask = [], objects()
    for found, matrix in zip(track_points(EXTRACTOR, frames, POINTS, RULES, CELLS), matrices, strict=True):
        errors.append(np.linalg.norm(found.points - warp_points(matrix, POINTS), axis=1))
    assert np.median(errors) < 1.5
    assert np.max(errors) < 7
    for one, matrix in zip(track_mask(EXTRACTOR, frames, mask, RULES, CELLS), matrices, strict=True):
        truth = cv2.warpPerspective(mask, matrix, SIZE, flags=cv2.INTER_NEAREST)
        assert overlap(one.mask, np.asarray(truth, np.uint8)) > 0.8


def test_objects_that_leave_the_frame_disappear(photo0: Image) -> None:
    """The camera passes over an object and a point in it, away and back."""
    steps = [0, 16, 32, 48, 64, 80, 80, 64, 48, 32]
    frames = [photo0.pixels[100:220, 200 + x : 360 + x].copy() for x in steps]
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[40:80, 10:50] = 1
    areas = [int(found.mask.sum()) for found in track_mask(EXTRACTOR, frames, mask, RULES, CELLS)]
    assert areas[1] > 0.6 * areas[0]
    assert areas[5:7] == [0, 0]
    assert max(areas[4], areas[7]) < 0.01 * areas[0]
    points = np.array([(30.0, 60.0), (130.0, 60.0)])
    found = list(track_points(EXTRACTOR, frames, points, RULES, CELLS))
    assert [bool(np.isnan(frame.points[0]).any()) for frame in found[4:8]] == [True] * 4
    assert [float(frame.confidence[0]) for frame in found[4:8]] == [0.0] * 4
    assert np.linalg.norm(found[4].points[1] - (66, 60)) < 6


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_the_same_results(
    moving: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., Any]
) -> None:
    frames = moving[0]
    rules = replace(RULES, radius=8)
    start = point_labels(POINTS, SIZE, (40, 30)).numpy()
    store, steps = Store.at(tmp_path / "store"), []

    def run(cache: Store | None) -> list[NDArray[np.float32]]:
        return [labels for _, labels in propagate_labels(EXTRACTOR, frames, start, rules, cache)]

    undisturbed = run(None)
    step = LabelPropagator.step
    with monkeypatch.context() as patched:
        patched.setattr(LabelPropagator, "step", dying(step, 5))
        with pytest.raises(KeyboardInterrupt):
            run(store)
    assert len(store.sizes(KIND)) == 4

    def counted(self: LabelPropagator, features: Any) -> Any:
        steps.append(1)
        return step(self, features)

    monkeypatch.setattr(LabelPropagator, "step", counted)
    for labels, same in zip(run(store), undisturbed, strict=True):
        np.testing.assert_array_equal(labels, same)
    assert len(steps) == 1
    # all is cached; then one entry in the middle is damaged, and made again
    run(store)
    assert len(steps) == 1
    key = sorted(store.sizes(KIND))[0]
    good = store.read(KIND, key)
    (Path(store.url) / store.name(KIND, key)).write_bytes(good[:-200] + b"?" * 200)
    for labels, same in zip(run(store), undisturbed, strict=True):
        np.testing.assert_array_equal(labels, same)
    assert len(steps) == 2
    assert store.read(KIND, key) == good
    # other rules or frames find nothing in the cache
    changed = replace(rules, top_k=4)
    assert len(list(propagate_labels(EXTRACTOR, frames[:2], start, changed, store))) == 2
    assert len(list(propagate_labels(EXTRACTOR, [frames[0], frames[2]], start, rules, store))) == 2
    assert len(steps) == 4


def save_frames(frames: list[Image], folder: Path) -> Path:
    """As ``1.png`` to ``12.png``, say."""
    folder.mkdir()
    for number, frame in enumerate(frames, 1):
        PILImage.fromarray(frame.pixels).save(folder / f"{number}.png")
    return folder


def save_video(frames: list[Image], path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    for frame in frames:
        writer.write(cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    return frames


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_and_file_give_the_same_frames(moving: Video, tmp_path: Path) -> None:
    frames = moving[0] * 2
    folder = save_frames(frames, tmp_path / "frames")
    (folder / "notes.txt").write_text("no frame")
    of_folder = list(frames_of(folder))
    of_file = list(frames_of(save_video(frames, tmp_path / "video.avi")))
    assert len(of_folder) == len(of_file) == 12
    for known, first, second in zip(frames, of_folder, of_file, strict=True):
        np.testing.assert_array_equal(first.pixels, known.pixels)  # in natural order
        assert np.abs(second.pixels.astype(int) - known.pixels).mean() < 8
    assert len(list(frames_of(folder, 5))) == 5


def test_videos_that_cannot_be_used_are_named(moving: Video, tmp_path: Path) -> None:
    whole = save_video(moving[0] * 3, tmp_path / "whole.avi").read_bytes()
    (tmp_path / "early.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "void").mkdir()
    mixed = save_frames(moving[0][:2], tmp_path / "mixed")
    PILImage.new("RGB", (50, 40)).save(mixed / "3.png")
    for name, words in (
        ("early.avi", "ends early, after [0-9]+ of the 18 frames"),
        ("text.mp4", "no video that OpenCV can read"),
        ("missing.mp4", "no such file"),
        ("void", "no frames there"),
        ("mixed", r"3\.png: all frames must be of the first one's size, 160x120 pixels; this one has 50x40"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            list(frames_of(tmp_path / name))
        assert name in str(caught.value)


def test_masks_are_read_by_what_their_values_mean(tmp_path: Path) -> None:
    numbers = objects() * 3
    write_mask(tmp_path / "palette.png", numbers)
    with PILImage.open(tmp_path / "palette.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[: 3 * 256] == object_colours(256).ravel().tolist()  # type: ignore[index]
    np.testing.assert_array_equal(load_mask(tmp_path / "palette.png"), numbers)
    PILImage.fromarray(numbers).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "grey.png"), numbers)
    white = np.where(numbers > 0, 255, 0).astype(np.uint8)
    for picture in (PILImage.fromarray(white), PILImage.fromarray(white).convert("1")):
        picture.save(tmp_path / "white.png")
        np.testing.assert_array_equal(load_mask(tmp_path / "white.png"), numbers > 0)
    PILImage.fromarray(np.maximum(white, 7)).save(tmp_path / "full.png")
    PILImage.fromarray(0 * white).save(tmp_path / "empty.png")
    PILImage.new("RGB", SIZE, "red").save(tmp_path / "colour.png")
    for name, words in (("full", "1..254, got 255"), ("empty", "is empty"), ("colour", "got mode RGB")):
        with pytest.raises(ImageError, match=f"{name}.*{words}"):
            load_mask(tmp_path / f"{name}.png")


def test_defaults_are_the_papers_for_its_models() -> None:
    for name, top_k, temperature in (("dift-sd-temporal", 15, 0.2), ("dift-adm-temporal", 10, 0.1)):
        rules, cells = default_propagation(PRESETS[name])
        assert (rules.context, rules.top_k, rules.radius, rules.temperature) == (28, top_k, 15, temperature)
        assert cells == 60


FAST = ("--cells", "30")


def test_points_of_a_folder(moving: Video, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = save_frames(moving[0], tmp_path / "frames"), tmp_path / "out"
    points = ("--points", "60,50", "--points", "100,70.5")
    assert main(["track", str(folder), *points, *FAST, "--frames", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "followed 2 points through 4 frames, 2 of them in every frame, in " in printed
    frames = read_video(out / "overlay.mp4")
    assert [frame.shape for frame in frames] == [(120, 160, 3)] * 4
    rows = table(out / "tracks.csv")
    assert [(row["frame"], row["point"]) for row in rows] == [
        (str(n), str(p)) for n in range(4) for p in (0, 1)
    ]
    assert (float(rows[1]["x"]), float(rows[1]["y"]), float(rows[1]["confidence"])) == (100, 70.5, 1)
    assert sorted(path.name for path in out.iterdir()) == ["overlay.mp4", "store", "tracks.csv"]
    # the rest of the video: the first frames come from the cache
    before = set(Store.at(out / "store").sizes(KIND))
    assert main(["track", str(folder), *points, *FAST, "--out", str(out)]) == 2
    assert f"geomatch: {out}/overlay.mp4 exists already" in capsys.readouterr().err
    assert main(["track", str(folder), *points, *FAST, "--out", str(out), "--overwrite"]) == 0
    after = set(Store.at(out / "store").sizes(KIND))
    assert (len(before), len(after), before <= after) == (3, 5, True)


def test_a_mask_of_a_video_file(
    moving: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., Any]
) -> None:
    video = save_video(moving[0], tmp_path / "video.avi")
    write_mask(tmp_path / "mask.png", objects())
    given = ["track", str(video), "--mask", str(tmp_path / "mask.png"), *FAST, "--out"]
    assert main([*given, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(LabelPropagator, "step", dying(LabelPropagator.step, 4))
        assert main([*given, str(tmp_path / "twice")]) == 130
    assert not (tmp_path / "twice" / "tracks.csv").exists()
    assert main([*given, str(tmp_path / "twice")]) == 0
    names = ["overlay.mp4", "tracks.csv", *(f"masks/{number:05d}.png" for number in range(6))]
    for name in names:
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(read_video(tmp_path / "twice" / "overlay.mp4")) == 6
    last = load_mask(tmp_path / "twice" / "masks" / "00005.png")
    row = table(tmp_path / "twice" / "tracks.csv")[-1]
    assert (row["frame"], row["object"], int(row["area_px"])) == ("5", "2", (last == 2).sum())
    assert abs(float(row["x"]) - np.nonzero(last == 2)[1].mean()) < 0.01
    # a shorter run leaves no masks of the longer one
    assert main([*given, str(tmp_path / "twice"), "--frames", "2", "--overwrite"]) == 0
    assert len(list((tmp_path / "twice" / "masks").iterdir())) == 2


def test_wrong_input_is_one_line(
    moving: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it loads a network."""

    def never(*_: object) -> None:
        raise AssertionError("a network is loaded")

    monkeypatch.setattr("geomatch.dift.cached_extractor", lambda config: DIFTExtractor(config))
    monkeypatch.setattr("geomatch.dift.extractor.load_model", never)
    monkeypatch.chdir(tmp_path)
    save_frames(moving[0][:2], tmp_path / "frames")
    PILImage.new("L", (50, 40), 255).save("small.png")
    PILImage.new("L", SIZE).save("empty.png")
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, words in (
        ("frames", "give either --points"),
        ("frames --points 5,5 --mask small.png", "give either --points"),
        ("frames --points 5", "'5' is no point; give x,y such as 120,80"),
        ("frames --points 160,5", "(160, 5) lies outside the first frame, whose last pixel is (159, 119)"),
        ("frames --points nan,5", "outside the first frame"),
        ("frames --mask small.png", "the frames' size, 160x120 pixels, got 50x40"),
        ("frames --mask empty.png", "the mask is empty"),
        ("no.mp4 --points 5,5", "no.mp4: no such file"),
        ("text.mp4 --points 5,5", "no video that OpenCV can read"),
        ("frames --points 5,5 --descriptor dift-tiny", "works in patches"),
        ("frames --points 5,5 --frames 0", "--frames"),
        ("frames --points 5,5", "OpenCV cannot write MPEG-4 videos"),
    ):
        if "MPEG-4" in words:
            monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: cv2.VideoWriter_fourcc(*"none"))
        code = main(["track", *arguments.split(), "--out", "out"])
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (2, 1), (arguments, error)
        assert words in error

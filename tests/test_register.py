"""Whole images onto a reference: lists, folders, sequences, maps, the command."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PILImage
from small_photos import FAST, SIZE, write

import geomatch
from geomatch import HomographyEstimate, Pipeline, corner_error, load_image, register, relate, warp_points
from geomatch.cli import main
from geomatch.errors import GeomatchError
from geomatch.images import Image, Masks, Reading
from geomatch.registration import pair_list as lists
from geomatch.registration import register as writing
from geomatch.registration.pair_list import match_list, read_pairs
from geomatch.registration.pictures import Output
from geomatch.registration.register import named_files, names_of, register_pairs
from geomatch.registration.stack import register_sequence
from geomatch.synthetic import render_view

Matrix = NDArray[np.float64]
TURN = np.array([[0.98, -0.1, 14.0], [0.09, 0.97, -6.0], [0.0, 0.0, 1.0]])


def off(found: geomatch.Registration, truth: Matrix) -> float:
    assert found.matrix is not None
    return corner_error(found.matrix, truth, SIZE)


# --- lists


@pytest.fixture
def listed(tmp_path: Path, small: NDArray[np.uint8]) -> Path:
    write(tmp_path / "in/a.png", small)
    write(tmp_path / "in/b b.png", render_view(small, TURN, SIZE))
    write(tmp_path / "in/noise.png", np.random.default_rng(0).integers(0, 256, small.shape, np.uint8))
    (tmp_path / "in/broken.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:999])
    (tmp_path / "pairs.txt").write_text(
        "# a comment\na.png\tb b.png\t0.5\na.png noise.png\n\na.png broken.png\n"
    )
    return tmp_path


def test_a_list_is_matched_with_features_made_once(
    listed: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[str] = []
    original = Pipeline.describe
    monkeypatch.setattr(
        Pipeline, "describe", lambda self, images: described.append(images[0].name) or original(self, images)
    )
    pairs = read_pairs(listed / "pairs.txt")
    assert pairs == [("a.png", "b b.png"), ("a.png", "noise.png"), ("a.png", "broken.png")]
    file = listed / "matches.jsonl"
    told = {"file": file}
    lines = list(match_list(pairs, listed / "in", pipeline, **told))  # type: ignore[arg-type]
    assert [Path(name).name for name in described] == ["a.png", "b b.png", "noise.png"]
    one, two = (load_image(listed / "in" / name) for name in pairs[0])
    whole = relate(pipeline, *original(pipeline, [one, two]))
    assert lines[0]["homography"] == whole.to_dict()["homography"]
    np.testing.assert_allclose(lines[0]["points1"], whole.points1, atol=6e-4)
    assert lines[0]["reason"] is None
    assert sum(lines[0]["inliers"]) == lines[0]["num_inliers"]
    assert lines[1]["reason"]
    assert lines[1]["score"] == 0
    assert "damaged or truncated" in lines[2]["reason"]
    written = file.read_text()
    assert [json.loads(line) for line in written.splitlines()] == lines
    # a run that was cut off in its second line goes on there, and gives the same
    cut = written.splitlines(keepends=True)
    file.write_text(cut[0] + cut[1][:100])
    described.clear()
    resumed = list(match_list(pairs, listed / "in", pipeline, **told))  # type: ignore[arg-type]
    assert resumed[0] == lines[0]
    assert [line["key"] for line in resumed] == [line["key"] for line in lines]
    assert [Path(name).name for name in described] == ["a.png", "noise.png"]
    assert len(file.read_text().splitlines()) == 3
    # a line without its end is not whole, though its JSON is
    file.write_text("".join(cut[:2]) + cut[2].removesuffix("\n"))
    list(match_list(pairs, listed / "in", pipeline, **told))  # type: ignore[arg-type]
    assert len(file.read_text().splitlines()) == 3
    # another order and other settings
    again = list(match_list(pairs[::-1], listed / "in", pipeline, **told))  # type: ignore[arg-type]
    assert [line["image1"] for line in map(json.loads, file.read_text().splitlines())] == [
        "broken.png", "noise.png", "b b.png",
    ]  # fmt: skip
    assert again[2]["key"] == lines[0]["key"]
    other = replace(pipeline, threshold=2.0, estimator="ransac")
    assert next(iter(match_list(pairs[:1], listed / "in", other)))["key"] != lines[0]["key"]


def test_an_image_without_a_focal_length_does_not_end_a_list(listed: Path) -> None:
    essential = Pipeline(**FAST, model="essential")  # type: ignore[arg-type]
    lines = list(match_list([("a.png", "b b.png")] * 2, listed / "in", essential))
    assert ["no focal length" in line["reason"] for line in lines] == [True, True]


def test_an_image_that_could_not_be_read_is_read_when_its_reader_is_there(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        return str(next(iter(match_list([("a.heic", "b")], tmp_path, pipeline)))["key"])

    before = key()
    assert key() == before
    monkeypatch.setattr("geomatch.provenance._version", lambda name: "1" if name == "pillow-heif" else "0")
    with_reader = key()
    monkeypatch.setattr("geomatch.provenance._version", lambda name: "0")
    assert key() != with_reader


def test_lists_that_are_none(tmp_path: Path) -> None:
    for text, words in (("", "no pairs"), ("# nothing\n", "no pairs"), ("a.png\n", "line 1 is 'a.png'")):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(GeomatchError, match=words):
            read_pairs(tmp_path / "pairs.txt")


# --- onto a reference


@pytest.fixture
def folder(tmp_path: Path, small: NDArray[np.uint8]) -> Path:
    inside = tmp_path / "in"
    write(inside / "reference.png", small)
    view = render_view(small, TURN, SIZE)
    write(inside / "eight.png", view)
    write(inside / "sub/sixteen.png", view.astype(np.uint16) * 257)
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.fromarray(np.ascontiguousarray(np.rot90(view))).save(inside / "turned.tif", exif=exif)
    write(inside / "noise.png", np.random.default_rng(0).integers(0, 256, small.shape, np.uint8))
    (inside / "cut.png").write_bytes((inside / "eight.png").read_bytes()[:2000])
    return inside


def test_a_folder_is_warped_onto_a_reference(folder: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = register(folder / "reference.png", [folder], out, pipeline=pipeline)
    assert [one.image for one in done] == [
        "cut.png",
        "eight.png",
        "noise.png",
        "sub/sixteen.png",
        "turned.tif",
    ]
    assert [bool(one) for one in done] == [False, True, False, True, True]
    reference = load_image(folder / "reference.png").pixels.astype(float)
    for one in (done[1], done[3], done[4]):
        assert off(one, TURN) < 0.3
        assert one.file is not None
        assert one.model == "homography"
        warped = np.asarray(cv2.imread(str(out / one.file), cv2.IMREAD_UNCHANGED), float)
        assert warped.shape == (*reference.shape[:2], 4)
        scale = 257 if "sixteen" in one.image else 1
        inside = warped[:, :, 3] == 255 * scale
        assert 0.85 < inside.mean() < 1
        assert (warped[~inside & (warped[:, :, 3] == 0)] == 0).all()
        difference = warped[:, :, 2::-1] / scale - reference
        assert np.abs(difference[inside]).mean() < 6
    assert cv2.imread(str(out / "warped/sub/sixteen.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    with (out / "registrations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [one.image for one in done]
    assert "damaged or truncated" in rows[0]["reason"]
    assert not rows[0]["h00"]
    assert float(rows[1]["h02"]) == pytest.approx(TURN[0, 2], abs=0.5)
    page = (out / "index.html").read_text()
    assert "3 of 5" not in page
    assert '"eight.png"' in page
    assert "http" not in page.replace("http-equiv", "")
    for kind in ("frame", "warped", "checkerboard"):
        shown = load_image(out / f"previews/sub/sixteen.{kind}.jpg").pixels
        assert np.abs(shown[40:200, 40:280] - reference[40:200, 40:280]).mean() < 8


def test_a_second_run_makes_nothing_again(folder: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    out, files = tmp_path / "out", [folder / "eight.png", folder / "sub/sixteen.png"]
    told = {"pipeline": pipeline}
    first = register(folder / "reference.png", files[:1], out, **told)  # type: ignore[arg-type]
    before = (out / "warped/eight.png").stat().st_mtime_ns
    both = register(folder / "reference.png", files, out, **told)  # type: ignore[arg-type]
    assert both[0].matrix == first[0].matrix
    assert len(both) == 2
    assert (out / "warped/eight.png").stat().st_mtime_ns == before
    nearest = Output("nearest", pages=False)
    changed = register(folder / "reference.png", files, out, output=nearest, **told)  # type: ignore[arg-type]
    assert changed[0].matrix == first[0].matrix
    assert (out / "warped/eight.png").stat().st_mtime_ns > before
    (out / "warped/eight.png").unlink()
    register(folder / "reference.png", files, out, output=nearest, **told)  # type: ignore[arg-type]
    assert (out / "warped/eight.png").is_file()


def test_an_interrupted_run_keeps_what_it_has(
    folder: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original = tmp_path / "out", lists.relate
    calls = iter([False, True])

    def interrupted(*arguments: object) -> object:
        if next(calls):
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lists, "relate", interrupted)
    images = [folder / "eight.png", folder / "turned.tif"]
    with pytest.raises(KeyboardInterrupt):
        register(folder / "reference.png", images, out, pipeline=pipeline)
    assert len((out / "registrations.csv").read_text().splitlines()) == 2
    assert not list(out.rglob(".geomatch-*"))
    monkeypatch.setattr(lists, "relate", original)
    done = register(folder / "reference.png", images, out, pipeline=pipeline)
    assert all(done)
    assert len((out / "matches.jsonl").read_text().splitlines()) == 2


def test_union_and_inverse(folder: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    told = {"pipeline": pipeline}
    reference, image = folder / "reference.png", folder / "eight.png"
    (one,) = register(reference, [image], tmp_path / "u", output=Output(canvas="union"), **told)  # type: ignore[arg-type]
    picture = cv2.imread(str(tmp_path / "u/warped/eight.png"), cv2.IMREAD_UNCHANGED)
    corners = warp_points(np.linalg.inv(np.array(one.matrix)), [[0, 0], [319, 0], [319, 239], [0, 239]])
    assert one.offset[0] <= corners[:, 0].min()
    assert one.offset[1] <= corners[:, 1].min()
    assert (picture.shape[1] + one.offset[0], picture.shape[0] + one.offset[1]) >= tuple(corners.max(0))
    assert picture[..., 3].astype(bool).sum() == pytest.approx(320 * 240 / np.linalg.det(TURN), rel=0.01)
    assert '"frame":"reference"' in (tmp_path / "u/index.html").read_text()
    (back,) = register(reference, [image], tmp_path / "i", output=Output(inverse=True), **told)  # type: ignore[arg-type]
    assert '"frame":"image"' in (tmp_path / "i/index.html").read_text()
    assert back.file is not None
    warped = cv2.imread(str(tmp_path / "i" / back.file), cv2.IMREAD_UNCHANGED)
    seen = warped[..., 3] == 255
    own = load_image(image).pixels[..., ::-1].astype(float)
    assert np.abs(warped[seen][:, :3] - own[seen]).mean() < 6


@dataclass(frozen=True)
class Plain:
    """An estimator of a user's own, that knows no score."""

    threshold: float = 3.0

    def estimate(self, points0: Matrix, points1: Matrix, image_size: object = None) -> HomographyEstimate:
        matrix, agree = cv2.findHomography(points0, points1, cv2.RANSAC, self.threshold)
        return HomographyEstimate(matrix, agree[:, 0] > 0)


def test_a_score_that_nobody_knows_is_not_zero(folder: Path, tmp_path: Path) -> None:
    own = Pipeline(detector="sift", max_keypoints=250, effort="fast", estimator=Plain())
    pair = folder / "reference.png", [folder / "eight.png"]
    for _ in range(2):  # made, and kept
        (one,) = register(*pair, tmp_path, pipeline=own)
        assert one
        assert one.score is None
    with (tmp_path / "registrations.csv").open() as file:
        assert next(csv.DictReader(file))["score"] == ""


def test_several_references(listed: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    pairs = [("a.png", "b b.png"), ("b b.png", "a.png")]
    done = register_pairs(pairs, listed / "in", tmp_path / "out", pipeline)
    assert [one.file for one in done] == ["warped/a.png--b b.png", "warped/b b.png--a.png"]
    np.testing.assert_allclose(
        warp_points(done[1].matrix, warp_points(done[0].matrix, [[50, 60], [200, 100]])),  # type: ignore[arg-type]
        [[50, 60], [200, 100]], atol=0.3,
    )  # fmt: skip


def test_files_have_names_below_the_folder_that_they_share(folder: Path, tmp_path: Path) -> None:
    (folder / ".hidden").mkdir()
    write(folder / ".hidden/x.png", np.zeros((4, 4, 3), np.uint8))
    below, names = named_files([folder / "reference.png", folder, folder / "eight.png"], tmp_path / "out")
    assert below == folder
    assert names[0] == "reference.png"
    assert names.count("eight.png") == 1
    assert not any("hidden" in name for name in names)
    with pytest.raises(GeomatchError, match="no images to register"):
        register(folder / "eight.png", [folder / "eight.png"], tmp_path / "out")
    with pytest.raises(GeomatchError, match="is a folder; give the file of the reference"):
        register(folder, [folder], tmp_path / "out")
    around = folder / "sub" / ".." / "sub"
    assert named_files([folder / "eight.png", around], folder)[1] == ["eight.png", "sub/sixteen.png"]
    write(folder / "sub/warped/x.png", np.zeros((4, 4, 3), np.uint8))
    assert "sub/warped/x.png" in named_files([folder], folder)[1]
    assert "sub/warped/x.png" not in named_files([folder], around)[1]
    assert not any("sub" in name for name in named_files([folder], tmp_path, Masks(folder / "sub"))[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeomatchError, match=r"no images in .*empty"):
        named_files([tmp_path / "empty"], tmp_path / "out")


def test_results_lie_in_their_folder_each_by_its_own_name() -> None:
    images = ["/x/a.png", "../x/a.png", "x/a.jpg", "x/a.png.jpg", "./b.png", "b.png", "\udce9.png", ".."]
    names = list(names_of([("r.png", image) for image in images]).values())
    assert names[-2:] == ["?", ""]
    assert len(set(names)) == len(names)
    assert not any(name.startswith("/") or ".." in name for name in names)
    several = names_of([("r", "a/b.png"), ("r", "a-b.png"), ("s", "a-b.png")])
    assert len(set(several.values())) == 3


def test_an_image_is_never_written_over(listed: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    image = listed / "in/b b.png"
    before = image.read_bytes()
    pairs = [(str(listed / "in/a.png"), str(image))]
    (one,) = register_pairs(pairs, tmp_path, tmp_path / "out", pipeline)
    assert image.read_bytes() == before
    assert (tmp_path / "out" / str(one.file)).is_file()


def test_pictures_of_a_run_that_was_cut_off_are_not_those_of_another(
    folder: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear, then nearest until a picture is there but not in the table, then linear again."""
    out = tmp_path / "out"
    image = Path(os.fsdecode(bytes(folder / "e") + b"\xe9.png"))
    (folder / "eight.png").rename(image)
    told = {"pipeline": pipeline}
    (linear,) = register(folder / "reference.png", [image], out, **told)  # type: ignore[arg-type]
    first = (out / str(linear.file)).read_bytes()
    original = writing.write_warped

    def killed(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_warped", killed)
    with pytest.raises(KeyboardInterrupt):
        register(folder / "reference.png", [image], out, output=Output("nearest"), **told)  # type: ignore[arg-type]
    assert (out / str(linear.file)).read_bytes() != first
    monkeypatch.setattr(writing, "write_warped", original)
    (again,) = register(folder / "reference.png", str(image), out, **told)  # type: ignore[arg-type]
    assert (out / str(again.file)).read_bytes() == first
    (known,) = register(folder / "reference.png", [image], out, **told)  # type: ignore[arg-type]
    assert (known.offset, known.remarks) == (again.offset, again.remarks)
    blind = Reading(masks=Masks(ignore_border=9999))
    (none,) = register(folder / "reference.png", [image], out, reading=blind, **told)  # type: ignore[arg-type]
    assert "no keypoints" in str(none.reason)
    assert not (out / str(linear.file)).exists()


# --- sequences


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, photo0: Image) -> tuple[Path, Matrix]:
    folder, rng = tmp_path_factory.mktemp("stack"), np.random.default_rng(1)
    places = np.cumsum(rng.uniform(-9, 9, (6, 2)), axis=0) + 60
    for number, (x, y) in enumerate(places):
        moved = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1.0]])
        write(folder / f"s{number + 7}.png", render_view(photo0.pixels, moved, (360, 300)))
    return folder, places


def test_a_sequence_lies_on_its_first_image(
    stack: tuple[Path, Matrix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "geomatch.registration.stack.pairs_of", lambda count: [(k, k + 1) for k in range(count - 1)]
    )
    pytest.importorskip("scipy")
    folder, places = stack
    write(folder / "s20.png", np.random.default_rng(0).integers(0, 256, (300, 360, 3), np.uint8))
    pipeline = Pipeline(**FAST, model="translation")  # type: ignore[arg-type]
    output = Output(canvas="union", pages=False)
    done = register_sequence([folder], tmp_path / "out", pipeline=pipeline, output=output)
    assert [one.image for one in done] == ["s8.png", "s9.png", "s10.png", "s11.png", "s12.png", "s20.png"]
    assert not done[-1]
    assert done[-1].reason
    for one, place in zip(done[:-1], places[1:], strict=True):
        assert one.matrix is not None
        np.testing.assert_allclose(np.array(one.matrix)[:2, 2], places[0] - place, atol=0.1)
    shapes = {cv2.imread(str(tmp_path / "out" / str(one.file))).shape for one in done[:-1]}
    assert len(shapes) == 1  # one canvas for all
    with monkeypatch.context() as patched:  # links that closed a loop are there, too
        patched.setattr(lists, "_line", lambda *_: pytest.fail("matched again"))
        again = register_sequence([folder], tmp_path / "out", pipeline=pipeline, output=output)
    assert [one.matrix for one in again] == [one.matrix for one in done]
    with pytest.raises(GeomatchError, match="two images at least"):
        register_sequence([folder / "s7.png"], tmp_path / "out")


# --- maps, databases, benchmarks


def test_a_map_gives_maps(
    photo0: Image, pipeline: Pipeline, tmp_path: Path, small: NDArray[np.uint8]
) -> None:
    rasterio = pytest.importorskip("rasterio")
    reference, image = tmp_path / "map.tif", tmp_path / "in/b.tif"
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)
    five = np.concatenate([small.astype(np.uint16) * 40, small[..., :2].astype(np.uint16) * 30], axis=2)
    told = {"driver": "GTiff", "width": 320, "height": 240, "count": 5, "dtype": "uint16"}
    with rasterio.open(reference, "w", crs="EPSG:32633", transform=place, **told) as file:
        file.write(five.transpose(2, 0, 1))
    image.parent.mkdir()
    planes = [
        render_view(np.repeat((five[..., k : k + 1] // 40).astype(np.uint8), 3, 2), TURN, SIZE)
        for k in range(5)
    ]
    tifffile.imwrite(
        image, np.stack([plane[..., 0] for plane in planes]).astype(np.uint16) * 40, planarconfig="separate"
    )
    reading = Reading(conversion=geomatch.Conversion(bands=(1, 2, 3)))
    output = Output(canvas="union")
    (one,) = register(
        reference,
        [image],
        tmp_path / "out",
        pipeline=pipeline,
        reading=reading,
        output=output,
    )
    assert one, one.reason
    warped = tmp_path / "out" / str(one.file)
    with rasterio.open(warped) as file:
        assert file.count == 6
        assert file.crs.to_epsg() == 32633
        corner = 500_000 + 0.5 * one.offset[0], 4_600_000 - 0.5 * one.offset[1]
        assert (file.transform.c, file.transform.f) == corner
        window = file.read(2)[
            -one.offset[1] + 40 : -one.offset[1] + 200, -one.offset[0] + 40 : -one.offset[0] + 280
        ]
    assert np.abs(window.astype(float) - five[40:200, 40:280, 1]).mean() < 250


# --- the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object, options: bool = True) -> tuple[int, str, str]:
        fast = ["--detector", "sift", "--max-keypoints", "250", "--effort", "fast"] if options else []
        code = main([str(argument) for argument in arguments] + fast)
        return code, *capsys.readouterr()

    return call


def test_the_commands(
    folder: Path, listed: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out"
    code, told, _ = run(
        "register",
        folder / "reference.png",
        *sorted(folder.glob("e*.png")),
        "--out",
        out,
        "--geometry",
        "auto",
    )
    assert code == 0
    assert "registered 1 of 1 images" in told
    assert "eight.png  affine," in told
    code, told, _ = run("register", folder / "reference.png", folder / "noise.png", "--out", out)
    assert code == 1
    assert "noise.png  not registered: " in told
    code, told, _ = run("register", "--pairs", listed / "pairs.txt", "--images", listed / "in", "--out", out)
    assert code == 1
    assert "registered 1 of 3 images" in told
    code, told, _ = run("match", "--pairs", listed / "pairs.txt", "--images", listed / "in")
    assert code == 1
    assert next(json.loads(line)["image1"] for line in told.splitlines()) == "b b.png"
    code, told, _ = run("match", "--pairs", listed / "pairs.txt", "--images", listed / "in", "--out", out)
    assert code == 1
    assert "matched 1 of 3 pairs" in told
    write(tmp_path / "mask.png", np.full((SIZE[1], SIZE[0], 3), 255, np.uint8))
    pair = folder / "reference.png", folder / "eight.png"
    code, told, _ = run(
        "match", *pair, "--mask0", tmp_path / "mask.png", "--ignore-border", 10, "--geometry", "affine"
    )
    assert code == 0
    assert "affine      (image 0 to image 1)" in told
    for arguments, words in (
        (["register", pair[0], "--out", out], "no images to register"),
        (["register", "--out", out], "give images, or --pairs"),
        (["register", tmp_path / "no.png", pair[1], "--out", out], "no such file"),
        (["register", *pair, "--out", out, "--geometry", "essential"], "warped by a plane"),
        (["register", *pair, "--out", out, "--masks", tmp_path / "no"], "no such folder of masks"),
        (["match", pair[0]], "give two images"),
        (["match", *pair, "--pairs", listed / "pairs.txt"], "--pairs goes without"),
        (["match", *pair, "--geometry", "affine", "--estimator", "poselib"], "poselib has homographies only"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1

"""Runs on HPatches: caches, interruption, bad data, and what is skipped."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sequences import make_sequences, run
from own_methods import Patches
from PIL import Image as PILImage
from release_names import SCENES

import geomatch
from geomatch.benchmarks.harness.download import RELEASES, fetch_release
from geomatch.benchmarks.harness.record import summarise_record, table
from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.homography.sequences import LARGE, LAYOUTS, read_hpatches
from geomatch.cli import main
from geomatch.engine import LocalEngine
from geomatch.files import digest_of
from geomatch.keypoints import OpenCVDetector

HPATCHES = find_task("hpatches")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sequences(tmp_path_factory.mktemp("original"), "hill", (280, 210), seed=3)


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


def numbers(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record["rows"]]


def test_synthetic_data_is_seeded_and_exact(original: Path, tmp_path: Path) -> None:
    assert set(SCENES["hpatches"]) >= LARGE
    for name, scenes in SCENES.items():
        assert (len(set(scenes)), digest_of(sorted(scenes))) == (LAYOUTS[name].whole, LAYOUTS[name].names)
    found = read_hpatches(original)
    assert [s.name for s in found.units] == ["i_hill", "v_hill"]
    warning = HPATCHES.warning(found) or ""
    assert "(2 of 116 sequences)" in warning
    light, view = found.units
    assert all(np.array_equal(pair.truth, np.eye(3)) for pair in light.pairs)
    photo = original.parent / "hill.png"
    again = make_synthetic([photo], tmp_path / "again", seed=3).units
    assert [s.fingerprint for s in again] == [light.fingerprint, view.fingerprint]
    other = make_synthetic([photo], tmp_path / "other", seed=4).units
    assert other[1].fingerprint != view.fingerprint


def test_data_that_is_no_hpatches(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(geomatch.GeomatchError, match=words):
            read_hpatches(tmp_path / "data")

    refused("no such folder")
    folder = tmp_path / "data" / "v_a"
    folder.mkdir(parents=True)
    refused(r"no HPatches there \(folders with images 1 to 6")
    (folder / "H_1_2").write_text("1 0 0\n0 1 0\n")
    refused("image 1 is missing")
    for number in (1, 2):
        PILImage.new("RGB", (8, 8)).save(folder / f"{number}.png")
    refused("expected a homography, 3 x 3 and not singular, got ")
    (folder / "H_1_2").write_text("words")
    refused("not a readable homography")


def test_all_protocols_and_the_second_run(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "out", "all", ["orb"])
    assert first.computed == 2 * len(PROTOCOLS)
    rows = {(r["protocol"], r["split"]): r for r in first.summaries()}
    assert len(rows) == len(PROTOCOLS) * 3
    assert all(row["pairs"] == (10 if split == "all" else 5) for (_, split), row in rows.items())
    assert rows["geomatch", "illumination"]["accuracy@3"] == 100
    assert rows["auc480", "all"]["AUC@5"] > 20
    second = run(data, tmp_path / "out", "all", ["orb"])
    assert (second.computed, second.path, second.record) == (0, first.path, first.record)
    content = json.loads(first.path.read_text())
    assert summarise_record(content) == first.summaries()
    text = table(HPATCHES, first.summaries())
    assert all(f"### {name}\n" in text for name in PROTOCOLS)
    # another estimator changes what an estimator decides, and nothing else
    other = run(data, tmp_path / "out", "mma,roma", ["orb+mnn+ransac"])
    changed = {row["protocol"]: row for row in other.summaries() if row["split"] == "all"}
    assert changed["mma"]["MMA@3"] == rows["mma", "all"]["MMA@3"]
    assert changed["roma"]["AUC@3"] == pytest.approx(rows["roma", "all"]["AUC@3"], abs=10)


def test_caches_know_content_not_names(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "out", "mma")
    (data / "v_hill").rename(data / "v_other")
    renamed = run(data, tmp_path / "out", "mma")
    assert renamed.computed == 1  # the fingerprint of a sequence holds its name
    assert len(list((tmp_path / "out" / "views").rglob("*.npz"))) == 2 * 6 - 1  # image 1 is the same twice
    shutil.copyfile(data / "i_hill" / "2.png", data / "i_hill" / "3.png")
    changed = run(data, tmp_path / "out", "mma")
    assert changed.computed == 1
    assert changed.path != first.path
    by_pair = {row["pair"]: row for row in changed.record["rows"]}
    assert by_pair["i_hill 1-2"]["within"] == by_pair["i_hill 1-3"]["within"]
    # a broken cache file is made again
    for file in (tmp_path / "out").rglob("*.npz"):
        file.write_bytes(b"half")
    assert numbers(run(data, tmp_path / "out", "mma").record) == numbers(changed.record)


@pytest.mark.slow
def test_killed_and_started_again(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, then two processes: the same numbers as an undisturbed run."""
    whole = run(data, tmp_path / "whole", methods=("sift",))
    command = [sys.executable, "-m", "geomatch", "benchmark", "hpatches", str(data), "--workers", "1"]
    command += ["--protocol", "mma,geomatch", "--method", "sift", "--max-keypoints", "250"]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if list((tmp_path / "out").glob("views/*/*.npz")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with LocalEngine(2) as engine:  # a user's describer travels to the workers, too
        methods = {"sift": "sift", "mine": (OpenCVDetector("sift", max_keypoints=250), Patches())}
        result = run(data, tmp_path / "out", methods=methods, engine=engine)
    assert [row for row in numbers(result.record) if row["method"] == "sift"] == numbers(whole.record)
    alone = run(data, tmp_path / "alone", methods={"mine": methods["mine"]})
    assert [row for row in numbers(result.record) if row["method"] == "mine"] == numbers(alone.record)


def test_bad_sequences_are_counted_and_the_rest_goes_on(data: Path, tmp_path: Path) -> None:
    source = data / "v_hill"
    for name, spoil in {
        "v_nan": lambda f: (f / "H_1_3").write_text("1 0 nan\n0 1 0\n0 0 1\n"),
        "v_eight": lambda f: (f / "H_1_3").write_text("1 0 0\n0 1 0\n0 0\n"),
        "v_no_homography": lambda f: (f / "H_1_3").unlink(),
        "v_no_image": lambda f: (f / "4.png").unlink(),
        "v_unreadable": lambda f: (f / "5.png").write_bytes(b"P6 no image"),
    }.items():
        spoil(Path(shutil.copytree(source, data / name)))
    result = run(data, tmp_path / "out", "mma,geomatch")
    skipped = result.record["skipped"]
    unusable = {"v_nan", "v_eight", "v_no_homography", "v_no_image"}
    assert skipped.keys() == {*unusable, "orb on v_unreadable 1-5"}
    assert "H_1_3: not a readable homography" in skipped["v_no_homography"]
    assert "image 4 is missing" in skipped["v_no_image"]
    rows = {(r["protocol"], r["pair"]): r for r in result.record["rows"]}
    assert "5.png" in rows["geomatch", "v_unreadable 1-5"]["reason"]
    assert rows["mma", "v_unreadable 1-4"]["reason"] is None
    by_split = {(r["protocol"], r["split"]): r for r in result.summaries()}
    assert by_split["mma", "viewpoint"]["pairs"] == 9  # it counts neither for nor against the method
    assert by_split["mma", "viewpoint"]["failures"] == 0


def test_wrong_use_is_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data.parent)
    Path("empty").mkdir()
    Path("file").write_text("in the way")
    for arguments, words in (
        ("empty", "no HPatches there"),
        ("nowhere", "no such folder"),
        ("data --method surf", "no method 'surf'"),
        ("data --method aliked:nowhere.pth+dift-tiny", "no such weights file"),
        ("data --protocol best", "unknown protocol 'best'"),
        ("data --method orb --out file", "file"),
    ):
        assert main(["benchmark", "hpatches", *arguments.split()]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
        assert len(lines) == 1
        assert words in lines[0]


def test_missing_weights_and_packages_skip_a_method_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("cv2.ORB_create")
    create_method.cache_clear()
    result = run(data, tmp_path / "out", "mma", ("orb", "sift", "xfeat"))
    assert list(result.record["methods"]) == ["sift"]
    assert "xfeat.pt is not in the cache" in result.record["skipped"]["xfeat"]
    assert "has no orb" in result.record["skipped"]["orb"]
    with pytest.raises(geomatch.GeomatchError, match="nothing can run"):
        run(data, tmp_path / "out", "mma", ("xfeat",))


def test_one_method_under_two_names_has_all_rows_under_both(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "mma,geomatch", ("orb", "orb+mnn"))
    assert result.computed == 4
    summaries = {(r["method"], r["protocol"], r["split"]): r for r in result.summaries()}
    for (method, protocol, split), row in summaries.items():
        assert {**row, "method": ""} == {**summaries["orb", protocol, split], "method": ""}, method
    assert len(result.record["rows"]) == 2 * 2 * 10


def test_images_without_content_fail_and_do_not_stop_the_run(tmp_path: Path) -> None:
    for name, size in {"v_tiny": (1, 1), "v_small": (20, 16), "v_blank": (90, 60)}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in (1, 2):
            PILImage.new("RGB", size, (90, 90, 90)).save(tmp_path / "data" / name / f"{number}.png")
        np.savetxt(tmp_path / "data" / name / "H_1_2", np.eye(3))
    names, methods = (
        "mma,auc480-poselib,superpoint",
        ("orb", "sift", "grid+dift-tiny-dense[image_size=64]"),
    )
    result = run(tmp_path / "data", tmp_path / "out", names, methods)
    # of a grid on a blank image all descriptors are alike, and matches can be anything
    assert all(row["reason"] for row in result.record["rows"] if "grid" not in row["method"])
    for row in result.summaries():
        assert row["pairs"] == (0 if row["split"] == "illumination" else 3)


def test_archive_is_unpacked_where_something_is_missing(data: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "hpatches-sequences-release.zip", tmp_path / "out"
    with zipfile.ZipFile(given, "w") as archive:
        for path in sorted(data.rglob("*.*")) + sorted(data.rglob("H_*")):
            archive.write(path, Path("hpatches-sequences-release") / path.relative_to(data))
        archive.writestr("hpatches-sequences-release/../../escape.txt", "out")
    found = read_hpatches(fetch_release(RELEASES["hpatches"], out, [given]))
    assert [s.fingerprint for s in found.units] == [s.fingerprint for s in read_hpatches(data).units]
    assert not (tmp_path / "escape.txt").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / "v_hill" / "6.png").unlink()
    fetch_release(RELEASES["hpatches"], out, [given])
    assert [path.name for path in before if before[path] != path.stat().st_mtime_ns] == ["6.png"]


@pytest.mark.shared
@pytest.mark.parametrize("name", [pytest.param("aliked-n16.pth", marks=pytest.mark.slow), "xfeat.pt"])
def test_baselines_on_a_real_pair(name: str, hpatches: Path) -> None:
    weights = hpatches.parents[1] / "weights" / name
    if not weights.is_file():
        pytest.skip("the baselines' weights of the development checkout are not here")
    method = create_method(f"{re.split(r'[-.]', name)[0]}:{weights}", 500)
    first, second = (geomatch.load_image(hpatches / "v_churchill" / f"{k}.ppm") for k in (1, 2))
    features0, features1 = method.describe([first, second], [method.detect(first), method.detect(second)])
    assert 0 < len(features0) <= 500
    assert features0.descriptors is not None
    assert features1.descriptors is not None
    found = geomatch.match_mutual(features0.descriptors, features1.descriptors, method.metric)
    truth = np.loadtxt(hpatches / "v_churchill" / "H_1_2")
    moved = geomatch.warp_points(truth, features0.keypoints[found.indices[:, 0]])
    apart = np.linalg.norm(moved - features1.keypoints[found.indices[:, 1]], axis=1)
    assert (apart < 3).mean() > 0.3  # of unrelated pairs about 1 in 10,000

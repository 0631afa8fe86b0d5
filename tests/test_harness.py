"""The HPatches harness: caches, interruption, bad data, records."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

import geomatch
from geomatch.benchmarks.harness.record import summarise_record, table
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.tasks.homography.data import RELEASE, fetch_hpatches, make_synthetic
from geomatch.benchmarks.tasks.homography.harness import run_hpatches
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS, find_protocols
from geomatch.benchmarks.tasks.homography.sequences import LARGE, SEQUENCES, read_data
from geomatch.benchmarks.tasks.homography.suite import SUITE
from geomatch.cli import main
from geomatch.engine import LocalEngine
from geomatch.files import sha256_of

PAIR = geomatch.bundled_pair()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with PILImage.open(PAIR.image0) as picture:
        picture.resize((400, 300)).save(folder / "hill.png")
    make_synthetic([folder / "hill.png"], folder / "data", seed=3)
    return folder / "data"


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def run(data: Path, out: Path, names: str = "mma,geomatch", methods: tuple[str, ...] = ("orb",)) -> Any:
    return run_hpatches(data, find_protocols(names), methods, out, 500, LocalEngine(1), progress=False)


def numbers(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record["rows"]]


def test_release_has_116_names() -> None:
    assert len(set(SEQUENCES)) == 116
    assert sum(name.startswith("i_") for name in SEQUENCES) == 57
    assert len(LARGE) == 8
    assert set(SEQUENCES) >= LARGE


def test_synthetic_data_is_seeded_and_exact(made: Path, data: Path, tmp_path: Path) -> None:
    found = read_data(made)
    assert [s.name for s in found.sequences] == ["i_hill", "v_hill"]
    assert not found.complete
    assert "0 of 116 sequences" in (found.warning or "")
    light, view = found.sequences
    assert all(np.array_equal(truth, np.eye(3)) for _, _, truth in light.targets)
    photo = made.parent / "hill.png"
    again = make_synthetic([photo], tmp_path / "again", seed=3).sequences
    assert [s.fingerprint for s in again] == [light.fingerprint, view.fingerprint]
    other = make_synthetic([photo], tmp_path / "other", seed=4).sequences
    assert other[1].fingerprint != view.fingerprint


def test_all_protocols_and_the_second_run(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("poselib")
    methods = ("sift", "sift+mnn+ransac")
    first = run(data, tmp_path / "out", "all", methods)
    assert first.computed == 2 * 2 * len(PROTOCOLS)
    rows = {(r["protocol"], r["method"], r["split"]): r for r in first.summaries()}
    assert len(rows) == len(PROTOCOLS) * 2 * 3
    assert all(row["pairs"] == (10 if key[2] == "all" else 5) for key, row in rows.items())
    easy = rows["geomatch", "sift", "illumination"]
    assert easy["accuracy@3"] == 100
    assert rows["auc480", "sift", "all"]["AUC@5"] > 40
    # another estimator changes what an estimator decides, and nothing else
    a, b = (rows["roma", method, "all"]["AUC@3"] for method in methods)
    assert rows["mma", methods[0], "all"]["MMA@3"] == rows["mma", methods[1], "all"]["MMA@3"]
    assert a == pytest.approx(b, abs=10)
    second = run(data, tmp_path / "out", "all", methods)
    assert (second.computed, second.path, second.record) == (0, first.path, first.record)
    content = json.loads(first.path.read_text())
    assert summarise_record(content) == first.summaries()
    assert content.keys() == {"schema", "benchmark", "data", "protocols", "methods", "settings", "skipped",
                              "versions", "machine", "rows"}  # fmt: skip
    text = table(SUITE, first.summaries())
    assert all(f"### {name}\n" in text for name in PROTOCOLS)


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
    for kept in (tmp_path / "out").rglob("*.npz"):
        kept.write_bytes(b"half")
    assert numbers(run(data, tmp_path / "out", "mma").record) == numbers(changed.record)


def test_killed_and_started_again(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, then two processes: the same numbers as an undisturbed run."""
    whole = run(data, tmp_path / "whole", "mma,geomatch", ("sift",))
    command = [sys.executable, "-m", "geomatch", "benchmark", "hpatches", str(data), "--workers", "1"]
    command += ["--protocol", "mma,geomatch", "--method", "sift", "--max-keypoints", "500"]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if list((tmp_path / "out").glob("views/*/*.npz")) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with LocalEngine(2) as engine:
        result = run_hpatches(
            data, find_protocols("mma,geomatch"), ["sift"], tmp_path / "out", 500, engine, progress=False
        )
    assert numbers(result.record) == numbers(whole.record)
    assert result.path.name == whole.path.name


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
    assert skipped.keys() == {"v_nan", "v_eight", "v_no_homography", "v_no_image"}
    assert "H_1_3 is missing" in skipped["v_no_homography"]
    assert "image 4 is missing" in skipped["v_no_image"]
    rows = {(r["protocol"], r["pair"]): r for r in result.record["rows"]}
    assert "5.png" in rows["geomatch", "v_unreadable 1-5"]["reason"]
    assert rows["mma", "v_unreadable 1-4"]["reason"] is None
    by_split = {(r["protocol"], r["split"]): r for r in result.summaries()}
    assert by_split["mma", "viewpoint"]["pairs"] == 10
    assert by_split["mma", "viewpoint"]["failures"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["empty"], "no HPatches sequences there"),
        (["nowhere"], "no such folder"),
        (["data", "--method", "surf"], "no method 'surf'"),
        (["data", "--method", "aliked:nowhere.pth+dift-tiny"], "no such weights file"),
        (["data", "--protocol", "best"], "unknown protocol 'best'"),
        (["data", "--method", "aliked:nowhere.pth"], "no such weights file"),
        (["data", "--method", "orb", "--out", "file"], "file"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], words: str, data: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(data.parent)
    Path("empty").mkdir()
    Path("file").write_text("in the way")
    assert main(["benchmark", "hpatches", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1
    assert words in lines[0]


def test_full_disk_is_one_line_and_nothing_is_lost(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = run(data, tmp_path / "out", "mma")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geomatch.store.store.replacing", full)
    command = ["benchmark", "hpatches", str(data), "--protocol", "mma,auc480", "--method", "orb"]
    command += ["--max-keypoints", "500", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert run(data, tmp_path / "out", "mma").record == kept.record


def test_missing_weights_skip_a_method_only(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "mma", ("orb", "xfeat"))
    assert list(result.record["methods"]) == ["orb"]
    assert "xfeat.pt is not in the cache" in result.record["skipped"]["xfeat"]


def test_missing_packages_skip_what_needs_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "poselib", None)
    monkeypatch.delattr("cv2.ORB_create")
    create_method.cache_clear()
    result = run(data, tmp_path / "out", "mma,auc480-poselib", ("orb", "sift"))
    assert "pip install 'geomatch-dift[poselib]'" in result.record["skipped"]["auc480-poselib"]
    assert "has no ORB_create" in result.record["skipped"]["orb"]
    assert {(row["method"], row["protocol"]) for row in result.record["rows"]} == {("sift", "mma")}
    with pytest.raises(geomatch.GeomatchError, match="nothing can run"):
        run(data, tmp_path / "out", "auc480-poselib", ("sift",))


def test_one_method_written_in_two_ways_has_all_rows_under_both(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "out", "mma,geomatch", ("orb", "orb+mnn"))
    assert result.computed == 4
    summaries = {(r["method"], r["protocol"], r["split"]): r for r in result.summaries()}
    for (method, protocol, split), row in summaries.items():
        assert {**row, "method": ""} == {**summaries["orb", protocol, split], "method": ""}, method
    assert len(result.record["rows"]) == 2 * 2 * 10


def test_images_without_content_fail_and_do_not_stop_the_run(tmp_path: Path) -> None:
    for name, size in {"v_tiny": (1, 1), "v_small": (20, 16), "v_blank": (300, 200)}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(1, 7):
            PILImage.new("RGB", size, (90, 90, 90)).save(tmp_path / "data" / name / f"{number}.png")
            np.savetxt(tmp_path / "data" / name / f"H_1_{number}", np.eye(3))
    result = run(tmp_path / "data", tmp_path / "out", "all", ("orb", "sift", "grid+dift-tiny-dense"))
    # of a grid on a blank image all descriptors are alike, and matches can be anything
    assert all(row["reason"] for row in result.record["rows"] if "grid" not in row["method"])
    for row in result.summaries():
        assert row["pairs"] == (0 if row["split"] == "illumination" else 15)


def test_archive_is_fetched_checked_and_unpacked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / RELEASE.file_name, "w") as archive:
        for path in sorted(data.rglob("*.*")) + sorted(data.rglob("H_*")):
            archive.write(path, Path("hpatches-sequences-release") / path.relative_to(data))
        archive.writestr("hpatches-sequences-release/../../escape.txt", "out")
    handler: Callable[..., Any] = partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{RELEASE.file_name}"
        right = replace(RELEASE, url=url, sha256=sha256_of(site / RELEASE.file_name))
        with pytest.raises(geomatch.WeightsError, match="wrong SHA-256"):
            fetch_hpatches(tmp_path / "out", release=replace(RELEASE, url=url))
        found = fetch_hpatches(tmp_path / "out", release=right)
        server.shutdown()
    assert [s.fingerprint for s in found.sequences] == [s.fingerprint for s in read_data(data).sequences]
    assert not (tmp_path / "escape.txt").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "v_hill" / "6.png").unlink()
    fetch_hpatches(tmp_path / "out", release=right)  # from the cache, and only what is missing
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path.name for path in before if before[path] != after[path]] == ["6.png"]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["aliked:aliked-n16.pth", "xfeat:xfeat.pt"])
def test_peers_on_a_real_pair(name: str, hpatches: Path) -> None:
    weights = hpatches.parents[1] / "weights" / name.split(":")[1]
    if not weights.is_file():
        pytest.skip("the peers' weights of the development checkout are not here")
    method = create_method(f"{name.split(':')[0]}:{weights}", 500)
    first, second = (geomatch.load_image(hpatches / "v_churchill" / f"{k}.ppm") for k in (1, 2))
    features0, features1 = method.extract([first, second])
    assert 0 < len(features0) <= 500
    assert features0.descriptors is not None
    assert features1.descriptors is not None
    found = geomatch.match_mutual(features0.descriptors, features1.descriptors, method.metric)
    truth = np.loadtxt(hpatches / "v_churchill" / "H_1_2")
    moved = geomatch.warp_points(truth, features0.keypoints[found.indices[:, 0]])
    apart = np.linalg.norm(moved - features1.keypoints[found.indices[:, 1]], axis=1)
    assert (apart < 3).mean() > 0.3  # of unrelated pairs about 1 in 10,000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_is_one_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "locked"
    out.mkdir(mode=0o500)
    assert main(["benchmark", "hpatches", str(data), "--method", "orb", "--out", str(out)]) == 2
    assert "Permission denied" in capsys.readouterr().err.splitlines()[-1]

"""The releases' downloads: from a local server, from files given, damaged ones, and what is there already."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from posed_data import make_megadepth

import geomatch
from geomatch.benchmarks.harness import download
from geomatch.benchmarks.harness.download import RELEASES, fetch_release, unpack
from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.tasks.pose.data import read_cameras
from geomatch.cli import main
from geomatch.places import cache_folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Small archives under the names of JHMDB's files, and a list."""
    folder = tmp_path / "site"
    source = folder / "Rename_Images" / "wave" / "a"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("00001.png", "00002.png"):
        (source / name).write_bytes(rng.bytes(5000))
    with tarfile.open(folder / "Rename_Images.tar.gz", "w:gz") as archive:
        archive.add(folder / "Rename_Images", "Rename_Images")
        archive.addfile(tarfile.TarInfo("../../escape.txt"))
    for name, place in (("joint_positions.zip", "joint_positions/x.mat"), ("splits.zip", "splits/wave.txt")):
        with zipfile.ZipFile(folder / name, "w") as zipped:
            zipped.writestr(place, "content")
            zipped.writestr("__MACOSX/x", "none")
    return folder


def given(site: Path) -> list[Path]:
    return [site / file.file_name for file, _ in RELEASES["jhmdb"].files]


def test_files_that_are_given_are_unpacked_once(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fetch_release(RELEASES["jhmdb"], out, given(site)) == out / "JHMDB"
    found = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert found.keys() == {
        "JHMDB/Rename_Images/wave/a/00001.png", "JHMDB/Rename_Images/wave/a/00002.png",
        "JHMDB/joint_positions/x.mat", "JHMDB/splits/wave.txt",
    }  # fmt: skip
    assert not (tmp_path / "escape.txt").exists()
    before = {name: path.stat().st_mtime_ns for name, path in found.items()}
    wrong = found["JHMDB/Rename_Images/wave/a/00002.png"]
    content = wrong.read_bytes()
    wrong.write_bytes(bytes([content[0] ^ 1]) + content[1:])  # of the same size
    fetch_release(RELEASES["jhmdb"], out, given(site))
    assert wrong.read_bytes() == content
    assert [path for name, path in found.items() if before[name] != path.stat().st_mtime_ns] == [wrong]


def test_damaged_archives_are_refused_and_leave_nothing(site: Path, tmp_path: Path) -> None:
    whole = (site / "Rename_Images.tar.gz").read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(20, len(whole), 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (site / "Rename_Images.tar.gz").write_bytes(bytes(damaged))
        with pytest.raises(geomatch.GeomatchError, match=r"Rename_Images\.tar\.gz: damaged .* delete it"):
            fetch_release(RELEASES["jhmdb"], tmp_path / "out", given(site))
        assert not list((tmp_path / "out").rglob("*.png"))
    (site / "Rename_Images.tar.gz").write_bytes(gzip.compress(b"no archive" * 200))
    with pytest.raises(geomatch.GeomatchError, match="damaged or no archive"):
        fetch_release(RELEASES["jhmdb"], tmp_path / "out", given(site))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_that_would_fill_the_disk_are_refused(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    """By the sizes that they state, which no reading exceeds."""
    monkeypatch.setattr(download, "SMALL", 2**20)
    path, size = tmp_path / f"bomb.{kind}", 2**25
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("small.txt", "x")
            zipped.writestr("zeros", bytes(size))
    else:
        with tarfile.open(path, "w:gz") as packed:
            for name, length in (("small.txt", 1), ("zeros", size)):
                entry = tarfile.TarInfo(name)
                entry.size = length
                packed.addfile(entry, io.BytesIO(bytes(length)))
        path = path.rename(path.with_name("bomb.tar.gz"))
    with pytest.raises(geomatch.GeomatchError, match=r"bomb.* unpacks to more than 30 times its size"):
        unpack(path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.txt"]


def test_members_are_never_whole_in_memory(tmp_path: Path) -> None:
    size, path = 2**25, tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("big", bytes(size))
    for _ in range(2):  # the second time it is compared
        tracemalloc.start()
        unpack(path, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size / 8
    assert (tmp_path / "out" / "big").stat().st_size == size


def test_odd_archives_are_one_line_and_write_nothing_elsewhere(tmp_path: Path) -> None:
    path, out = tmp_path / "odd.zip", tmp_path / "out"
    outside = ("../up.txt", "/etc/geomatch-test", "a/../../up.txt")
    with zipfile.ZipFile(path, "w") as zipped:
        for name in ("in/here.txt", *outside):
            zipped.writestr(name, "content")
    unpack(path, out)
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["here.txt"]
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # encrypted
    data[6] |= 1
    path.write_bytes(data)
    with pytest.raises(
        geomatch.GeomatchError, match=r"odd.zip: damaged or no archive .*(password|encrypted)"
    ):
        unpack(path, out)
    with tarfile.open(tmp_path / "links.tar.gz", "w:gz") as packed:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = kind, "../../up.txt"
            packed.addfile(entry)
    unpack(tmp_path / "links.tar.gz", tmp_path / "links")
    assert not (tmp_path / "links").exists()


@pytest.fixture
def base(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the site."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_release_from_a_server(
    site: Path, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page in place of an archive is refused, and nothing of it is kept."""
    files = [
        (replace(file, url=f"{base}/{file.file_name}"), place) for file, place in RELEASES["jhmdb"].files
    ]
    monkeypatch.setitem(RELEASES, "jhmdb", replace(RELEASES["jhmdb"], files=files))
    whole = (site / "splits.zip").read_bytes()
    (site / "splits.zip").write_bytes(b"<html><body>Please log in</body></html>")
    assert main(["data", "jhmdb", str(tmp_path / "out")]) == 2
    assert "cannot download splits.zip (it is no whole .zip file: it is a page" in capsys.readouterr().err
    assert not list(cache_folder().glob("*splits.zip*"))
    (site / "splits.zip").write_bytes(whole)
    fetch_release(RELEASES["jhmdb"], tmp_path / "out")
    assert (tmp_path / "out" / "JHMDB" / "splits" / "wave.txt").read_text() == "content"


@pytest.mark.parametrize("name", ["evd", "wxbs"])
def test_a_release_whose_md5_is_known(
    name: str, site: Path, base: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The licence comes before the download; another file than the known one is refused and not kept."""
    ((file, place),) = RELEASES[name].files
    assert len(file.md5 or "") == 32
    image = PILImage.fromarray(np.zeros((8, 8, 3), np.uint8))
    with zipfile.ZipFile(site / file.file_name, "w") as zipped:
        for where in ("EVD/1/cat", "EVD/2/cat", "v1.1/WGBS/cat/01", "v1.1/WGBS/cat/02"):
            image.save(coded := io.BytesIO(), "png")
            zipped.writestr(f"{where}.png", coded.getvalue())
        zipped.writestr("EVD/h/cat.txt", "1 0 0\n0 1 0\n0 0 1")
        zipped.writestr("v1.1/WGBS/cat/corrs.txt", "1 2 3 4")
    served = replace(file, url=f"{base}/{file.file_name}")
    monkeypatch.setitem(RELEASES, name, replace(RELEASES[name], files=[(served, place)]))
    assert main(["data", name, str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("licence     none stated")
    assert f"expected {file.md5}" in said.err
    assert not list(cache_folder().glob(f"*{file.file_name}"))
    right = hashlib.md5((site / file.file_name).read_bytes()).hexdigest()
    monkeypatch.setitem(RELEASES, name, replace(RELEASES[name], files=[(replace(served, md5=right), place)]))
    assert main(["data", name, str(tmp_path / "out")]) == 1  # one pair is not the whole
    said = capsys.readouterr()
    assert "present" in said.out
    assert "numbers are not comparable with published ones" in said.err
    assert [unit.name.rpartition("/")[2] for unit in find_task(name).read(tmp_path / "out", None).units] == [
        "cat"
    ]


def test_megadepth_from_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index files that are no archives are put beside what the archive holds; the licence comes first."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    site = make_megadepth(tmp_path / "megadepth_test_1500")
    with tarfile.open(site / "megadepth_test_1500.tar", "w") as packed:
        packed.add(site / "Undistorted_SfM", "megadepth_test_1500/Undistorted_SfM")
    release = RELEASES["megadepth"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    files = [
        (replace(file, url=f"{base}/{file.file_name}"), place)
        for file, place in release.files
        if (site / file.file_name).is_file()
    ]
    assert len(files) == 3
    monkeypatch.setitem(RELEASES, "megadepth", replace(release, files=files))
    assert main(["data", "megadepth", str(tmp_path / "out")]) == 1  # 3 of 1500 pairs
    server.shutdown()
    server.server_close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"licence     {files[0][0].licence}"
    assert lines[-1].startswith("done        MegaDepth-1500 is present in ")
    assert len(read_cameras("megadepth", tmp_path / "out" / "megadepth-1500").units[0].pairs) == 3


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_wrong_use_is_one_line(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, archives, words in (
        ("spair", [], "SPair-71k.tar.gz is not in the cache and downloads are off"),
        ("spair", ["--archive", str(site / "splits.zip")], "the release has SPair-71k.tar.gz"),
        ("jhmdb", ["--archive", str(tmp_path / "splits.zip")], "no such file"),
    ):
        assert main(["data", name, str(tmp_path / "o"), *archives]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("geomatch:")]
        assert len(lines) == 1
        assert words in lines[0]

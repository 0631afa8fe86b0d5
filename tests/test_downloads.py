"""The releases' downloads: from a local server, from files given, damaged ones, and what is there already."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import geomatch
from geomatch.benchmarks.harness.download import RELEASES, fetch_release
from geomatch.cli import main


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

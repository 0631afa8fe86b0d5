"""Files that are damaged, hostile, or left behind: one line that names them, and nothing stays."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import pytest

import geomatch.files
from geomatch.cli import main
from geomatch.errors import FeaturesError, GeomatchError, reading
from geomatch.files import new_folder, replacing
from geomatch.images import Image


def test_what_a_library_raises_becomes_one_line_with_the_name_of_the_file() -> None:
    path = Path("a.json")
    with pytest.raises(GeomatchError) as deep, reading(path, "record"):
        json.loads("[" * 100_000)
    assert str(deep.value).startswith("a.json: not a readable record (")
    with pytest.raises(FeaturesError) as lacking, reading(path, "list", FeaturesError):
        {}["pairs"]
    assert str(lacking.value) == "a.json: not a readable list (it lacks 'pairs')"
    with pytest.raises(GeomatchError) as missing, reading(path, "list"):
        Path("/nowhere/at/all").read_bytes()
    assert str(missing.value) == "a.json: not a readable list (No such file or directory)"
    with pytest.raises(GeomatchError) as several, reading(path, "archive"):
        raise zipfile.BadZipFile("one\ntwo")
    assert str(several.value) == "a.json: not a readable archive (one)"


@pytest.mark.parametrize("error", [FeaturesError("ours"), MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_own_errors_a_lack_of_memory_and_interruptions_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("a", "file"):
        raise error
    assert caught.value is error


WRITING = """
import sys, time
from pathlib import Path
from geomatch.files import new_folder, replacing
with replacing(sys.argv[1] + "/a.txt") as file, new_folder(sys.argv[1] + "/b") as folder:
    (folder / "c").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_killed_processes_left_is_removed_by_the_next_and_no_living_ones_files(tmp_path: Path) -> None:
    living, dead = (
        subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(2)
    )
    try:
        for process in (living, dead):
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
        dead.kill()
        dead.wait()
        (own,) = {name.split("-")[1] for name in os.listdir(tmp_path)}
        # another machine's, old and new, and this one's, with a number that was given again
        for name in ("01234567-1-1-old.txt", "01234567-1-1-new.txt", f"{own}-{os.getpid()}-1-again.txt"):
            (tmp_path / f".geomatch-{name}").write_text("half")
        os.utime(tmp_path / ".geomatch-01234567-1-1-old.txt", (0, 0))
        (tmp_path / ".geomatch-notes").write_text("not ours")
        with replacing(tmp_path / "d.txt") as file:
            assert file.name.startswith(f".geomatch-{own}-{os.getpid()}-")
        left = sorted(os.listdir(tmp_path))
        kept = [".geomatch-01234567-1-1-new.txt", ".geomatch-notes", "d.txt"]
        assert [name for name in left if f"-{living.pid}-" not in name] == kept
        assert len(left) == len(kept) + 2
    finally:
        living.kill()
        living.communicate()
        dead.communicate()


@pytest.mark.parametrize("function", [replacing, new_folder])
def test_an_interruption_anywhere_leaves_no_temporary_file(function: Any, tmp_path: Path) -> None:
    """An exception before each line of the function in turn, as a signal raises it.

    Of one that comes while what is done is tidied up, the next process removes the empty folder.
    """
    with function(tmp_path / "warm up"):
        pass
    (tmp_path / "none").mkdir()
    for line in count(1):
        countdown = iter(range(line))

        def trace(frame: Any, event: str, argument: object, countdown: Any = countdown) -> Any:
            ours = frame.f_code.co_filename == geomatch.files.__file__
            if ours and event == "line" and next(countdown, None) == line - 1:  # noqa: B023
                raise SystemExit
            return trace if ours else None

        sys.settrace(trace)
        try:
            with function(tmp_path / "none" / f"{line}.txt"):
                pass
            sys.settrace(None)
            break
        except SystemExit:
            sys.settrace(None)
            left = os.listdir(tmp_path / "none")
            assert f"{line}.txt" in left or not any(name.startswith(".") for name in left)
    assert line > 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [None, ValueError("trying to pop from empty mode stack")])
def test_what_a_library_makes_of_a_signal_does_not_matter(
    number: signal.Signals, after: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Torch was seen to turn the exception into another error, and Python swallows it in destructors."""

    def swallow(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException:
            if after is not None:
                raise after from None

    monkeypatch.setattr("geomatch.cli.app.main", swallow)
    before = signal.signal(number, signal.default_int_handler)
    try:
        assert main([]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == ("geomatch: interrupted\n" if number == signal.SIGINT else "")


def test_pycolmap_leaves_the_signals_that_end_a_command() -> None:
    """Its logging library prints a stack and ends the process at SIGTERM, with all temporary files left."""
    code = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); from geomatch.cameras import pycolmap"
    )
    run = [sys.executable, "-c", code + "; pycolmap(); signal.raise_signal(15)"]
    ended = subprocess.run(run, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (7, b"")


def test_pipes_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(OSError, match=f"{name} is a folder, pipe or device"), replacing(tmp_path / name):
            raise AssertionError
    assert sorted(os.listdir(tmp_path)) == ["device", "folder", "pipe"]


def test_a_terminated_command_leaves_no_temporary_files(photo0: Image, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    frame = cv2.resize(photo0.pixels, (128, 96))
    for number in range(400):
        cv2.imwrite(str(tmp_path / "frames" / f"{number:03d}.png"), frame)
    out = tmp_path / "out"
    track = ["track", str(tmp_path / "frames"), "--points", "30,30", "--cells", "12", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "geomatch", *track], stderr=subprocess.PIPE)
    while process.poll() is None and not list(out.glob(".geomatch-*.mp4")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert b"Traceback" not in err
    assert list(out.rglob(".*")) == []

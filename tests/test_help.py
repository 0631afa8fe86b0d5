"""Help in panels with examples, quiet and verbose commands, bars, completion."""

import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from pages import Workplace, parse
from pages import run as run_line

from geomatch.benchmarks.harness.download import RELEASES
from geomatch.cli import app, main
from geomatch.cli.help import add_help, commands_of
from geomatch.progress import progress_bar

TOLD = tomllib.loads(files("geomatch.cli").joinpath("help.toml").read_text())
COMMANDS = dict(commands_of(app))
EXAMPLES = [line for lines in TOLD["examples"].values() for line in lines]
ELSEWHERE = (
    "benchmark evd", "benchmark homogr", "benchmark oxford", "benchmark pairs", "benchmark wxbs",
    "benchmark mega", "benchmark scannet", "benchmark pose", "benchmark sfm", "benchmark willow",
    "benchmark cub", "benchmark jhmdb", "benchmark davis DAVIS --split", "data hpatches", "data evd",
    "data wxbs", "data mega", "data spair", "data willow", "data cub", "data davis", "data jhmdb",
    "models fetch", "models layers dift-sd", "models check", "head fit dift-sd", "triangulate", "localize",
    "colmap outputs", "store info s3", "store prune", "app", "demo",
)  # fmt: skip
"""What needs downloads, other data sets or a model; pages of the documentation run most of these."""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def test_every_command_has_examples_that_are_understood() -> None:
    assert set(COMMANDS) <= set(TOLD["examples"])
    for path, lines in TOLD["examples"].items():
        assert lines, path
        for line in lines:
            assert line.startswith(f"geomatch {path}".strip()), line
            parse(line)


def test_archives_of_examples_are_those_of_the_releases() -> None:
    for line in EXAMPLES:
        if "--archive" in line:
            _, _, name, *_, archive = line.split()
            assert archive in [file.file_name for file, _ in RELEASES[name].files], line


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS)
def test_examples_run(path: str, here: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(here.material, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    if path in ("benchmark report", "store", "store info", "colmap check"):
        assert run_line(TOLD["examples"]["colmap"][0]) == 0
        assert run_line("geomatch benchmark hpatches hpatches-sequences --method orb --protocol mma") == 0
    for line in TOLD["examples"][path]:
        if not line.removeprefix("geomatch ").startswith(ELSEWHERE):
            assert run_line(line) in ((0, 1) if path == "reconstruct" else (0,)), line


def test_every_option_is_in_one_panel(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    settings = add_help(app)
    assert set(settings["option_groups"]) <= {f"geomatch {path}" for path in COMMANDS}
    for path, command in COMMANDS.items():
        code, told, _ = run(*path.split(), "--help")
        assert code == 0
        rows = re.findall(r"^│ [*]? *(--\S+)(?: / (--\S+))?", told, re.MULTILINE)
        shown = [name for row in rows for name in row if name]
        options = [
            name for one in command.params for name in (*one.opts, *one.secondary_opts) if name[:2] == "--"
        ]
        assert sorted(shown) == sorted([*options, "--help"]), path
        assert "Examples:" in told
    _, told, _ = run("--help")
    for name in app.commands:
        assert told.count(f"\n│ {name} ") == 1


PLAIN = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}


@pytest.mark.parametrize("words", [["--help"], ["match", "--help"]])
def test_help_in_a_narrow_pipe(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geomatch", *words]
    for settings in ({}, {"NO_COLOR": "1", "TERM": "xterm"}, {"PYTHONIOENCODING": "ascii"}):
        given = {**PLAIN, "COLUMNS": "60", **settings}
        done = subprocess.run(command, capture_output=True, env=given, cwd=tmp_path, check=True)
        lines = done.stdout.decode().splitlines()
        assert max(map(len, lines)) <= 60
        assert "\x1b" not in done.stdout.decode()
        assert done.stderr == b""


LAZY = """
import sys
from geomatch.cli import main
assert main(["match", "no.jpg", "no.jpg"]) == 2
print(*sorted({"rich"} & set(sys.modules)))
"""


def test_what_help_needs_is_loaded_for_help(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "\n"
    assert done.stderr == "geomatch: no.jpg: no such file\n"


def test_without_a_command_there_is_help(run: Callable[..., tuple[int, str, str]]) -> None:
    for words in ([], ["colmap"]):
        code, told, err = run(*words)
        assert (code, err) == (2, "")
        assert "Usage: geomatch" in told


def test_quiet_and_verbose(
    run: Callable[..., tuple[int, str, str]], small_views: Path, tmp_path: Path
) -> None:
    views = sorted(small_views.iterdir())[:2]
    line = ["match", *views, "--detector", "sift", "--max-keypoints", "100"]
    _, told, err = run(*line)
    assert err.splitlines()[-1].endswith(" ...")
    assert "detect ...\n" in err
    assert "took" not in err
    code, again, err = run(*line, "--quiet")
    assert err == ""
    assert told.splitlines()[0] == again.splitlines()[0]
    assert again.splitlines()[-1].startswith("done        ")
    assert "detect took 0." in run("--verbose", *line)[2]
    code, _, err = run("match", "no.jpg", "no.jpg", "-q")
    assert (code, err) == (2, "geomatch: no.jpg: no such file\n")
    # of many pairs no stages are told, but their times are
    (tmp_path / "pairs.txt").write_text(f"{views[0]} {views[1]}\n")
    listed = ["match", "--pairs", tmp_path / "pairs.txt", *line[3:]]
    assert "detect" not in run(*listed)[2]
    assert "detect took 0." in run(*listed, "-v")[2]
    assert logging.getLogger("geomatch").level == logging.getLogger("geomatch.pipeline").level == 0


def test_a_bar_is_for_terminals_and_can_be_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(stream: io.StringIO, shown: bool = True) -> str:
        monkeypatch.setattr("sys.stderr", stream)
        assert list(progress_bar(range(3), "work", "image", shown=shown)) == [0, 1, 2]
        return stream.getvalue()

    assert "work: 100%" in shown(Terminal())
    assert "3/3" in shown(Terminal())
    assert shown(io.StringIO()) == ""
    assert shown(Terminal(), shown=False) == ""
    monkeypatch.setattr(logging.getLogger("geomatch"), "level", logging.ERROR)
    logging.getLogger("geomatch").manager._clear_cache()  # type: ignore[attr-defined]
    assert shown(Terminal()) == ""


COMPLETING = """
eval "$(_GEOMATCH_COMPLETE=bash_source geomatch)"
complete -p geomatch
tried() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _geomatch_completion geomatch; echo "${COMPREPLY[*]}"
}
tried geomatch pro
tried geomatch match --effort ""
tried geomatch match --detector superpoint-t
tried geomatch show --descriptor dift-tiny-d
tried geomatch benchmark wi
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETING], capture_output=True, text=True, cwd=tmp_path, env={**PLAIN, "PATH": path}
    )
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _geomatch_completion geomatch", "propagate", "fast normal high",
        "superpoint-tiny", "dift-tiny-dense", "willow",
    ], done.stderr  # fmt: skip

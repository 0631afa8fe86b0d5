"""Whatever the command line says, the command ends with a known code, and an error is one line."""

import random
import socket
import subprocess
import sys
from pathlib import Path

import command_lines
import pytest

from geomatch.cli import app, main


def test_every_command_and_option_is_tried() -> None:
    wanted = {
        (names, option)
        for names, command in command_lines.commands(app)
        for parameter in command.params
        if parameter.name != "quiet"  # which every command has
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    for number in range(5000):
        line = command_lines.random_line(random.Random(f"0 {number}"))
        wanted -= {(tuple(line[:count]), word) for count in (1, 2) for word in line}
    assert wanted == set()


def test_random_lines_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_lines, "HOSTILE", ["", "nan", "-1", "caf\udce9", "[", "~nosuch/x", "a\nb"])
    for number in range(40):
        line = command_lines.random_line(random.Random(number))
        if line[0] in ("demo", "app"):  # work anywhere, and take long
            continue
        code = main(line)
        assert code in command_lines.CODES, line
        assert not command_lines.unexpected(code, capsys.readouterr().err), line


@pytest.mark.slow
def test_random_lines_with_damaged_files() -> None:
    """``--count 2000`` is the whole study."""
    study = [sys.executable, command_lines.__file__, "--count", "100", "--seed", "1"]
    done = subprocess.run(study, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""The page of troubleshooting has every message of the code, as printed, and no other."""

import re
import tomllib

import click
import pytest
from layout import ROOT
from messages import READ, VALUE, messages

from geomatch.cli import app

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SHOWN = [
    one or other for one, other in re.findall(r"^(?:- |  )(?:`([^`]+)`|`` (.+) ``)\\?$", PAGE, re.MULTILINE)
]
CAUGHT = {"no angle"}
"""What no user sees."""


def fragments(text: str) -> list[str]:
    """Words between values, of f-strings and other ways to fill them in."""
    parts = re.split(rf"{VALUE}|%s|%d|%\.0f|\{{\}}", text.replace("%%", "%"))
    return [part.strip() for part in parts if part.strip()]


@pytest.fixture(scope="module")
def spoken() -> dict[str, str]:
    return messages()


def test_page_has_every_message(spoken: dict[str, str]) -> None:
    """Each is found in a line, with something in place of values."""
    lines, missing = "\n".join(SHOWN), []
    for text, path in sorted(spoken.items()):
        words = fragments(text)
        several = len(re.findall(r"\S*\w\S*", " ".join(words))) > 1
        several &= not text.startswith(READ)  # one line has all that have no remedy of their own
        if several and text not in CAUGHT and not re.search(".*?".join(map(re.escape, words)), lines):
            missing.append(f"{path}: {text}")
    assert not missing, "add to docs/troubleshooting.md what to do about:\n" + "\n".join(missing)


def test_page_has_no_other_message(spoken: dict[str, str]) -> None:
    """Nothing is left of a line when the words of the code are taken out."""
    words = sorted({word for text in spoken for word in fragments(text)}, key=len, reverse=True)
    left = []
    for shown in SHOWN:
        rest = shown
        for word in words:
            if word in rest:
                start = r"(?<!\w)" if word[0].isalnum() else ""
                rest = re.sub(start + re.escape(word), VALUE, rest)
        if re.search(r"\w", rest):
            left.append(f"{shown}\n    {rest}")
    assert not left, "take from docs/troubleshooting.md, not in the code:\n" + "\n".join(left)


def test_each_is_there_once() -> None:
    """No message has two places, and no list two of one."""
    assert len(SHOWN) == len(set(SHOWN)), {text for text in SHOWN if SHOWN.count(text) > 1}


def test_install_has_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(extras)


def test_advice_names_options_that_exist() -> None:
    """Options outside the messages are those of some command."""
    advice = "\n".join(line for line in PAGE.splitlines() if not line.startswith("- `"))
    assert set(re.findall(r"(?<=[`( ])--[a-z][a-z0-9-]*", advice)) <= options_of(app)


def options_of(command: click.Command) -> set[str]:
    """All options of a command and those below."""
    found = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for other in command.commands.values() if isinstance(command, click.Group) else ():
        found |= options_of(other)
    return found

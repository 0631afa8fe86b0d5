"""The commands and the Python of all pages and docstrings run as printed, some with models of diffusers."""

import doctest
import importlib
import pkgutil
import pydoc
import re

import pytest
from layout import PACKAGES, ROOT
from pages import PAGES, Block, Workplace, blocks, parse

from geomatch.cli import app

BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name.replace(" ", "-"), marks=[pytest.mark.slow] if block.slow else [])
        for block in BLOCKS
        if not block.skipped
    ],
)
def test_block_runs_as_printed(block: Block, here: Workplace) -> None:
    """After the blocks before it, in one folder per page."""
    here.run(block)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name.replace(" ", "-"))
def test_block_is_understood(block: Block) -> None:
    """Options are there, targets of make and extras too, whether or not the block runs."""
    if block.language == "python":
        compile(block.text, block.name, "exec")
        return
    assert block.commands, "an empty block"
    for command in block.commands:
        if command.startswith("geomatch "):
            parse(command)
        elif command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                command
            )
        else:
            assert block.skipped, f"{command}: nothing runs this; say why (skip=)"


def test_pages_show_every_command() -> None:
    shown = {
        command.split()[1]
        for block in BLOCKS
        for command in block.commands
        if command.startswith("geomatch ")
    }
    assert set(app.commands) <= shown


def test_names_on_pages_are_there() -> None:
    """Every dotted name in backticks, and every path of the repository."""
    for page in [*ROOT.glob("*.md"), *PAGES[1:]]:
        text = page.read_text()
        for name in re.findall(r"`(?:python -m )?(geomatch(?:\.\w+)+)", text):
            assert pydoc.locate(name) is not None, f"{page.name}: {name}"
        for name in re.findall(r"`((?:geomatch|keypoints|estimators|benchmarks|tests)/[\w./-]+)`", text):
            assert "NAME" in name or "VERSION" in name or (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_doctests(package: str, request: pytest.FixtureRequest) -> None:
    if package == "geomatch":  # on the small pair
        request.getfixturevalue("here")
    root = importlib.import_module(package)
    names = [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(root.__path__) if not m.ispkg)]
    for name in names:
        if name.endswith("__main__"):
            continue
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert failed == 0, name

"""The gallery's page, its pictures and its photographs belong together."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from layout import ROOT
from PIL import Image

from geomatch.demo import bundled_pair, real_pair

FOLDER = ROOT / "docs" / "gallery"
PHOTOS = FOLDER / "photos"
MAKE = runpy.run_path(str(FOLDER / "make.py"), run_name="make")


def test_every_picture_has_a_command_that_makes_it() -> None:
    outputs = {shlex.split(command)[-1] for command in MAKE["COMMANDS"]}
    shown = [{Path(file).parts[0] for file in files.split()} for _, files in MAKE["PICTURES"]]
    assert set().union(*shown) == outputs
    assert 12 <= len(shown) == len(MAKE["COMMANDS"]) <= 20


def test_pictures_are_light_and_all_shown() -> None:
    names = {name for name, _ in MAKE["PICTURES"]} | {"grid.jpg"}
    assert {path.name for path in FOLDER.glob("*.jpg")} == names
    for name in names:
        assert (FOLDER / name).stat().st_size <= (200_000 if name == "grid.jpg" else 120_000)
        with Image.open(FOLDER / name) as picture:
            assert picture.width in (1000, 1200)


def test_photographs_are_there_and_credited() -> None:
    """Each file is used by a command, and has a row with its licence; the demo's are those of the gallery."""
    credits = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    words = {word for command in MAKE["COMMANDS"] for word in shlex.split(command)}
    files = [path.relative_to(PHOTOS) for path in PHOTOS.rglob("*") if path.is_file()]
    for file in files:
        assert str(file) in words or file.parts[0] in words
        assert f"`{file}`" in credits or f"`{file.parts[0]}/*`" in credits
    assert {word for word in words if re.search(r"\.(jpg|png)$", word)} <= set(map(str, files))
    for path in (real_pair().image0, real_pair().image1):
        assert path.read_bytes() == (PHOTOS / "chateau" / path.name).read_bytes()


@pytest.mark.parametrize("pair", [bundled_pair(), real_pair()], ids=["rendered", "photographs"])
def test_bundled_pairs_are_light_and_credited(pair) -> None:  # type: ignore[no-untyped-def]
    for path in (pair.image0, pair.image1):
        assert path.stat().st_size <= 120_000
    assert re.search("CC BY|BSD", pair.credit)

"""Whatever is wrong with a file, its reader says so in one line that names it."""

import json
import zipfile
from pathlib import Path

import pytest

from geomatch.errors import FeaturesError, GeomatchError, reading


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

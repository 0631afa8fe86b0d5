"""What users install: the wheel, the sdist, the extras, and the versions at which all of it is tested."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from layout import PROJECT, ROOT, SHIPPED
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import geomatch

LARGEST_WHEEL = 8e6
"""Bytes: the embedded models and the bundled pair."""
STAYS = ("benchmarks/results/", "benchmarks/studies/")
"""Folders that do not ship."""
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The sdist of a copy of the repository, the wheel made from that sdist, and what was said meanwhile."""
    place = tmp_path_factory.mktemp("built")
    source = place / "source"
    source.mkdir()
    copied = [*FOLDERS.values(), "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *copied, str(source)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = place.glob("*.tar.gz"), place.glob("*.whl")
    return sdist, wheel, done.stdout + done.stderr


def test_wheel_holds_one_top_level_name(built: tuple[Path, Path, str]) -> None:
    wheel = built[1]
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"geomatch"}
    packages = {str(Path(name).parent).replace("/", ".") for name in names if name.endswith(".py")}
    assert packages == set(SHIPPED)
    wanted = set()
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder).rglob("*"):
            data = file.is_file() and file.suffix not in (".py", ".pyc")
            if data and not str(file.relative_to(ROOT)).startswith(STAYS):
                wanted.add(f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder)}")
    assert wanted == {name for name in names if not name.endswith(".py")}
    assert {"geomatch/py.typed", "geomatch/weights/dift-tiny/head.safetensors"} <= wanted
    assert wheel.stat().st_size < LARGEST_WHEEL


def test_sdist_keeps_the_layout(built: tuple[Path, Path, str]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"geomatch/pipeline.py", "estimators/gate.py", "benchmarks/harness/run.py"} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "keypoints/weights/tiny.safetensors"} <= names


def test_building_warns_of_nothing(built: tuple[Path, Path, str]) -> None:
    said = [
        line for line in built[2].splitlines() if re.search("warning|deprecat|ignored", line, re.IGNORECASE)
    ]
    assert not [line for line in said if "byte-compiling" not in line]  # which the environment decides


def requirements() -> Iterator[Requirement]:
    """Everything that pyproject.toml asks for, with the tools that build."""
    project = PROJECT["project"]
    for group in (
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
        PROJECT["build-system"]["requires"],
    ):
        wishes = map(Requirement, (wish for wish in group if isinstance(wish, str)))  # not {include-group}
        yield from (wish for wish in wishes if wish.name != project["name"])


def pins() -> dict[str, set[Version]]:
    """The versions of constraints.txt by name: several where the version of Python or the system decides."""
    found: dict[str, set[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        pin = Requirement(line)
        (exact,) = pin.specifier
        assert exact.operator == "==", line
        found.setdefault(canonicalize_name(pin.name), set()).add(Version(exact.version))
    return found


def test_lock_pins_what_the_project_asks_for() -> None:
    locked = pins()
    for wish in requirements():
        versions = locked.get(canonicalize_name(wish.name), set())
        assert versions, f"constraints.txt has no {wish.name}; run `make lock`"
        assert all(version in wish.specifier for version in versions), f"{wish}; run `make lock`"


def test_readme_names_the_torch_of_the_lock() -> None:
    """So that `make demo` keeps the build for CPUs."""
    (version,) = pins()["torch"]
    assert f"torch=={version} --index-url" in (ROOT / "README.md").read_text()


def test_lock_pins_what_is_installed() -> None:
    """So that an installation without the lock's packages, or at other versions, is noticed."""
    locked = pins()
    for found in distributions(path=[sysconfig.get_path("purelib")]):  # not what Ray adds to sys.path
        name = canonicalize_name(found.metadata["Name"])
        if name != PROJECT["project"]["name"]:
            assert name in locked, f"{name} is installed, but constraints.txt does not pin it"
            # a build of torch for CPUs has a label of its own
            assert Version(Version(found.version).public) in locked[name], f"{name} is {found.version} here"


def test_pages_speak_of_this_version() -> None:
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall("^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0].split()[0] == version


def test_missing_extra_names_the_extra() -> None:
    from geomatch.errors import require

    with pytest.raises(geomatch.MissingDependencyError, match=r"pip install 'geomatch-dift\[hloc\]'"):
        require("no_such_module_anywhere", "hloc", "this")


def test_extras_that_messages_name_are_there() -> None:
    """In every module and page."""
    known = PROJECT["project"]["optional-dependencies"]
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for folder in FOLDERS.values():
        files += (ROOT / folder).rglob("*.py")
    for file in files:
        for names in re.findall(r"geomatch-dift\[([a-z0-9,]+)\]", file.read_text()):
            assert set(names.split(",")) <= set(known), f"{file}: {names}"
        for name in re.findall(r"require\(\s*\"\w+\", \"(\w+)\"", file.read_text()):
            assert name in known, f"{file}: {name}"

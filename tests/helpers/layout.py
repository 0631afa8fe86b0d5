"""Where the repository is, and what is in the package: folders of Python files, and rooms by level."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = tuple(PROJECT["tool"]["setuptools"]["packages"])
PACKAGES = (*SHIPPED, "geomatch.benchmarks.studies")
"""Those that ship, and those that are run from the repository."""


def levels() -> list[set[str]]:
    """The rooms of the package, from CONTRIBUTING.md: those of a line may import those of lines above."""
    picture = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert picture is not None
    return [set(line.split()) for line in picture[1].splitlines() if re.match(r"[\sa-z_]*[a-z]", line)]

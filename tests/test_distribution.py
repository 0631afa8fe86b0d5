"""What brings geomatch to people besides the wheel: container, conda-forge's recipe, workflows, notebooks."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from layout import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"torch": "pytorch", "opencv-python": "py-opencv"}
TOOLS = Path(sys.executable).parent


def said(*command: str | Path, cwd: Path = ROOT) -> str:
    path = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dockerfile_has_no_finding_and_copies_what_there_is() -> None:
    assert said(TOOLS / "hadolint", "Dockerfile") == ""
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall("^COPY (.*) ", text, re.MULTILINE) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(allowed)
    (extras,) = re.findall("^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    (python,) = re.findall(r"^FROM python:([\d.]+)-", text, re.MULTILINE)
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


@pytest.mark.slow
def test_container_registers_the_bundled_pair() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("docker is not running here")
    said("docker", "build", "--quiet", "--tag", "geomatch-test", "--build-arg", "EXTRAS=report", ".")
    assert "truth" in said("docker", "run", "--rm", "geomatch-test", "demo")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_as_the_schema_says(workflow: Path) -> None:
    said(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)


def test_recipe_of_conda_forge_asks_for_what_the_wheel_asks_for() -> None:
    recipe = (ROOT / ".ci" / "conda" / "recipe.yaml").read_text()
    wanted = {f"python {PROJECT['requires-python']}"}
    for wish in map(Requirement, PROJECT["dependencies"]):
        versions = ",".join(sorted((str(one) for one in wish.specifier), reverse=True))
        wanted.add(f"{CONDA_NAMES.get(wish.name, wish.name)} {versions}")
    assert (
        set(re.findall("^    - (.*)$", recipe.split("  run:\n")[1].split("\n\n")[0], re.MULTILINE)) == wanted
    )
    assert f'version: "{PROJECT["version"]}"' in recipe
    (script,) = re.findall("- geomatch = (.*)", recipe)
    assert script == PROJECT["scripts"]["geomatch"]


def test_badges_are_true() -> None:
    """They say what pyproject.toml says; none depends on a service that has yet to know the project."""
    badges = re.findall(r"img\.shields\.io/badge/([\w%.+-]+)-\w+\)", (ROOT / "README.md").read_text())
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert set(badges) == {f"licence-{PROJECT['license']}", f"python-{oldest}%2B"}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    """On the CPU, with the embedded model; cells that install packages are left out."""
    content = json.loads(notebook.read_text())
    left_out = [cell for cell in content["cells"] if "install" in cell["metadata"].get("tags", [])]
    assert all("".join(cell["source"]).startswith("%pip install") for cell in left_out)
    content["cells"] = [cell for cell in content["cells"] if cell not in left_out]
    copy = tmp_path / notebook.name
    copy.write_text(json.dumps(content))
    said(TOOLS / "jupyter-execute", copy, cwd=tmp_path)

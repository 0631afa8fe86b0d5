"""The guards of the layout: lazy imports, one top-level name, docs that run."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import geomatch
from geomatch.cli import main

sys.path.append(str(Path(__file__).parent / "helpers"))
import correspondence_data as made

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "geomatch",
    "geomatch.cli",
    "geomatch.collection",
    "geomatch.colmap",
    "geomatch.colmap.doctor",
    "geomatch.colmap.formats",
    "geomatch.demo",
    "geomatch.dift",
    "geomatch.dift.backends",
    "geomatch.dift.head",
    "geomatch.dift.maps",
    "geomatch.drawing",
    "geomatch.editing",
    "geomatch.engine",
    "geomatch.opencv",
    "geomatch.opencv.examples",
    "geomatch.store",
    "geomatch.training",
    "geomatch.video",
    "geomatch.weights",
    "geomatch.keypoints",
    "geomatch.estimators",
    "geomatch.benchmarks",
    "geomatch.benchmarks.harness",
    "geomatch.benchmarks.methods",
    "geomatch.benchmarks.tasks",
    "geomatch.benchmarks.tasks.homography",
    "geomatch.benchmarks.tasks.semantic",
    "geomatch.benchmarks.tasks.temporal",
    "geomatch.benchmarks.studies",
    "geomatch.benchmarks.training",
)


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "cv2", "diffusers", "pycolmap", "kornia", "transformers", "PIL", "matplotlib", "numpy"}
    loaded = python("import sys, geomatch, geomatch.cli; print(*sys.modules)", tmp_path).split()
    assert not heavy & set(loaded)


def test_every_public_name_can_be_imported() -> None:
    for name in geomatch.__all__:
        assert getattr(geomatch, name) is not None
    assert set(geomatch._HOME) <= set(geomatch.__all__)
    assert dir(geomatch) == sorted(geomatch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = geomatch.nothing


def test_folders_are_not_imported_under_a_second_name() -> None:
    for package in PACKAGES:
        importlib.import_module(package)
    assert not {"keypoints", "estimators", "benchmarks"} & set(sys.modules)


LEVELS = [
    {"errors", "files", "types", "provenance", "demo"},
    {"geometry", "images", "patches", "matching", "synthetic", "distances", "candidates", "search"},
    {"weights", "keypoints", "estimators"},
    {"dift", "alignment"},
    {"describers"},
    {"pipeline", "training", "video", "store", "engine"},
    {"drawing", "editing", "collection"},
    {"colmap", "opencv"},
    {"benchmarks", "cli"},
]


def test_imports_point_one_way() -> None:
    """No part imports from a level above its own, nor its neighbours where they are alternatives."""
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    for package in PACKAGES:
        for path in importlib.import_module(package).__path__:
            for file in Path(path).glob("*.py"):
                part = file.stem if package == "geomatch" else package.split(".")[1]
                if part in ("__init__", "__main__"):
                    continue
                for node in ast.walk(ast.parse(file.read_text())):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geomatch."):
                        other = str(node.module).split(".")[1]
                        assert level[other] <= level[part], f"{file} imports {node.module}"


def test_every_sub_folder_is_packaged() -> None:
    config = (ROOT / "pyproject.toml").read_text()
    for init in (ROOT / "geomatch").rglob("__init__.py"):
        name = ".".join(init.parent.relative_to(ROOT).parts)
        assert f'"{name}",' in config


@pytest.mark.parametrize("package", PACKAGES)
def test_doctests(package: str) -> None:
    root = importlib.import_module(package)
    names = [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(root.__path__) if not m.ispkg)]
    for name in names:
        if name.endswith("__main__"):
            continue
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert failed == 0, name


def test_wheel_holds_one_top_level_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copied = ["geomatch", "keypoints", "estimators", "benchmarks", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    subprocess.run(["cp", "-r", *copied, str(source)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*command, str(tmp_path / "wheel"), str(source)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"geomatch"}
    for wanted in (
        "geomatch/keypoints/grid.py",
        "geomatch/py.typed",
        "geomatch/demo/image0.jpg",
        "geomatch/weights/dift-tiny/diffusion_pytorch_model.safetensors",
        "geomatch/weights/dift-tiny/head.safetensors",
        "geomatch/keypoints/weights/tiny.safetensors",
    ):
        assert wanted in names
    assert wheel.stat().st_size < 10e6


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python_runs_as_printed(tmp_path: Path) -> None:
    found = blocks("python")
    assert found
    for code in found:
        python(code, tmp_path)


def test_readme_commands_run_as_printed(
    tmp_path: Path,
    small_sd: Path,
    seeded: Callable[..., dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every `geomatch ...` line but those that train or download, on small made-up models and data."""
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("geomatch ")]
    monkeypatch.chdir(tmp_path)
    pair = geomatch.bundled_pair()
    for name, path in (("a.jpg", pair.image0), ("b.jpg", pair.image1)):
        (tmp_path / name).write_bytes(path.read_bytes())
    home = tmp_path / "hub" / "models--sd2-community--stable-diffusion-2-1"
    shutil.copytree(small_sd, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    shapes = dict(json.loads(str(np.load(ROOT / "tests" / "golden" / "adm_tiny.npz")["state_dict_shapes"])))
    torch.save(seeded(shapes, "geomatch-adm:"), tmp_path / "256x256_diffusion_uncond.pt")
    sequence = tmp_path / "hpatches-sequences" / "v_demo"
    sequence.mkdir(parents=True)
    for number, path in ((1, pair.image0), (2, pair.image1)):
        (sequence / f"{number}.jpg").write_bytes(path.read_bytes())
    np.savetxt(sequence / "H_1_2", pair.homography)
    small = geomatch.load_image(pair.image0).pixels
    motions = [made.moved(0, 0), made.moved(4, -2), made.moved(8, -4)]
    made.make_spair(tmp_path / "SPair-71k", small, motions)
    made.make_davis(tmp_path / "DAVIS", small, {"walk": motions})
    walk = cv2.VideoWriter("walk.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, made.SIZE)
    for motion in motions:
        walk.write(np.ascontiguousarray(made.view(small, motion)[..., ::-1]))
    walk.release()
    made.save(tmp_path / "objects.png", made.first_mask())
    painted = np.zeros((*small.shape[:2], 4), np.uint8)
    painted[180:260, 260:380] = 255, 200, 0, 200
    made.save(tmp_path / "edit.png", painted)
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (pair.image0, pair.image1):
        (photos / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    ran = []
    for line in lines:
        arguments = line.split("#")[0].split()[1:]
        if arguments[0] == "train" or (arguments[0] == "data" and arguments[1] != "synthetic"):
            continue
        code = main(arguments)
        # random weights need not find a homography: 1 says so
        random = "--descriptor" in arguments and arguments[0] == "match"
        random |= arguments[0] == "reconstruct"  # and two views of one plane are no model
        assert code in ((0, 1) if random else (0,)), (line, capsys.readouterr().err)
        ran.append(arguments[0])
    assert {
        "match",
        "show",
        "demo",
        "models",
        "benchmark",
        "colmap",
        "reconstruct",
        "track",
        "propagate",
    } <= set(ran)


def test_missing_extra_names_the_extra() -> None:
    from geomatch.errors import require

    with pytest.raises(geomatch.MissingDependencyError, match=r"pip install 'geomatch-dift\[poselib\]'"):
        require("no_such_module_anywhere", "poselib", "this")

"""The rules of the layout: what may import what, and how large modules and signatures may be."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from layout import PACKAGES, ROOT, SHIPPED, levels

import geomatch

FOLDERS = {
    "keypoints": "geomatch.keypoints",
    "estimators": "geomatch.estimators",
    "benchmarks": "geomatch.benchmarks",
}
LARGEST_MODULE = 400
"""Lines; about 300 is what to aim for."""
MOST_PARAMETERS = 8
REFUSED = ("Of ", "As of ", "Whether ", "Who ")
"""How no docstring begins: say what the thing is, or that it is true if ..."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join((FOLDERS.get(parts[0], parts[0]), *parts[1:]))


FILES = {
    module_name(file): file
    for folder in ("geomatch", *FOLDERS)
    for file in sorted((ROOT / folder).rglob("*.py"))
}


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(file.read_text()) for name, file in FILES.items()}


def imports(name: str) -> Iterator[str]:
    """The modules of the package that a module imports, at any place in it."""
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [inner if inner in FILES else str(node.module) for inner in whole]
        else:
            continue
        yield from (other for other in found if other in FILES and other != name)


def room(module: str) -> str:
    return module.split(".")[1]


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "cv2", "diffusers", "pycolmap", "kornia", "transformers", "PIL", "matplotlib", "numpy"}
    code = "import sys, geomatch, geomatch.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert not heavy & set(done.stdout.split())


LAZY = {
    "pycolmap", "kornia", "fsspec", "jinja2", "matplotlib", "transformers", "ray", "h5py", "scipy",
    "tifffile", "pillow_heif", "rasterio", "skimage", "gradio",
}  # fmt: skip


def test_large_packages_are_imported_where_they_are_used() -> None:
    """Never at the top of a module: most users need none of these, and some are slow to load."""
    wrong = []
    for name, tree in trees().items():
        for node in tree.body:
            tops = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            tops += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{name} imports {top}" for top in tops if top.split(".")[0] in LAZY]
    assert not wrong


def test_images_are_opened_in_one_place_and_no_warnings_are_silenced() -> None:
    """Pillow alone would open PostScript by running Ghostscript; warning filters are the whole process's."""
    wrong = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            opens = text in ("PILImage.open", "Image.open", "PIL.Image.open")
            silences = text in ("warnings.catch_warnings", "warnings.simplefilter", "warnings.filterwarnings")
            if opens or (silences and name != "geomatch.cli"):  # the command has its process to itself
                wrong.append(f"{name}:{node.lineno} {text}")
    assert not wrong


def test_every_public_name_can_be_imported() -> None:
    for name in geomatch.__all__:
        assert getattr(geomatch, name) is not None
    assert dir(geomatch) == sorted(geomatch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = geomatch.nothing


def test_folders_are_not_imported_under_a_second_name() -> None:
    for package in PACKAGES:
        importlib.import_module(package)
    assert not set(FOLDERS) & set(sys.modules)


def test_every_folder_is_listed() -> None:
    found = {name for name, file in FILES.items() if file.name == "__init__.py"}
    assert found == set(PACKAGES)
    assert len(SHIPPED) == len(set(SHIPPED))


def test_imports_point_one_way() -> None:
    """The picture in CONTRIBUTING.md has every room, and no module imports from a room below its own."""
    level = {name: number for number, names in enumerate(levels()) for name in names}
    assert set(level) == {room(name) for name in FILES if "." in name} - {"__main__"}
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        if "." in name and room(name) in level
        for other in imports(name)
        if "." in other and level[room(other)] > level[room(name)]
    ]
    assert not wrong


def test_no_import_goes_round() -> None:
    """Neither between modules nor between rooms; the package itself imports its names when they are used."""
    modules = {name: set(imports(name)) - {"geomatch"} for name in FILES if name != "geomatch"}
    rooms: dict[str, set[str]] = {}
    for name, others in modules.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    for graph in (modules, rooms):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(" <- ".join(error.args[1]))


def test_modules_are_small() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    assert not {name: count for name, count in lines.items() if count > LARGEST_MODULE}


def functions(tree: ast.AST, inside: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public functions, and public methods of public classes, by dotted name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            name = f"{inside}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from functions(node, name)
            else:
                yield name, node


def test_public_functions_have_few_parameters() -> None:
    """Options that belong together are a frozen dataclass; `geomatch.match` is the one exception."""
    counts = {}
    for module, tree in trees().items():
        for name, node in functions(tree, module):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counts[name] = len([one for one in every if one.arg not in ("self", "cls")])
    del counts["geomatch.pairs.match"]
    assert not {name: count for name, count in counts.items() if count > MOST_PARAMETERS}


def test_docstrings_say_what_a_thing_is() -> None:
    """Strings that stand alone are docstrings, those below attributes and constants among them."""
    alone = [
        (f"{module}:{node.lineno}", node.value.value)
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    wrong = [
        f"{place} {text[:40]}" for place, text in alone if isinstance(text, str) and text.startswith(REFUSED)
    ]
    assert not wrong, "\n".join(wrong)

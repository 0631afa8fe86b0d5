"""What the code can say, read from its syntax: errors, reasons, what is skipped, remarks, findings.

A value within a message is an ellipsis: ``f"{path}: no such file"`` reads ``…: no such file``. Names are
followed to what is assigned to them, and calls of our own functions to the strings that they return; such
parts of a message count by themselves.
"""

import ast
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from layout import ROOT

VALUE = "…"
FOLDERS = ("geomatch", "keypoints", "estimators", "benchmarks")
INTERNAL = {"KeyError", "AttributeError"}
"""Errors that are caught within the package."""
FIRST = {
    "EstimationFailure",
    "FailedItem",
    "FailedBlock",
    "Localization",
    "StoreError",
    "failed",
    "_complain",
}
"""Calls whose first argument is a message, beside errors that are raised."""
LAST = {"_parsed", "refuse_given"}
"""Calls whose last argument is a message."""
TABLES = {"skipped", "images_skipped", "left_out", "broken"}
"""Dictionaries with reasons, or counters of them."""

READ = "not a readable "
"""Before what `geomatch.errors.reading` was told that it reads."""


class Scope(NamedTuple):
    """Where an expression stands."""

    module: ast.Module
    function: ast.FunctionDef | None = None


Functions = dict[str, list[Scope]]


def messages() -> dict[str, str]:
    """Every message, or part of one, and the module that has it."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    parts: list[tuple[str, Scope, list[ast.AST]]] = []
    functions: Functions = {}
    for path in paths:
        if "studies" not in path.parts:
            name, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
            for node in _outermost(tree):
                inside = list(ast.walk(node))
                parts.append((name, Scope(tree, node if isinstance(node, ast.FunctionDef) else None), inside))
                for one in inside:
                    if isinstance(one, ast.FunctionDef):
                        functions.setdefault(one.name, []).append(Scope(tree, one))
    return {
        READ * _is_reading(node) + text: name
        for name, scope, inside in parts
        for node in inside
        if isinstance(node, (ast.Raise, ast.Call, ast.Assign, ast.AugAssign, ast.FunctionDef))
        for value in _said(node)
        for text in _texts(value, scope, functions, 0)
    }


def _is_reading(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "reading"


def _outermost(tree: ast.Module) -> Iterator[ast.stmt]:
    """Functions that lie in no other, and other statements outside them."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.ClassDef) else [node]


def _said(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions of a node that are messages."""
    if (
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and _name(node.exc.func) not in INTERNAL
    ):
        yield from node.exc.args[:2]
    elif isinstance(node, ast.Call):
        name, whose = _name(node.func), _name(getattr(node.func, "value", node))
        severities = [place for place, one in enumerate(node.args[:2]) if _is_severity(one)]
        if severities:
            yield from node.args[severities[0] + 1 :][:1]
        elif name in LAST:
            yield from node.args[-1:]
        elif name == "reading":
            yield from node.args[1:2]
        elif name in FIRST or (whose, name) in (("remarks", "append"), ("_log", "warning")):
            yield from node.args[:1]
        elif name == "fromkeys":
            yield from (one for one in node.args[1:] if isinstance(one, ast.Constant))
        yield from (one.value for one in node.keywords if one.arg in ("reason", "note"))
    elif isinstance(node, ast.Assign | ast.AugAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Subscript) and _name(target.value) in TABLES:
            yield node.value if isinstance(node, ast.Assign) else target.slice
        elif isinstance(node, ast.Assign) and _name(target) in ("reason", "_DIED", "_HINT"):
            yield node.value
        elif isinstance(node, ast.Assign) and _name(target) in TABLES:
            dicts = [one for one in ast.walk(node.value) if isinstance(one, ast.Dict)]
            yield from (key for one in dicts for key in one.keys if key)
    elif isinstance(node, ast.FunctionDef) and node.name in ("remark", "warning", "undefined"):
        yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value)


def _is_severity(node: ast.expr) -> bool:
    """What stands before a finding of ``geomatch colmap check``."""
    return getattr(node, "value", _name(node)) in ("error", "warning", "note", "severity")


def _name(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _texts(value: ast.expr, scope: Scope, functions: Functions, depth: int) -> Iterator[str]:
    """All that an expression may read, part by part."""
    inner: list[ast.expr] = []
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield " ".join(value.value.split())
    elif isinstance(value, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else VALUE for part in value.values]
        yield " ".join("".join(map(str, parts)).split())
        inner = [part.value for part in value.values if isinstance(part, ast.FormattedValue)]
    elif isinstance(value, ast.BinOp):
        inner = [value.left, value.right]
    elif isinstance(value, ast.IfExp):
        inner = [value.body, value.orelse]
    elif isinstance(value, ast.BoolOp | ast.Dict):
        inner = value.values
    elif isinstance(value, ast.NamedExpr | ast.Subscript):
        inner = [value.value]
    elif isinstance(value, ast.Name):
        inner = _assigned(value.id, scope)
    elif (
        isinstance(value, ast.Call)
        and _name(value.func) == "format"
        and isinstance(value.func, ast.Attribute)
    ):
        inner = [value.func.value]
    elif isinstance(value, ast.Call) and len(functions.get(_name(value.func), [])) == 1:
        scope = functions[_name(value.func)][0]
        assert scope.function
        if "str" in ast.unparse(scope.function.returns or ast.Constant("")):
            returns = [node.value for node in ast.walk(scope.function) if isinstance(node, ast.Return)]
            inner = [one for one in returns if one is not None]
    if depth < 6:
        for one in inner:
            yield from _texts(one, scope, functions, depth + 1)


def _assigned(name: str, scope: Scope) -> list[ast.expr]:
    """What a function, else its module, assigns to ``name``, also within tuples, and in loops over tuples."""
    own = _assignments(scope.function).get(name, []) if scope.function else []
    return own or _assignments(scope.module).get(name, [])


@cache
def _assignments(part: ast.Module | ast.FunctionDef) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in part.body if isinstance(part, ast.Module) else ast.walk(part):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.NamedExpr | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            pairs = [(node.target, node.value)]
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            pairs = [(node.target, row) for row in node.iter.elts]
        for target, value in pairs:
            parts = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                parts = list(zip(target.elts, value.elts, strict=False))
            for one, given in parts:
                if isinstance(one, ast.Name):
                    found.setdefault(one.id, []).append(given)
    return found

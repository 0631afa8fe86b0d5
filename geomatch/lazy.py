"""Public names of a package that are imported when they are first used."""

import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def lazy_names(package: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package, for the names that it imports ``if TYPE_CHECKING:``."""

    @cache
    def homes() -> dict[str, str]:
        import ast  # not needed where only other names are used

        spec = sys.modules[package].__spec__
        tree = ast.parse(spec.loader.get_source(package))  # type: ignore[union-attr]
        blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
        imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes()[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get

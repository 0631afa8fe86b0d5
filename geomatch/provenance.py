"""What a result was made with, as JSON can hold it."""

import platform
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


def record(part: object) -> Any:
    """A part of the pipeline as JSON can hold it: its type and fields."""
    if is_dataclass(part) and not isinstance(part, type):
        values = {field.name: record(getattr(part, field.name)) for field in fields(part)}
        return {"type": type(part).__name__, **values}
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, (list, tuple)):
        return [record(value) for value in part]
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    return str(part) if isinstance(part, Path) else type(part).__name__


def versions() -> dict[str, str]:
    """Of Python and of the packages that shape the numbers."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("geomatch-dift", "torch", "diffusers", "kornia", "opencv-python", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # opencv-python-headless, say
            found[name] = "unknown"
    return found

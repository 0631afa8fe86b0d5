"""What a result was made with: settings for records, and the key under which it is cached."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.files import sha256_of


def record(part: object) -> Any:
    """The type and fields of a part of the pipeline as JSON for people; arrays become shapes."""
    if is_dataclass(part) and not isinstance(part, type):
        values = {field.name: record(getattr(part, field.name)) for field in fields(part)}
        return {"type": type(part).__name__, **values}
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, Mapping):
        return {str(name): record(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [record(value) for value in part]
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if hasattr(part, "shape") and hasattr(part, "dtype"):
        return f"{type(part).__name__} {tuple(part.shape)} {part.dtype}"
    return str(part) if isinstance(part, Path) else type(part).__name__


def cache_key(part: object) -> Any:
    """All that decides what a detector, descriptor or estimator gives, as JSON can hold it.

    Results are cached under its checksum. An object that has a method ``cache_key()`` is asked for it; else a
    dataclass gives its fields. Arrays and tensors count by their content, `Path` values by that of the file.
    """
    own = getattr(part, "cache_key", None)
    if own is not None and not isinstance(part, type):
        return {"type": _type_name(part), "key": cache_key(own())}
    if is_dataclass(part) and not isinstance(part, type):
        return settings_key(part)
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, bytes):
        return {"bytes": hashlib.sha256(part).hexdigest()}
    if isinstance(part, Enum):
        return {"type": _type_name(part), "name": part.name}
    if isinstance(part, Path):
        return {"file": sha256_of(part)}
    if isinstance(part, Mapping):
        return {"mapping": sorted(([cache_key(k), cache_key(v)] for k, v in part.items()), key=repr)}
    if isinstance(part, (set, frozenset)):
        return {"set": sorted((cache_key(value) for value in part), key=repr)}
    if isinstance(part, Sequence):
        return {"type": _type_name(part), "items": [cache_key(value) for value in part]}
    values: Any = np.asarray(part) if isinstance(part, np.generic) else part
    if not isinstance(part, np.ndarray) and hasattr(part, "detach") and hasattr(part, "numpy"):
        import torch

        # NumPy has no bfloat16
        values = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    if isinstance(values, np.ndarray) and values.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        given: Any = part
        return {"array": content, "dtype": str(given.dtype).removeprefix("torch."), "shape": [*given.shape]}
    raise ValueError(
        f"results of a {_type_name(part)} cannot be cached, since its settings cannot be read: make it a "
        "frozen dataclass of its settings, or give it a method cache_key() that returns all that decides "
        "its results"
    )


def settings_key(part: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The type and fields of a dataclass for `cache_key`, without those that do not decide its results."""
    names = [field.name for field in fields(part) if field.init and field.name not in leave_out]
    return {"type": _type_name(part), "fields": {name: cache_key(getattr(part, name)) for name in names}}


def _type_name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def versions(*others: str) -> dict[str, str]:
    """Python's version and those of the packages that shape the numbers; a dict of the caller's own."""
    names = ("geomatch-dift", "torch", "diffusers", "kornia", "opencv-python", "numpy", "pillow", *others)
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # opencv-python-headless, say
        return "unknown"

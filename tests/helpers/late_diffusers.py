"""The classes of diffusers, which takes seconds to load: by the one process that runs a test with them."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if not name[0].isupper():  # pytest asks for its own
        raise AttributeError(name)
    return getattr(import_module("diffusers"), name)

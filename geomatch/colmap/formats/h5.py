"""Reading h5 files of other programs, and nothing but these: what they hold elsewhere is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import FeaturesError, reading, require
from geomatch.files import MAX_UNPACKED


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read; what goes wrong in the block is a `FeaturesError` that names it."""
    h5py = require("h5py", "hloc", "reading files of hloc")
    with reading(path, "h5 file of hloc", FeaturesError), h5py.File(path, "r") as file:
        yield file


def member(group: Any, name: str) -> Any:
    """A group or dataset below a group; raises `ValueError` for links, which may lead into another file."""
    for part in name.split("/"):
        if type(group.get(part, getlink=True)).__name__ in ("SoftLink", "ExternalLink"):
            raise ValueError(f"{part} is a link; write the data itself")
        if part not in group:
            raise KeyError(part)
        group = group[part]
    return group


@contextmanager
def features(path: Path, name: str) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of an image's group; what goes wrong in the block is a `FeaturesError` that names both."""
    with opened(path) as file, reading(f"{path}: {name}", "group of features", FeaturesError):
        yield arrays(member(file, name), "keypoints", "scores", "descriptors", "image_size")


def arrays(group: Any, *names: str) -> dict[str, NDArray[Any]]:
    """Those of the group's datasets that are there.

    Raises `ValueError` for one that lies in another file, or is larger than features are.
    """
    found = {}
    for name in names:
        if name in group:
            data = member(group, name)
            if data.external or data.is_virtual:
                raise ValueError(f"{name} lies in another file; write the data itself")
            if data.dtype.hasobject or data.size * data.dtype.itemsize > MAX_UNPACKED:
                raise ValueError(f"{name} holds no numbers, or more than {MAX_UNPACKED} bytes of them")
            found[name] = np.asarray(data)
    return found

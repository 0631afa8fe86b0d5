"""Files of tensors: our own, which carry a checksum, and torch's, of which no code is run."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomatch.files import replacing, sha256_of

_NO_SUM = b"0" * 64
_SUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')  # in other values the quotes are escaped
_LONGEST = 100_000_000  # bytes of a header that safetensors takes


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose ``sha256`` in the header is that of the file with zeros in its place."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, metadata={**metadata, "sha256": _NO_SUM.decode()})
        found = sha256_of(temporary)
        with temporary.open("r+b") as file:
            place = _SUM.search(file.read(_LONGEST))
            assert place is not None
            file.seek(place.start(1))
            file.write(found.encode())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `save_tensors`; an error of some type if a single bit has changed."""
    from safetensors import safe_open

    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), _LONGEST))
        recorded = _SUM.search(header)
        if recorded is None:
            raise ValueError("it holds no checksum of geomatch")
        digest = hashlib.sha256(length + header.replace(recorded[1], _NO_SUM, 1))
        if hashlib.file_digest(file, lambda: digest).hexdigest() != recorded[1].decode():
            raise ValueError("its checksum is wrong")
    with safe_open(path, framework="pt") as content:
        return {name: content.get_tensor(name) for name in content.keys()}, content.metadata()  # noqa: SIM118


def load_pickled(path: Path) -> Any:
    """Read a torch checkpoint without running code from it; on disk until used, if the format allows."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))

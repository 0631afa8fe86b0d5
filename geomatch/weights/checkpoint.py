"""Networks from diffusers folders, of which only the wanted parts are read."""

import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomatch.errors import WeightsError, reading
from geomatch.weights.download import check_file
from geomatch.weights.folders import STEM, find_weights, read_config
from geomatch.weights.originals import network_tensors

# diffusers' names of attention parameters until 0.12; Stable Diffusion's autoencoders still have them
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_COUNTS = ("num_layers", "num_single_layers", "num_refiner_layers", "n_layers", "n_refiner_layers")
"""Names in configurations of transformers for numbers of blocks."""
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
_log = logging.getLogger(__name__)
_OLD = re.compile(rf"\.({'|'.join(_OLD_NAMES)})\.")


def empty_network(make: Callable[[Any], Any], folder: Path) -> Any:
    """The network that ``make`` gives of ``folder/config.json``, without memory for its parameters."""
    config = read_config(folder)
    what = f"description of a {config.get('_class_name')}"
    with reading(folder / "config.json", what, WeightsError, "get it again"):
        with torch.device("meta"):
            network = make(config)
        if any(_tables(module) for module in network.modules()):
            # made once more without blocks, for what no file of weights holds
            with torch.random.fork_rng(devices=[]):
                shallow = make(config | {name: 0 for name in _COUNTS if name in config})
            for name, module in shallow.named_modules():
                for key, value in _tables(module).items():
                    setattr(network.get_submodule(name), key, value)
    return network


def _tables(module: nn.Module) -> dict[str, Any]:
    """The tensors of a module that are not in its state: those of positions, in transformers."""
    found = {name: module.get_buffer(name) for name in module._non_persistent_buffers_set}
    for name, value in vars(module).items():
        some = value[0] if isinstance(value, list) and value else value
        if isinstance(some, Tensor):
            found[name] = value
    return found


def fill_network(
    network: nn.Module,
    folder: Path,
    dtype: torch.dtype | None,
    dropped: Collection[str] = (),
    file: Path | None = None,
) -> None:
    """Give an empty network its parameters, of ``file`` or the folder, ready for inference on the CPU.

    The ``dropped`` modules, dotted names, are neither allocated nor read; an identity takes the place of
    each, so that the numbering of blocks stays. Without a ``dtype`` names and shapes are only checked.
    """
    whole = network.state_dict()
    for name in dropped:
        network.set_submodule(name, nn.Identity())
    files = [file] if file is not None else find_weights(folder)
    if not files:
        raise WeightsError(f"{folder}: no weights there; expected {STEM}.safetensors")
    wanted = network.state_dict().keys()
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for path in files:
        check_file(path)
        with reading(path, "file of weights", WeightsError, "fetch it again"):
            for stored, tensor in network_tensors(network, path).items():
                name = stored if stored in whole else re.sub(_OLD, lambda m: f".{_OLD_NAMES[m[1]]}.", stored)
                if name not in whole:
                    unknown.append(name)
                elif name in wanted and tensor.shape != whole[name].shape:
                    raise WeightsError(
                        f"{path}: weights of another network: {name} has shape {tuple(tensor.shape)}, "
                        f"{folder / 'config.json'} asks for {tuple(whole[name].shape)}"
                    )
                elif name in wanted:
                    state[name] = tensor if dtype is None else tensor.read().to(dtype, copy=True)
    missing = sorted(wanted - state.keys())
    for names, word in ((missing, "lacks"), (unknown, "has unknown")):
        if names:
            raise WeightsError(
                f"{files[0]}: weights of another network: {word} {names[0]} "
                f"({len(names)} such), judged by {folder / 'config.json'}"
            )
    if dtype is None:
        return
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)
    warn_if_untrained(network, files[0])


def looks_untrained(network: nn.Module) -> bool:
    """True if every normalisation layer still has the weights 1 and biases 0 of a new network."""
    norms = [part for part in network.modules() if isinstance(part, _NORMS) and part.bias is not None]
    return bool(norms) and all(bool((n.weight == 1).all() and (n.bias == 0).all()) for n in norms)


def warn_if_untrained(network: nn.Module, path: Path) -> None:
    """Log a warning for weights that `looks_untrained` tells."""
    if looks_untrained(network):
        _log.warning("%s: weights that look untrained: normalisation layers as in a new network", path)

"""Files of weights under the names that models' authors gave; diffusers has the rules for renaming."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from geomatch.errors import WeightsError, require
from geomatch.weights.folders import AUTOENCODER, DENOISER, ENCODERS
from geomatch.weights.tensors import load_pickled

_TOGETHER = 64  # tensors read per opening of a file, whose mapped pages stay in memory until it is closed
_SCALES = ("scale_weight", "weight_scale", "scaled_fp8")  # ends of names in files of scaled fp8
_LAYOUTS = {
    "UNet2DConditionModel": ("ldm_unet_checkpoint", DENOISER, "input_blocks.0.0."),
    "AutoencoderKL": ("ldm_vae_checkpoint", AUTOENCODER, "encoder.down.0."),
    "SD3Transformer2DModel": ("sd3_transformer_checkpoint_to_diffusers", DENOISER, "joint_blocks.0."),
    "FluxTransformer2DModel": ("flux_transformer_checkpoint_to_diffusers", DENOISER, "double_blocks.0."),
}
"""For networks: diffusers' function, the start of all names in files that hold more, of one in others."""


class Later(Tensor):
    """The shape of a tensor that is on disk, or of what is made of such; `read` gives the content."""

    read: Callable[[], Tensor]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it to the shapes, and again to the content when that is read."""
        found = super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]

        def read(*index: int) -> Any:
            content = function(*_contents(args), **(kwargs or {}))
            return content[index[0]] if index else content

        for index, part in enumerate(found if isinstance(found, tuple | list) else ()):
            if isinstance(part, Later):
                part.read = partial(read, index)
        if isinstance(found, Later):
            found.read = read
        return found


def _contents(values: Any) -> Any:
    if isinstance(values, Later):
        return values.read()
    return type(values)(map(_contents, values)) if type(values) in (list, tuple) else values


def _later(shape: Iterable[int], read: Callable[[], Tensor]) -> Later:
    made = torch.empty(tuple(shape), device="meta").as_subclass(Later)
    made.read = read
    return made


def stored_tensors(path: Path) -> dict[str, Later]:
    """The tensors of a file by their names there, not read yet."""
    if path.suffix == ".gguf":
        return _quantized(path)
    if path.suffix != ".safetensors":
        content = load_pickled(path)
        parts = content.get("state_dict", content).items()
        return {name: _later(part.shape, part.detach) for name, part in parts if isinstance(part, Tensor)}
    opened: Any = safe_open(path, framework="pt")
    left = _TOGETHER

    def read(name: str) -> Tensor:
        nonlocal opened, left
        if not left:
            opened, left = safe_open(path, framework="pt"), _TOGETHER
        left -= 1
        tensor: Tensor = opened.get_tensor(name)
        # torch joins no tensors of 8 bits; all of their numbers are in float16, too
        return tensor.half() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor

    return {name: _later(opened.get_slice(name).get_shape(), partial(read, name)) for name in opened.keys()}  # noqa: SIM118


def _quantized(path: Path) -> dict[str, Later]:
    """Those of a file of llama.cpp's format, in float32, as its own package ``gguf`` reads them."""
    gguf: Any = require("gguf", "gguf", f"reading {path.name}")
    reader, found = gguf.GGUFReader(path), {}

    def read(stored: Any, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).reshape(shape).copy())

    for stored in reader.tensors:
        # the shape before flattening, which ComfyUI-GGUF notes for tensors whose rows are no whole blocks
        noted = reader.get_field(f"comfy.gguf.orig_shape.{stored.name}")
        sizes = reversed(stored.shape) if noted is None else [noted.parts[place][0] for place in noted.data]
        shape = tuple(int(size) for size in sizes)
        found[stored.name] = _later(shape, partial(read, stored, shape))
    return found


def network_tensors(network: nn.Module, path: Path) -> dict[str, Later]:
    """The tensors of a file under diffusers' names; if it holds more than the network, only its own."""
    found = stored_tensors(path)
    for name in (name for name in found if name.endswith(_SCALES)):
        raise WeightsError(
            f"{path}: fp8 with scales ({name}) is not supported; take a file of fp8 without, fp16 or GGUF"
        )
    function, prefix, start = _LAYOUTS.get(type(network).__name__, ("", "", ""))
    alone = any(name.startswith(start) for name in found)
    own = {prefix * alone + name: part for name, part in found.items() if alone or name.startswith(prefix)}
    if not function or not own:
        return found
    from diffusers.loaders import single_file_utils

    numbers = sum(part.numel() for part in own.values())
    named: dict[str, Later] = getattr(single_file_utils, f"convert_{function}")(own, config=network.config)
    if sum(part.numel() for part in named.values()) != numbers:
        raise WeightsError(f"{path}: weights of another network: more than a {type(network).__name__} has")
    return named


def clip_tensors(path: Path, config: Any, part: str) -> dict[str, Tensor]:
    """The tensors of the text encoder ``part`` in a single file, as transformers names them."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    found, prefixes = stored_tensors(path), ENCODERS[part.removeprefix("text_encoder")]
    prefix = next(prefix for prefix in prefixes if any(name.startswith(prefix) for name in found))
    own = {name: tensor for name, tensor in found.items() if name.startswith(prefix)}
    if prefix.endswith(".model."):
        named = convert_open_clip_checkpoint(SimpleNamespace(config=config), own, prefix)
    else:
        named = convert_ldm_clip_checkpoint(own)
    return {name: tensor.read() for name, tensor in named.items()}

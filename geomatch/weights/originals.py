"""Files of weights under the names that models' authors gave, which diffusers has tables of."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from geomatch.errors import WeightsError
from geomatch.weights.single_files import AUTOENCODER, DENOISER, ENCODERS
from geomatch.weights.tensors import load_pickled

_TOGETHER = 64  # tensors read per opening of a file, whose mapped pages stay in memory until it is closed
_LAYOUTS = {
    "UNet2DConditionModel": ("convert_ldm_unet_checkpoint", DENOISER, "input_blocks.0.0."),
    "AutoencoderKL": ("convert_ldm_vae_checkpoint", AUTOENCODER, "encoder.down.0."),
    "SD3Transformer2DModel": ("convert_sd3_transformer_checkpoint_to_diffusers", DENOISER, "joint_blocks.0."),
    "FluxTransformer2DModel": (
        "convert_flux_transformer_checkpoint_to_diffusers", DENOISER, "double_blocks.0.",
    ),
}  # fmt: skip
"""Of networks: the function in diffusers that renames, how names begin in files that hold more than the network,
and how one begins in files that hold it alone."""


class Later(Tensor):
    """The shape of a tensor that is on disk, and of what is made of it; `read` gives the content."""

    read: Callable[[], Tensor]

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do it to the shapes, and again to the content when that is read."""
        given = kwargs or {}
        found = super().__torch_function__(function, types, args, given)  # type: ignore[no-untyped-call]

        def read(*index: int) -> Any:
            content = function(*_contents(args), **given)
            return content[index[0]] if index else content

        if isinstance(found, Later):
            found.read = read
        elif isinstance(found, tuple | list):
            for index, part in enumerate(found):
                if isinstance(part, Later):
                    part.read = partial(read, index)
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
        from geomatch.weights.quantized import gguf_tensors

        return {name: _later(shape, read) for name, (shape, read) in gguf_tensors(path).items()}
    if path.suffix != ".safetensors":
        content = load_pickled(path)
        content = content.get("state_dict", content)
        tensors = ((name, tensor) for name, tensor in content.items() if isinstance(tensor, Tensor))
        return {name: _later(tensor.shape, tensor.detach) for name, tensor in tensors}
    reader = _Reader(path)
    with safe_open(path, framework="pt") as content:
        return {
            name: _later(content.get_slice(name).get_shape(), partial(reader.read, name))
            for name in content.keys()  # noqa: SIM118
        }


class _Reader:
    """Reads tensors of one file of safetensors."""

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, 0

    def read(self, name: str) -> Tensor:
        if not self.left:
            self.content, self.left = safe_open(self.path, framework="pt"), _TOGETHER
        self.left -= 1
        tensor: Tensor = self.content.get_tensor(name)  # type: ignore[no-untyped-call]
        # torch joins no tensors of 8 bits; all of their numbers are in float16, too
        return tensor.half() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def network_tensors(network: nn.Module, path: Path) -> dict[str, Later]:
    """The tensors of a file under diffusers' names; if it holds more than the network, only those."""
    found = stored_tensors(path)
    for name in found:
        if name.endswith(("scale_weight", "weight_scale", "scaled_fp8")):
            raise WeightsError(
                f"{path}: numbers of 8 bits with scales ({name}) are not supported; take a file with fp8 "
                "without scales, with fp16 or bf16, or GGUF"
            )
    function, prefix, start = _LAYOUTS.get(type(network).__name__, ("", "", ""))
    alone = any(name.startswith(start) for name in found)
    own = {prefix * alone + name: part for name, part in found.items() if alone or name.startswith(prefix)}
    if not function or not own:
        return found
    from diffusers.loaders import single_file_utils

    numbers = _numbers(own)
    named: dict[str, Later] = getattr(single_file_utils, function)(own, config=network.config)
    if _numbers(named) != numbers:
        raise WeightsError(
            f"{path}: weights of another network: it has tensors that no {type(network).__name__} has"
        )
    return named


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def load_clip(kind: Any, home: Path, path: Path) -> Any:
    """The text encoder of class ``kind`` in a single file, with the configuration in the folder ``home``."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    found = stored_tensors(path)
    prefix = next(
        prefix
        for prefix in ENCODERS[home.name.removeprefix("text_encoder")]
        if any(name.startswith(prefix) for name in found)
    )
    own = {name: part for name, part in found.items() if name.startswith(prefix)}
    config = kind.config_class.from_pretrained(home, local_files_only=True)
    if prefix.endswith(".model."):
        named = convert_open_clip_checkpoint(SimpleNamespace(config=config), own, prefix)
    else:
        named = convert_ldm_clip_checkpoint(own)
    encoder, report = kind.from_pretrained(
        None,
        config=config,
        state_dict={name: part.read() for name, part in named.items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise WeightsError(f"{path}: a text encoder that lacks {sorted(report['missing_keys'])[0]}")
    return encoder

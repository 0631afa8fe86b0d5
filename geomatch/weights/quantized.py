"""Quantised weights in GGUF, the format of llama.cpp, as its own package ``gguf`` reads them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomatch.errors import require


def gguf_tensors(path: Path) -> dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]:
    """Shapes, and functions that give the tensors in float32, by name."""
    gguf: Any = require("gguf", "gguf", f"reading {path.name}")
    reader = gguf.GGUFReader(path)

    def read(stored: Any, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).reshape(shape).copy())

    found: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    for stored in reader.tensors:
        # the shape before flattening, which ComfyUI-GGUF notes for tensors whose rows are no whole blocks
        noted = reader.get_field(f"comfy.gguf.orig_shape.{stored.name}")
        sizes = reversed(stored.shape) if noted is None else [noted.parts[place][0] for place in noted.data]
        shape = tuple(int(size) for size in sizes)
        found[stored.name] = shape, partial(read, stored, shape)
    return found

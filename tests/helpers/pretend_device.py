"""A device named ``pretend``, kept in the processor's memory, for tests of what travels between devices.

Its tensors hold real values and compute as the processor does. As with an accelerator, an operation on
tensors of two devices is an error, and so is numpy's view of a tensor that was not brought here. What comes
here and what would make the processor wait is counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
aten = torch.ops.aten


@dataclass
class Traffic:
    """What crossed from the device to the processor."""

    downloads: list[tuple[int, ...]] = field(default_factory=list)
    """Shapes of tensors brought here whole."""
    waits: list[str] = field(default_factory=list)
    """Operations for whose one number, or whose result's shape, the processor had to wait."""
    uploads: list[tuple[int, ...]] = field(default_factory=list)
    """Shapes of tensors carried there."""
    operations: int = 0
    """All operations on the device, each a kernel or more (views included)."""


_counted = [Traffic()]
_kept: list[Any] = []  # registrations end with their objects
_READS = {"_local_scalar_dense", "item", "equal", "is_nonzero"}
_SHAPES = {"nonzero", "masked_select", "unique2", "_unique2", "unique_consecutive", "unique_dim"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Count from here on."""
    _counted.append(Traffic())
    try:
        yield _counted[-1]
    finally:
        _counted.pop()


class PretendTensor(Tensor):
    """A tensor there; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendTensor":
        with torch.inference_mode(held.is_inference()):  # views of tensors from outside are none of it
            made: PretendTensor = Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=torch.device(NAME, 0), requires_grad=held.requires_grad,
            )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(call, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        """As an accelerator's tensor: only if forced."""
        if not force:
            raise TypeError(f"can't convert {NAME} tensor to numpy: use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        """Brought here."""
        return self.detach().cpu().tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.held!r})"


def _run(call: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and wrap what comes out."""
    count, name = _counted[-1], call.overloadpacket.__name__
    if name == "_copy_from":
        return _copied(aten.copy_.default, (args[1], args[0]), {}, count)
    if name in ("copy_", "copy"):
        return _copied(call, args, kwargs, count)
    if name == "_has_compatible_shallow_copy_type":  # asked when modules move
        return type(args[0]) is type(args[1])
    flat, shape = tree_flatten((args, kwargs))
    there = [value for value in flat if isinstance(value, PretendTensor)]
    targets = [torch.device(value).type for value in flat if isinstance(value, torch.device)]
    if there:
        _check_devices(name, args, kwargs)
    masked = name in _INDEXING and any(_is_mask(value) for value in tree_flatten(args[1])[0])
    if masked or name in _READS | _SHAPES:
        count.waits.append(name)
    inner = {id(value.held): value for value in there}
    args, kwargs = tree_unflatten([_held(value) for value in flat], shape)
    found = call(*args, **kwargs)
    if targets and targets[0] != NAME:
        if name in ("to", "_to_copy"):
            count.downloads.append(tuple(found.shape))
        return found.clone() if id(found) in inner else found
    if name in ("to", "_to_copy") and not there:
        count.uploads.append(tuple(found.shape))
    else:
        count.operations += 1
    if any(value.shape != value.held.shape for value in there):
        raise NotImplementedError(f"{name} changed a tensor's shape in place")
    # what works in place gives back the tensor that it was given
    return tree_map_only(
        Tensor, lambda value: inner[id(value)] if id(value) in inner else PretendTensor(value), found
    )


def _held(value: Any) -> Any:
    """As the processor sees an argument."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, PretendTensor) else value


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _copied(call: Any, args: Any, kwargs: dict[str, Any], count: Traffic) -> Any:
    """Into a tensor that is there already: within the device, or from one memory to the other."""
    target, source = args[:2]
    comes, goes = isinstance(source, PretendTensor), isinstance(target, PretendTensor)
    if comes and not goes:
        count.downloads.append(tuple(source.shape))
    elif goes and not comes:
        count.uploads.append(tuple(source.shape))
    found = call(_held(target), _held(source), *args[2:], **kwargs)
    if call.overloadpacket.__name__ == "copy_":
        return target
    return PretendTensor(found) if goes else found


def _check_devices(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise for tensors of two devices; single numbers and indices may come from here, as with CUDA."""
    considered = (args[0], args[2:], kwargs) if name in _INDEXING else (args, kwargs)
    for value in tree_flatten(considered)[0]:
        if isinstance(value, Tensor) and not isinstance(value, PretendTensor) and value.ndim:
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {name} got {NAME} and {value.device}"
            )


@cache
def pretend_device() -> str:
    """The name of the device, which is there from now on."""
    _setup_privateuseone_for_python_backend(NAME)
    every, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL", "PrivateUse1")
    every.fallback(lambda call, *args, **kwargs: _run(call, args, kwargs), "PrivateUse1")
    for call in (aten.arange.default, aten.arange.start, aten.arange.start_step, aten._copy_from.default):
        some.impl(call, lambda *args, call=call, **kwargs: _run(call, args, kwargs))
    _kept.extend([every, some])
    return NAME

"""Activations of inner layers, without running what comes after them."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class _AllSeen(Exception):  # noqa: N818 (control flow, not an error)
    """Raised inside the network once every wanted layer has run."""


def capture(network: nn.Module, layers: Sequence[str], call: Callable[[], object]) -> list[Tensor]:
    """Run ``call`` until each of the named submodules of ``network`` has given its output.

    Returns:
        One tensor per layer, in the order asked. Where a block returns several
        values the first is taken, which diffusers makes the hidden state.
    """
    outputs: dict[str, Tensor] = {}
    wanted = set(layers)
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def store(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if value.ndim != 4:
                raise ValueError(
                    f"layer {name!r} gives no feature map: its output has shape {tuple(value.shape)}"
                )
            outputs[name] = value
            if len(outputs) == len(wanted):
                raise _AllSeen

        return store

    try:
        for name in wanted:
            handles.append(find_layer(network, name).register_forward_hook(hook(name)))
        call()
    except _AllSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    silent = wanted - outputs.keys()
    if silent:
        raise ValueError(f"layers that do not run: {', '.join(sorted(silent))}")
    return [outputs[name] for name in layers]


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """A submodule by its dotted name."""
    module, path = network, ""
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            place = path or "the network"
            raise ValueError(f"unknown layer {name!r}: {place} has {', '.join(children) or 'no parts'}")
        module, path = children[part], f"{path}.{part}" if path else part
    return module

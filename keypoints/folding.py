"""A network of SuperPoint's kind made ready for use: the same function in fewer and smaller steps."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geomatch.isolation import isolated

_STRIP = 2**21
"""Numbers in the maps of a strip, 8 MiB: of 2^19 to 2^23 the fastest."""
Network = TypeVar("Network", bound=nn.Module)


@isolated(gradients=True)
def folded(network: Network) -> Network:
    """The network, changed: each normalisation is folded into the convolution before it."""
    for name, part in list(network.named_children()):
        if name != "backbone":
            setattr(network, name, nn.Sequential(*_fold(part)))
    *pooled, last = network.get_submodule("backbone").children()
    stages = [_Strips(*_fold(stage)) for stage in pooled]
    network.backbone = nn.Sequential(*stages, nn.Sequential(*_fold(last)))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fold(part: nn.Module) -> list[nn.Module]:
    """a relu(z) + b is a z + b, not below b where a > 0, else not above; pooling first gives the same."""
    layers: list[nn.Module] = []
    block: Any
    for block in part.children():
        if isinstance(block, nn.MaxPool2d):
            layers.insert(-1, block)
            continue
        layers.append(fuse_conv_bn_eval(block.conv, block.bn))
        if isinstance(block.activation, nn.ReLU):
            scale = block.bn.weight * (block.bn.running_var + block.bn.eps).rsqrt()
            shift = (block.bn.bias - block.bn.running_mean * scale).detach()
            endless = torch.full_like(shift, torch.inf)
            bounds = shift.where(scale >= 0, -endless), shift.where(scale <= 0, endless)
            layers.append(_Bounds(*(bound[:, None, None] for bound in bounds)))
    return layers


class _Bounds(nn.Module):
    """Keeps every channel between two numbers of its own, (C, 1, 1) each."""

    def __init__(self, least: Tensor, most: Tensor) -> None:
        super().__init__()
        self.least, self.most = nn.Buffer(least), nn.Buffer(most)

    def forward(self, maps: Tensor) -> Tensor:
        return maps.clamp_(self.least, self.most)


class _Strips(nn.Module):
    """A stage with its pool, on CPUs strip by strip: large maps are slow, as their memory is always new."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.channels = int(layers[0].out_channels)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        rows = max(2, _STRIP // (self.channels * width) // 2 * 2)
        found: list[Tensor] = []
        if maps.device.type != "cpu":
            rows = height
        for top in range(0, height, rows):
            above = min(top, 2)  # two convolutions look two rows around
            part: Tensor = self.layers(maps[:, :, top - above : top + rows + 2])
            found.append(part[:, :, above // 2 : (above + rows) // 2])
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

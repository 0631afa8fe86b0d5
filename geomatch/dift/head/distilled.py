"""A small network over patches, trained to stand in for a diffusion model and its head (see its card)."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

UNSHUFFLE = 2  # blocks of 2 x 2 pixels become channels, as in the diffusion model
LAST = 4  # cells per side that the fully connected layer sees
ROWS, ACCELERATOR_ROWS = 256, 8192  # patches at a time; on CPUs their maps should fit the caches


class PatchNetwork(nn.Module):
    """Two convolutions a level, each level of half the side; ``widths`` are its channels."""

    def __init__(self, widths: Sequence[int], dimension: int) -> None:
        super().__init__()
        self.widths, self.dimension = tuple(widths), dimension
        self.layers, inputs = nn.ModuleList(), 3 * UNSHUFFLE**2
        for level, width in enumerate(widths):
            for stride in (2 if level else 1, 1):
                convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, dtype=torch.float32)
                self.layers.append(convolution)
                inputs = width
        self.last = nn.Linear(widths[-1] * LAST**2, dimension, dtype=torch.float32)

    def forward(self, patches: Tensor) -> Tensor:
        """Normalised patches (N, 3, S, S) to rows (N, dimension) of unit length in float32."""
        x = functional.pixel_unshuffle(patches, UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x).relu_()
        return functional.normalize(self.last(x.permute(0, 2, 3, 1).flatten(1)).float(), dim=1)

    def on(self, device: str | torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """A copy there, as a function of normalised patches (N, 3, S, S) that gives (N, dimension)."""
        network = copy.deepcopy(self).to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        chunk = ROWS if torch.device(device).type == "cpu" else ACCELERATOR_ROWS
        return lambda patches: torch.cat([network(part.to(dtype)) for part in torch.split(patches, chunk)])

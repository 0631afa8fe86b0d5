"""Networks that are compiled once enough images are coming."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geomatch.dift.config import Compile
from geomatch.errors import first_line, is_out_of_memory

COMPILE_FROM = 200
"""Rows of one shape, announced or seen, from which networks are compiled by ``auto``: compiling a full-size
model takes about as long as it saves in some hundred images, and its result is kept for later processes."""
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Runner:
    """Runs a network, as it is or by ``torch.compile``, whose outputs are the same but for rounding.

    Shapes are compiled one by one: those of ``auto`` when they recur. Where no compiler is, or it fails, the
    network runs as it is. No CUDA graphs: torch's cannot be replayed from other threads (pytorch#123177).
    """

    network: nn.Module
    when: Compile
    coming: int = 0
    """Rows that have been announced."""
    seen: dict[torch.Size, int] = field(default_factory=dict)
    """Rows that have been run, by the shape of a batch."""
    compiled: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, batch: Tensor, *others: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The network's outputs."""
        if self._pays(batch):
            try:
                if self.compiled is None:
                    # whatever is set in inductor holds: its cache of compiled graphs is on by default
                    self.compiled = torch.compile(self.network, fullgraph=True, dynamic=False)
                return self.compiled(batch, *others)
            except Exception as error:  # torch raises whatever the compilers behind it do
                if is_out_of_memory(error):
                    raise
                _log.info("the network is not compiled: %s", first_line(error))
                self.when = "off"
        outputs: tuple[Tensor, ...] = self.network(batch, *others)
        return outputs

    def _pays(self, batch: Tensor) -> bool:
        if self.when != "auto":
            return self.when == "on"
        before = self.seen.get(batch.shape, 0)
        self.seen[batch.shape] = before + len(batch)
        return batch.device.type == "cuda" and before > 0 and max(before, self.coming) >= COMPILE_FROM

"""Projection heads, which turn activations into short descriptors: linear ones, or trained networks."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.distilled import PatchNetwork
from geomatch.dift.maps.feature_map import FeatureMap, cell_centres
from geomatch.errors import WeightsError, reading
from geomatch.isolation import isolated
from geomatch.matching import add_product
from geomatch.types import Metric, checked
from geomatch.weights.folders import HEAD_FILES
from geomatch.weights.tensors import filled, load_tensors, save_tensors

POOLED = 4  # cells per side to which patches are averaged
CELLS = 2**15  # of a map projected at a time, which bounds the memory


@dataclass(frozen=True, eq=False, slots=True)
class LinearHead:
    """Descriptor = (activations - mean) @ projection, scaled to unit length."""

    mean: NDArray[np.float32]
    """(D,) float32."""
    projection: NDArray[np.float32]
    """(D, K) float32."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`DIFTConfig.feature_settings` of the activations it was fitted on."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on, as JSON can hold it: SHA-256 of the images, number of pairs, model."""

    def __post_init__(self) -> None:
        projection = checked("LinearHead.projection", self.projection, ("D", "K"), np.float32)
        object.__setattr__(self, "projection", projection)
        mean = checked("LinearHead.mean", self.mean, (len(projection),), np.float32)
        object.__setattr__(self, "mean", mean)

    @property
    def dimension(self) -> int:
        """K, the length of the descriptors."""
        return int(self.projection.shape[1])

    @isolated()
    def apply(self, activations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) to (N, K) rows of unit length; `ValueError` for rows of another network."""
        return np.asarray(self.rows_on("cpu")(torch.tensor(activations, device="cpu")).numpy())

    def rows_on(self, device: str | torch.device) -> Callable[[Tensor], Tensor]:
        """`apply` for tensors on the device."""
        mean, projection = (torch.tensor(array, device=device) for array in (self.mean, self.projection))

        def project(rows: Tensor) -> Tensor:
            if rows.shape[1] != len(mean):
                raise ValueError(
                    f"the projection head was fitted on {len(mean)} numbers per keypoint, the network gives "
                    f"{rows.shape[1]}: it is another network's"
                )
            short = rows.new_zeros(len(rows), self.dimension)
            add_product(short, rows - mean, projection.T)
            return functional.normalize(short, dim=1)

        return project

    def on_maps(self, device: str | torch.device, metric: Metric) -> Callable[[Sequence[Tensor]], Tensor]:
        """A function of the layers' maps of whole images there, each (B, C, h, w): (B, K, H, W), unit length.

        Every cell of the finest layer is projected, as ``metric`` has the activations there.
        """
        project = self.rows_on(device)

        def projected(maps: Sequence[Tensor]) -> Tensor:
            height, width = max(layer.shape[2:] for layer in maps)
            cells, found = cell_centres((width, height), (width, height), maps[0]), []
            for layers in zip(*maps, strict=True):
                whole = FeatureMap(layers, (width, height))
                rows = [project(whole.sample_tensor(part, metric)) for part in torch.split(cells, CELLS)]
                found.append(torch.cat(rows).T.reshape(-1, height, width))
            return torch.stack(found)

        return projected

    def save(self, folder: Path) -> None:
        """Write it into a folder, as float16."""
        arrays = {"mean": self.mean, "projection": self.projection}
        tensors = {name: torch.tensor(array, device="cpu") for name, array in arrays.items()}
        tensors["projection"] = tensors["projection"].half()
        values = {"kind": {"kind": "linear"}, "settings": self.settings, "training": self.training}
        metadata = {name: json.dumps(dict(value)) for name, value in values.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / HEAD_FILES[self.settings.get("sampling", "patch")], tensors, metadata)


@dataclass(frozen=True, eq=False, slots=True)
class NetworkHead:
    """A small network over the maps of a whole image, or over a patch itself."""

    network: PatchNetwork | DenseNetwork  # in evaluation mode, on the CPU
    settings: Mapping[str, Any]  # these two as of `LinearHead`
    training: Mapping[str, Any]

    @property
    def distilled(self) -> bool:
        """True if it takes patches, in place of a diffusion model."""
        return isinstance(self.network, PatchNetwork)

    @property
    def dimension(self) -> int:
        """Length of the descriptors."""
        return self.network.dimension


KINDS: dict[str, type[PatchNetwork | DenseNetwork]] = {"distilled": PatchNetwork, "dense": DenseNetwork}
"""Names of networks in files of heads."""
Head = LinearHead | NetworkHead


def pool_patches(maps: Sequence[Tensor]) -> Tensor:
    """Average maps of N patches, each (N, C, h, w), to 4 x 4 cells: rows (N, 16 sum of C) of unit length."""
    cells = [functional.adaptive_avg_pool2d(layer, POOLED).flatten(1) for layer in maps]
    rows = torch.cat([functional.normalize(cell, dim=1) for cell in cells], dim=1)
    return functional.normalize(rows, dim=1)


@isolated(gradients=True)
def load_head(path: Path) -> Head:
    """The projection head in a file; `WeightsError` unless it is sound."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no projection head; `geomatch head fit` makes one, or use head=False"
        )
    with reading(path, "projection head", WeightsError, "fit it again"):
        tensors, metadata = load_tensors(path)
        plan, settings, training = (json.loads(metadata[name]) for name in ("kind", "settings", "training"))
        kind = plan.pop("kind")
        if kind == "linear":
            mean, projection = (tensors[name].float().numpy() for name in ("mean", "projection"))
            return LinearHead(mean, projection, settings, training)
        make: Callable[..., PatchNetwork | DenseNetwork] = KINDS[kind]
        network = filled(partial(make, **plan), tensors)
    return NetworkHead(network, settings, training)

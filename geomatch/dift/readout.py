"""The read-out: a fixed linear map that turns activations into short, whitened descriptors."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.dift.config import DIFTConfig
from geomatch.errors import WeightsError
from geomatch.files import replacing
from geomatch.types import checked

FILE_NAME = "readout.safetensors"


@dataclass(frozen=True, eq=False, slots=True)
class ReadOut:
    """Descriptor = (activations - mean) @ projection, scaled to unit length."""

    mean: NDArray[np.float32]
    """(D,) float32."""
    projection: NDArray[np.float32]
    """(D, K) float32."""
    settings: dict[str, Any] = field(default_factory=dict)
    """`DIFTConfig.feature_settings` of the activations it was fitted on."""

    def __post_init__(self) -> None:
        projection = checked("ReadOut.projection", self.projection, ("D", "K"), np.float32)
        object.__setattr__(self, "projection", projection)
        mean = checked("ReadOut.mean", self.mean, (len(projection),), np.float32)
        object.__setattr__(self, "mean", mean)

    def apply(self, activations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) to (N, K) rows of unit length."""
        rows = (activations - self.mean) @ self.projection
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)

    def check(self, config: DIFTConfig, folder: Path) -> None:
        """Raise ValueError unless it was fitted on the settings of ``config``."""
        wanted = config.feature_settings()
        different = [name for name, value in wanted.items() if self.settings.get(name) != value]
        if different:
            fitted = ", ".join(f"{name}={self.settings.get(name)}" for name in different)
            raise ValueError(
                f"the read-out of {folder} was fitted with {fitted}; use these, or readout=False"
            )

    def save(self, folder: Path) -> None:
        """Write it beside a model, as float16."""
        from safetensors.numpy import save_file

        tensors = {"mean": self.mean.astype(np.float16), "projection": self.projection.astype(np.float16)}
        with replacing(folder / FILE_NAME) as temporary:
            save_file(tensors, temporary, metadata={"settings": json.dumps(self.settings)})


def load_readout(folder: Path) -> ReadOut:
    """The read-out beside a model.

    Raises:
        WeightsError: when the model has none or the file is damaged.
    """
    from safetensors import safe_open

    path = folder / FILE_NAME
    if not path.is_file():
        raise WeightsError(f"{path}: the model has no read-out; use readout=False")
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads(file.metadata()["settings"])
            mean, projection = file.get_tensor("mean"), file.get_tensor("projection")
    except Exception as error:  # safetensors raises its own type
        raise WeightsError(f"{path}: damaged read-out ({error})") from error
    return ReadOut(mean, projection, settings)

"""Label propagation as a task for a sweep."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.data import DataSet
from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.harness.sweep import Maps
from geomatch.benchmarks.tasks.temporal.davis import MaskedVideo
from geomatch.benchmarks.tasks.temporal.evaluation import evaluate_masks, evaluate_poses
from geomatch.benchmarks.tasks.temporal.harness import read_temporal
from geomatch.benchmarks.tasks.temporal.jhmdb import PoseVideo
from geomatch.benchmarks.tasks.temporal.protocols import TemporalProtocol
from geomatch.benchmarks.tasks.temporal.suite import SUITES
from geomatch.dift import DIFTConfig, FeatureMap
from geomatch.images import Image


@dataclass(frozen=True)
class TemporalTask:
    """J and F of every video of DAVIS-2017, or PCK of JHMDB.

    The context's maps of all cells of a timestep are in memory at once: of DAVIS with Stable Diffusion about
    0.5 GB for each layer and ensemble size.
    """

    dataset: str
    """``davis`` or ``jhmdb``."""
    data: Path
    """Folder of the release."""
    protocol: TemporalProtocol
    split: str | None = None
    """None takes the one that is reported."""

    @cached_property
    def _read(self) -> DataSet[MaskedVideo | PoseVideo]:
        return read_temporal(self.dataset, self.data, self.split)

    @cached_property
    def videos(self) -> dict[str, MaskedVideo | PoseVideo]:
        """By name."""
        return {video.name: video for video in self._read.units}

    @property
    def units(self) -> Sequence[str]:
        """Names of the videos."""
        return list(self.videos)

    def fingerprint(self, unit: str) -> str:
        """Of the video's frames and annotations."""
        return self.videos[unit].fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results besides the descriptor."""
        return {"task": self.dataset, "split": self._read.split, "protocol": asdict(self.protocol)}

    @property
    def headline(self) -> tuple[str, str]:
        """See `Task.headline`."""
        return self.protocol.headline, f"{self.protocol.headline}, %"

    def config(self, config: DIFTConfig) -> DIFTConfig:
        """The descriptor with frames in the protocol's size."""
        size = self.protocol.size
        return replace(config, image_size=size, image_side="short" if isinstance(size, int) else "long")

    def evaluate(self, unit: str, maps: Maps, cells: Sequence[str]) -> list[Row]:
        """One row per cell and object, or per cell."""
        video = self.videos[unit]

        def of_frames(images: Sequence[Image]) -> Iterator[dict[str, FeatureMap]]:
            return (dict(maps(image)) for image in images)

        if isinstance(video, MaskedVideo):
            return evaluate_masks(video, self.protocol, of_frames, cells)
        return evaluate_poses(video, self.protocol, of_frames, cells)

    def measures(self, rows: Sequence[Row]) -> dict[str, Any]:
        """See `Task.measures`."""
        return SUITES[self.dataset].overall(self.protocol, rows)

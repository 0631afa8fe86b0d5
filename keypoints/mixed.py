"""SIFT's keypoints and those of the embedded network, interleaved."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from geomatch.images import Image
from geomatch.keypoints.detector import check_limit
from geomatch.keypoints.opencv import OpenCVDetector
from geomatch.provenance import settings_key
from geomatch.types import Features

if TYPE_CHECKING:
    from geomatch.keypoints.tiny import TinyDetector
    from geomatch.tensors import FeatureTensors


@dataclass(frozen=True)
class MixedDetector:
    """The best of SIFT, the best of the network, the second best of SIFT, ...; scores fall from 1.

    SIFT's are placed more exactly; the network finds some where light or lack of texture leave SIFT none.
    """

    max_keypoints: int | None = 3000
    max_image_side: int | None = 2048
    device: str = "auto"
    reentrant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)

    def cache_key(self) -> Any:
        """The settings, and the network's key."""
        return [settings_key(self, leave_out=("device",)), self.parts[1].cache_key()]

    @cached_property
    def parts(self) -> "tuple[OpenCVDetector, TinyDetector]":
        """SIFT and the network, each of which could fill the whole number."""
        from geomatch.keypoints.tiny import TinyDetector  # loads torch

        count, side = self.max_keypoints, self.max_image_side
        sift = OpenCVDetector("sift", count, max_image_side=side)
        return sift, TinyDetector(count, max_image_side=side, device=self.device)

    @property
    def in_views(self) -> OpenCVDetector:
        """See `Detector`: SIFT alone, since the network takes many times as long."""
        return self.parts[0].in_views

    def detect(self, image: Image) -> Features:
        """Detect on the grey image."""
        return self.detect_tensors(image).to_features()

    def detect_tensors(self, image: Image) -> "FeatureTensors":
        """The same, on the network's device."""
        import torch

        from geomatch.devices import device_kind
        from geomatch.tensors import FeatureTensors, upload_features

        sift, network = self.parts
        if device_kind(self.device) == "cpu":
            first, (pixels, located) = sift.detect(image), network.locate(image)
        else:  # the processor has time for SIFT
            with ThreadPoolExecutor(1) as meanwhile:
                waiting = meanwhile.submit(sift.detect, image)
                pixels, located = network.locate(image)
                first = waiting.result()
        rank = np.concatenate([np.arange(len(first)), np.arange(len(located))])
        order = np.argsort(rank, kind="stable")[: self.max_keypoints]
        theirs = order < len(first)
        taken = int(theirs.sum())
        # of the network's, only those that stay are oriented
        second = network.orient(pixels, located[: len(order) - taken]).resized(image.size)
        parts = [upload_features(first[:taken], pixels.device), second] if taken else [second]
        index = torch.tensor(np.where(theirs, order, order - len(first) + taken), device=pixels.device)
        points, scales, angles = (
            torch.cat([getattr(part, name) for part in parts])[index]
            for name in ("keypoints", "scales", "orientations")
        )
        place = torch.arange(len(order), dtype=torch.float32, device=pixels.device)
        return FeatureTensors(points, 1 - place / len(rank), image.size, scales, angles)

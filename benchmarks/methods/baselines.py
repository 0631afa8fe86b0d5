"""Baselines of the field: OpenCV's detectors with their own descriptors, and LoFTR."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.benchmarks.methods.functions import matched_features
from geomatch.errors import MissingDependencyError
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.matchers.lightglue import DMYTRO
from geomatch.opencv.convert import from_keypoints
from geomatch.types import Features
from geomatch.weights.download import locate_weights, weights_at
from geomatch.weights.tensors import load_network, network_key

LOFTR_SIDE = 1024  # images are reduced to this long side: the memory of LoFTR grows with its fourth power
LOFTR_OUTDOOR = weights_at(f"{DMYTRO}/loftr_outdoor.ckpt", "Apache-2.0")
MIN_SIDE = 32  # images with a shorter side have no keypoints: OpenCV fails


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
        if self.name.removeprefix("root") not in available_opencv_detectors():
            raise MissingDependencyError(f"OpenCV {cv2.__version__} has no {self.name}")

    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors, scale and orientation."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        feature2d: Any = create_feature2d(self.name.removeprefix("root"))
        if self.name == "orb":
            feature2d.setMaxFeatures(self.max_keypoints)
        found, rows = feature2d.detectAndCompute(grey, None)
        if rows is None or not len(found):
            return no_keypoints(image)
        descriptors = (np.unpackbits(rows, axis=1) if rows.dtype == np.uint8 else rows).astype(np.float32)
        if self.name == "rootsift":
            descriptors = rootsift(descriptors)
        return select_best(from_keypoints(found, image.size, descriptors), self.max_keypoints)


@dataclass(frozen=True)
class LoFTRMatcher:
    """LoFTR (Sun et al., CVPR 2021), outdoor weights: no keypoints, it finds matches between images."""

    weights: str | None = None  # a file; None looks in the cache and then downloads
    max_matches: int = 2000
    device: str = "cpu"

    def _files(self) -> list[Path]:
        return [locate_weights(LOFTR_OUTDOOR, self.weights)]

    cache_key = network_key

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network(self, "LoFTR")

    def _build(self, states: list[Any]) -> Any:
        from kornia.feature import LoFTR

        network = LoFTR(pretrained=None)
        network.load_state_dict(states[0]["state_dict"])
        return network

    @torch.inference_mode()
    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """Row i of the one and row i of the other match, best first; scores are LoFTR's confidence."""
        smaller = [reduce_image(image, LOFTR_SIDE) for image in (image0, image1)]
        greys = [cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for image in smaller]
        inputs = [torch.from_numpy(grey)[None, None].to(self.device) for grey in greys]
        found = self.network({"image0": inputs[0], "image1": inputs[1]})
        points = [  # the network's pixel centres lie at halves
            resize_points(found[f"keypoints{k}"].float().cpu().numpy() - 0.5, small.size, image.size)
            for k, (image, small) in enumerate(zip((image0, image1), smaller, strict=True))
        ]
        both = matched_features((*points, found["confidence"].float().cpu().numpy()), image0, image1)
        return both[0][: self.max_matches], both[1][: self.max_matches]

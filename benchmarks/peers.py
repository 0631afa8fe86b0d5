"""Features of the field to compare with: detectors whose keypoints bring their own descriptors."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.errors import WeightsError, first_line
from geomatch.files import sha256_of
from geomatch.images import Image
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.types import Features
from geomatch.weights import WeightsFile, locate_weights

MIN_SIDE = 32
"""Images with a shorter side have no keypoints: the networks reduce them further than to a pixel."""

ALIKED_N16 = WeightsFile(
    file_name="aliked-n16.pth",
    url="https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth",
    licence="BSD-3-Clause",
    sha256=None,
)
XFEAT = WeightsFile(
    file_name="xfeat.pt",
    url="https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt",
    licence="Apache-2.0",
    sha256=None,
)
DISK_DEPTH = WeightsFile(
    file_name="depth-save.pth",
    url="https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth",
    licence="Apache-2.0",
    sha256=None,
)


@dataclass(frozen=True)
class OpenCVFeatures:
    """SIFT, RootSIFT, ORB or AKAZE of OpenCV; binary descriptors become one number per bit."""

    name: Literal["sift", "rootsift", "orb", "akaze"]
    max_keypoints: int = 2000

    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors."""
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        found, rows = self._feature2d().detectAndCompute(grey, None)
        if rows is None or not len(found):
            return no_keypoints(image)
        descriptors = np.unpackbits(rows, axis=1) if rows.dtype == np.uint8 else rows
        values = descriptors.astype(np.float32)
        if self.name == "rootsift":  # Arandjelovic and Zisserman, 2012
            values = np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1e-12))
        features = Features(
            np.array([point.pt for point in found], np.float32),
            np.array([point.response for point in found], np.float32),
            image.size,
            descriptors=values,
        )
        return select_best(features, self.max_keypoints)

    def _feature2d(self) -> Any:
        factory: Any = cv2
        if self.name == "orb":
            return factory.ORB_create(nfeatures=self.max_keypoints)
        if self.name == "akaze":
            if not hasattr(cv2, "AKAZE_create"):
                raise ValueError(f"OpenCV {cv2.__version__} has no AKAZE; opencv-contrib-python may")
            return factory.AKAZE_create()
        return factory.SIFT_create(enable_precise_upscale=True)


@dataclass(frozen=True)
class KorniaFeatures:
    """ALIKED-n16, DISK or XFeat as kornia has them."""

    name: Literal["aliked", "disk", "xfeat"]
    max_keypoints: int = 2000
    weights: str | None = None
    """A file; None looks in the cache and then downloads."""
    device: str = "cpu"

    @property
    def weights_sha256(self) -> str:
        """Of the weights file."""
        return sha256_of(locate_weights(_WEIGHTS[self.name], self.weights))

    @cached_property
    def network(self) -> Any:
        """Loaded on first use.

        Raises:
            WeightsError: when the weights are missing or of another network.
        """
        from kornia import feature

        path = locate_weights(_WEIGHTS[self.name], self.weights)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if self.name == "aliked":
                network = feature.ALIKED("aliked-n16", max_num_keypoints=self.max_keypoints)
                missing = network.load_state_dict(state, strict=False)
                if set(missing.missing_keys) - {"dkd.hw_grid"} or missing.unexpected_keys:
                    raise ValueError(f"keys differ: {missing}")
            elif self.name == "xfeat":
                network = feature.XFeat(top_k=self.max_keypoints)
                network.load_state_dict({f"net.{key}": value for key, value in state.items()})
            else:
                network = feature.DISK()
                network.load_state_dict(state["extractor"])
        except Exception as error:  # unpickling and loading raise many types
            raise WeightsError(
                f"{path} does not hold weights of {self.name} ({first_line(error)})"
            ) from error
        return network.eval().to(self.device)

    @torch.inference_mode()
    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        pixels = (
            torch.from_numpy(image.pixels.astype(np.float32) / 255).permute(2, 0, 1)[None].to(self.device)
        )
        if self.name == "xfeat":
            found = self.network.detectAndCompute(pixels, self.max_keypoints)[0]
            points, scores, rows = found["keypoints"], found["scores"], found["descriptors"]
        else:
            if self.name == "disk":
                answer = self.network(pixels, self.max_keypoints, pad_if_not_divisible=True)[0]
                scores = answer.detection_scores
            else:
                answer = self.network(pixels)[0]
                scores = (
                    answer.keypoint_scores if hasattr(answer, "keypoint_scores") else answer.detection_scores
                )
            points, rows = answer.keypoints, answer.descriptors
        features = Features(_numpy(points), _numpy(scores), image.size, descriptors=_numpy(rows))
        return select_best(features, self.max_keypoints)


_WEIGHTS = {"aliked": ALIKED_N16, "disk": DISK_DEPTH, "xfeat": XFEAT}


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()

"""LoFTR between images, as kornia has it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from geomatch.benchmarks.methods.functions import matched_features
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.matchers.lightglue import DMYTRO
from geomatch.types import Features
from geomatch.weights.download import locate_weights, weights_at
from geomatch.weights.tensors import load_network, network_key

LOFTR_SIDE = 1024  # images are reduced to this long side: the memory of LoFTR grows with its fourth power
LOFTR_OUTDOOR = weights_at(f"{DMYTRO}/loftr_outdoor.ckpt", "Apache-2.0")


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

"""Learned matchers of kornia: LightGlue between features, LoFTR between images."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from geomatch.benchmarks.methods.baselines import XFEAT, load_network, weights_at
from geomatch.benchmarks.methods.functions import matched_features
from geomatch.files import sha256_of
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.provenance import settings_key
from geomatch.types import Features, Matches
from geomatch.weights.download import WeightsFile, locate_weights

LOFTR_SIDE = 1024  # images are reduced to this long side: the memory of LoFTR grows with its fourth power
_DMYTRO = "https://cmp.felk.cvut.cz/~mishkdmy/models"
LOFTR_OUTDOOR = weights_at(f"{_DMYTRO}/loftr_outdoor.ckpt", "Apache-2.0")
TRAINED_FOR = {
    "superpoint-magicleap": "superpoint",
    "aliked": "aliked",
    "disk": "disk",
    "dedode": "dedodeb",
    "xfeat": "xfeat",
    "rootsift": "sift",
}
"""Features of ours that LightGlue has weights for, and kornia's names of them."""
_RELEASE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"


def lightglue_weights(features: str) -> WeightsFile:
    """The published weights for features of a name in `TRAINED_FOR`."""
    kind = TRAINED_FOR[features]
    name = "xfeat-lighterglue.pt" if kind == "xfeat" else f"{kind}_lightglue.pth"
    return weights_at(f"{ {'xfeat': XFEAT, 'dedodeb': _DMYTRO}.get(kind, _RELEASE) }/{name}", "Apache-2.0")


@dataclass(frozen=True)
class LightGlueMatcher:
    """LightGlue (Lindenberger et al., 2023) with the settings of its authors."""

    features: str  # a name in `TRAINED_FOR`
    weights: str | None = None  # a file; None looks in the cache and then downloads
    device: str = "cpu"

    def _path(self) -> Path:
        return locate_weights(lightglue_weights(self.features), self.weights)

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        return [settings_key(self, leave_out=("weights",)), sha256_of(self._path())]

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network(f"LightGlue for {self.features}", [self._path()], self._build, self.device)

    def _build(self, states: list[Any]) -> Any:
        from kornia.feature import LightGlue

        settings = {**LightGlue.features[TRAINED_FOR[self.features]], "weights": None}
        network = LightGlue(features=None, **settings)
        state = {_renamed(key): value for key, value in states[0].items()}
        found = network.load_state_dict(state, strict=False)
        learned = set(dict(network.named_parameters()))
        unread = r"extractor\..*|log_assignment\.\d+\.r"  # of XFeat's and DISK's file, as by the authors
        lacking = [key for key in found.missing_keys if key in learned]
        lacking += [key for key in found.unexpected_keys if not re.fullmatch(unread, key)]
        if lacking:
            raise ValueError(f"keys differ: {lacking[0]}")
        return network

    @torch.inference_mode()
    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first; their similarity is LightGlue's score."""
        if not len(features0) or not len(features1):
            return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
        found = self.network({"image0": self._input(features0), "image1": self._input(features1)})
        scores = found["scores"][0].float().cpu().numpy()
        order = np.argsort(-scores, kind="stable")
        return Matches(found["matches"][0].cpu().numpy()[order], scores[order])

    def _input(self, features: Features) -> dict[str, Tensor]:
        if features.descriptors is None:
            raise ValueError("LightGlue needs descriptors")
        # kornia refuses points beyond the image's edge, where resizing moves those on the border
        points = np.clip(features.keypoints, 0, np.array(features.image_size, np.float32))
        arrays = {"keypoints": points, "descriptors": features.descriptors}
        if self.network.conf.add_scale_ori:
            if features.scales is None or features.orientations is None:
                raise ValueError("LightGlue for SIFT needs scale and orientation")
            arrays |= {"scales": features.scales, "oris": features.orientations}
        tensors = {name: torch.tensor(array)[None].to(self.device) for name, array in arrays.items()}
        return tensors | {"image_size": torch.tensor([features.image_size], device=self.device)}


def _renamed(key: str) -> str:
    """The network's name of a published file's key: a prefix, and an older order of words."""
    parts = key.removeprefix("matcher.").split(".")
    if parts[0] in ("self_attn", "cross_attn"):
        parts[:2] = ["transformers", parts[1], parts[0]]
    return ".".join(parts)


@dataclass(frozen=True)
class LoFTRMatcher:
    """LoFTR (Sun et al., CVPR 2021), outdoor weights: no keypoints, it finds matches between images."""

    weights: str | None = None  # a file; None looks in the cache and then downloads
    max_matches: int = 2000
    device: str = "cpu"

    def _path(self) -> Path:
        return locate_weights(LOFTR_OUTDOOR, self.weights)

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        return [settings_key(self, leave_out=("weights",)), sha256_of(self._path())]

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network("LoFTR", [self._path()], self._build, self.device)

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

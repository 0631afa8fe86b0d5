"""DINO, DINOv2 and CLIP as dense descriptors: the baselines of the DIFT paper, through transformers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PILImage

from geomatch.dift import FeatureMap
from geomatch.dift.inputs import dense_size
from geomatch.errors import WeightsError, reading, require
from geomatch.images import Image
from geomatch.provenance import settings_key
from geomatch.types import Features
from geomatch.weights.hub import transformers_fingerprint, transformers_folder

SIDE = 768
"""Images are stretched to a square of this side, rounded to whole patches, as the paper's HPatches images."""
Size = int | tuple[int, int]  # what `geomatch.dift.DIFTConfig.image_size` may be; an int is the short side
MODELS = {
    "dino": "facebook/dino-vitb8",
    "dinov2": "facebook/dinov2-base",
    "clip": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}
"""On the hub, when no other is given."""
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # openai/CLIP


@dataclass(frozen=True)
class TransformersFeatures:
    """Patch tokens of the last layer, sampled at keypoints."""

    name: Literal["dino", "dinov2", "clip"]
    model: str  # hub id or folder
    size: Size = (SIDE, SIDE)
    """(width, height) to which images are stretched, or the length of the short side, as
    `geomatch.dift.DIFTConfig` has them; rounded to whole patches."""
    device: str = "cpu"

    def cache_key(self) -> Any:
        """The settings, and the model by the content of its files."""
        return [settings_key(self, leave_out=("model",)), transformers_fingerprint(self.model)]

    @cached_property
    def network(self) -> Any:
        """The vision tower, loaded on first use."""
        transformers = require("transformers", "transformers", f"the descriptor {self.name}")
        folder = transformers_folder(self.model)
        kinds = {"dino": "ViTModel", "dinov2": "Dinov2Model", "clip": "CLIPVisionModel"}
        options = {"add_pooling_layer": False} if self.name == "dino" else {}
        kind = getattr(transformers, kinds[self.name])
        with reading(folder, f"model of {self.name}", WeightsError):
            network, notes = kind.from_pretrained(folder, output_loading_info=True, **options)
            if notes["missing_keys"]:
                raise ValueError(f"{min(notes['missing_keys'])} is missing")
        return network.eval().to(self.device)

    @torch.inference_mode()
    def dense(self, image: Image) -> FeatureMap:
        """The map of the whole image."""
        config = self.network.config
        size = image_size(image.size, self.size, config.patch_size)
        columns, rows = (side // config.patch_size for side in size)
        resized = PILImage.fromarray(image.pixels).resize(size, PILImage.Resampling.BICUBIC)
        mean, deviation = (torch.tensor(x) for x in (_CLIP if self.name == "clip" else _IMAGENET))
        pixels = (torch.from_numpy(np.array(resized)) / 255 - mean) / deviation
        # DINOv2 always interpolates its positions
        options = {} if self.name == "dinov2" else {"interpolate_pos_encoding": True}
        batch = pixels.permute(2, 0, 1)[None].to(self.device)
        tokens = self.network(pixel_values=batch, **options).last_hidden_state[0, -rows * columns :]
        return FeatureMap((tokens.T.reshape(-1, rows, columns).float(),), image.size)

    def dense_many(self, images: Sequence[Image]) -> list[FeatureMap]:
        """The maps of several images, one after the other."""
        return [self.dense(image) for image in images]

    def at_size(self, size: Size) -> "TransformersFeatures":
        """The same at another size."""
        return replace(self, size=size)

    def describe(self, image: Image, features: Features) -> Features:
        """The keypoints with descriptors, of unit length."""
        if not len(features):
            return replace(features, descriptors=np.zeros((0, 1), np.float32))
        return replace(features, descriptors=self.dense(image).sample(features.keypoints))


def image_size(size: tuple[int, int], rule: Size, patch: int) -> tuple[int, int]:
    """(width, height) at which an image of (width, height) ``size`` enters: whole patches, at least one.

    A short side is met with the long one cut to a multiple of 32, as for DIFT, before patches are counted.
    """
    if isinstance(rule, int):
        rule = dense_size(size, rule, 1, "short")
    return max(1, round(rule[0] / patch)) * patch, max(1, round(rule[1] / patch)) * patch

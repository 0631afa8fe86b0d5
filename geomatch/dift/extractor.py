"""The DIFT descriptor extractor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional

from geomatch.dift.config import DIFTConfig
from geomatch.dift.feature_map import FeatureMap
from geomatch.dift.model import DiffusionModel, load_model, model_folder
from geomatch.dift.patches import cut_patches
from geomatch.dift.presets import PRESETS
from geomatch.dift.readout import ReadOut, load_readout
from geomatch.geometry import resize_points
from geomatch.images import Image, ImageLike, load_image, reduce_image
from geomatch.types import Features

PATCH_CONTRAST = 0.5
"""Deviation that patches are given before the network, whose images lie in [-1, 1]."""
POOLED = 4
"""Each layer of a patch is averaged to POOLED x POOLED cells."""


@dataclass(frozen=True)
class DIFTExtractor:
    """Describes keypoints by the activations of a diffusion model.

    The weights are loaded on first use.
    """

    config: DIFTConfig = PRESETS["dift-tiny"]

    @cached_property
    def model(self) -> DiffusionModel:
        """The network.

        Raises:
            WeightsError: when it cannot be loaded.
        """
        return load_model(self.config)

    @cached_property
    def readout(self) -> ReadOut | None:
        """The read-out, when the configuration asks for one."""
        if not self.config.readout:
            return None
        folder = model_folder(self.config.model)
        readout = load_readout(folder)
        readout.check(self.config, folder)
        return readout

    def dense(self, image: ImageLike, noises: Sequence[Tensor] | None = None) -> FeatureMap:
        """The feature maps of the whole image.

        Args:
            image: see `geomatch.load_image`.
            noises: one (1, C, h, w) tensor per member of the ensemble, of the
                shape of the encoded image, instead of those drawn from the seed.
        """
        picture = load_image(image)
        width, height = dense_size(picture.size, self.config.image_size, self.model.stride)
        # Pillow's bicubic, as in the reference: smooth when an axis shrinks, exact in geometry
        resized = PILImage.fromarray(picture.pixels).resize((width, height), PILImage.Resampling.BICUBIC)
        tensor = torch.from_numpy(np.asarray(resized).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        maps = self._activations(tensor.to(self.config.device), noises)
        return FeatureMap(tuple(layer[0] for layer in maps), picture.size)

    def describe(self, image: ImageLike, features: Features) -> Features:
        """The keypoints with their DIFT descriptors.

        Raises:
            ValueError: when the features belong to an image of another size, or
                when patches are wanted of keypoints without scale and orientation.
        """
        picture = load_image(image)
        if features.image_size != picture.size:
            raise ValueError(
                f"the features are of an image of {features.image_size} pixels, "
                f"{picture.name} has {picture.size}"
            )
        if not len(features):
            width = self.readout.projection.shape[1] if self.readout else 1
            rows = np.zeros((0, width), np.float32)
        elif self.config.sampling == "patch":
            rows = self._describe_patches(picture, features)
        else:
            rows = self._read_out(self.dense(picture).sample(features.keypoints))
        return replace(features, descriptors=rows)

    def _read_out(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows if self.readout is None else self.readout.apply(rows)

    def _describe_patches(self, picture: Image, features: Features) -> NDArray[np.float32]:
        if features.scales is None or features.orientations is None:
            raise ValueError(
                "sampling='patch' needs keypoints with scale and orientation (SIFT, ORB); "
                "use dift-tiny-dense (sampling='dense') for others"
            )
        if isinstance(self.config.image_size, tuple):
            raise ValueError("sampling='patch' keeps the aspect: image_size must be an int or None")
        if self.config.patch_size % self.model.stride:
            raise ValueError(
                f"patch_size must be a multiple of {self.model.stride}, got {self.config.patch_size}"
            )
        reduced = reduce_image(picture, self.config.image_size)
        factor = reduced.size[0] / picture.size[0]
        parts = []
        for patches in cut_patches(
            reduced.pixels,
            resize_points(features.keypoints, picture.size, reduced.size),
            features.scales * (self.config.patch_scale * factor),
            features.orientations,
            self.config.patch_size,
        ):
            maps = self._activations(patches.to(self.config.device) * PATCH_CONTRAST, None)
            cells = [functional.adaptive_avg_pool2d(layer, POOLED).flatten(1) for layer in maps]
            rows = torch.cat([functional.normalize(cell, dim=1) for cell in cells], dim=1)
            parts.append(self._read_out(functional.normalize(rows, dim=1).cpu().numpy()))
        return np.concatenate(parts)

    def _activations(self, images: Tensor, noises: Sequence[Tensor] | None) -> list[Tensor]:
        """Mean over the ensemble; the image is encoded once. All images share the noise."""
        config, model = self.config, self.model
        latents = model.encode(images)
        if noises is not None and not config.noise:
            raise ValueError("noises were given to a configuration without noise")
        if not config.noise:
            return model.activations(latents, None, config.timestep, config.layers)
        if noises is not None and len(noises) != config.ensemble_size:
            raise ValueError(f"{config.ensemble_size} noises are needed, got {len(noises)}")
        total: list[Tensor] = []
        for member in range(config.ensemble_size):
            if noises is not None:
                noise = noises[member]
            else:
                generator = torch.Generator().manual_seed(config.seed + member)
                noise = torch.randn((1, *latents.shape[1:]), generator=generator)
            maps = model.activations(latents, noise.to(latents), config.timestep, config.layers)
            total = [sum_ + new for sum_, new in zip(total, maps, strict=True)] if total else maps
        return [layer / config.ensemble_size for layer in total]


def dense_size(size: tuple[int, int], rule: int | tuple[int, int] | None, stride: int) -> tuple[int, int]:
    """(width, height) at which an image enters the network: the rule, rounded to multiples of ``stride``."""
    if isinstance(rule, tuple):
        width, height = float(rule[0]), float(rule[1])
    else:
        factor = min(1.0, rule / max(size)) if rule else 1.0
        width, height = size[0] * factor, size[1] * factor
    return max(1, round(width / stride)) * stride, max(1, round(height / stride)) * stride

"""The DIFT descriptor extractor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from geomatch.dift.backends.batches import batch_size, in_batches
from geomatch.dift.backends.loading import head_file, load_model, model_fingerprint, with_prompt
from geomatch.dift.backends.model import DiffusionModel, Latents
from geomatch.dift.config import DIFTConfig, Side
from geomatch.dift.head.network import POOLED
from geomatch.dift.head.projection import Head, LinearHead, check_settings, load_head, pool_patches
from geomatch.dift.maps.copies import needed_copies
from geomatch.dift.maps.feature_map import FeatureMap
from geomatch.dift.presets import PRESETS
from geomatch.geometry import resize_points, warp_points
from geomatch.images import Image, ImageLike, load_image, reduce_image
from geomatch.patches import cut_patches, normalize_patches
from geomatch.provenance import settings_key
from geomatch.types import Features, Traits, check_shape

PATCH_CONTRAST = 0.5
"""Deviation that patches are given before the network, whose images lie in [-1, 1]."""
UPRIGHT_SIDE = 88.0
"""Side, in pixels of the reduced image, of the upright patches of keypoints without scale or orientation:
of 44, 64 and 88 the one whose matches made whole models of photographs."""
PATCH_RATIO = 0.8
"""Ratio test of collections before the geometry is estimated. Of 29 photographs along a street 0.9, 0.85 and
0.8 registered 12, 19 and 21 with the trained head of ``dift-tiny``."""
PROBE_CELLS = 8
"""Cells of the smallest image that every UNet known here can halve three times."""
VIDEO_MULTIPLE = 32
"""The paper's temporal settings cut the long side of a frame to a multiple of it (DINO's protocol)."""


@dataclass(frozen=True)
class DIFTExtractor:
    """Describes keypoints by the activations of a diffusion model.

    The weights are loaded on first use.
    """

    config: DIFTConfig = PRESETS["dift-tiny"]
    prompt_embedding: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """(tokens, D) to use instead of encoding the prompt, for models conditioned on text."""

    @cached_property
    def model(self) -> DiffusionModel:
        """The networks.

        Raises:
            WeightsError: when they cannot be loaded.
        """
        return load_model(self.config, self.prompt_embedding)

    @cached_property
    def head(self) -> Head | None:
        """The projection head, when the configuration asks for one."""
        file = head_file(self.config)
        if file is None:
            return None
        head = load_head(file)
        check_settings(head, self.config.feature_settings(), file.parent)
        return head

    @cached_property
    def dimension(self) -> int:
        """Of the descriptors; without a projection head the networks are loaded to know it."""
        if self.head is not None:
            return self.head.dimension
        side = self.model.stride * PROBE_CELLS
        channels = sum(layer.shape[1] for layer in self.activations(torch.zeros(1, 3, side, side)))
        return channels * POOLED**2 if self.config.sampling == "patch" else channels

    @property
    def traits(self) -> Traits:
        """See `geomatch.types.Traits`."""
        config = self.config
        patches = config.sampling == "patch"
        return Traits(
            metric=config.metric,
            dense=not patches and config.rotations * config.scales == 1,  # copies have no one map
            large=not config.embedded,
            device=config.device,
            max_ratio=PATCH_RATIO if patches else None,
        )

    def cache_key(self) -> Any:
        """See `geomatch.provenance.cache_key`: the settings, and weights and prompt by their content.

        Raises:
            WeightsError: when weights are missing.
        """
        places = ("model", "revision", "unet_file", "head", "prompt")
        prompt = self.prompt_embedding
        return [
            settings_key(self.config, leave_out=places),
            model_fingerprint(self.config, prompt),
            bool(self.config.head),
        ]

    def __getstate__(self) -> dict[str, object]:
        """Only the settings travel: whoever unpickles loads the networks again."""
        return {"config": self.config, "prompt_embedding": self.prompt_embedding}

    def dense(self, image: ImageLike, noises: Sequence[Tensor] | None = None) -> FeatureMap:
        """The feature maps of the whole image.

        Args:
            image: see `geomatch.load_image`.
            noises: one (1, C, h, w) tensor per member of the ensemble, of the
                shape of the encoded image, instead of those drawn from the seed.
        """
        return self.dense_many([image], noises)[0]

    def describe_map(self, feature_map: FeatureMap, features: Features) -> Features:
        """What `describe` gives for keypoints of an image whose map is at hand."""
        rows = self._project(feature_map.sample(features.keypoints, self.config.metric))
        return replace(features, descriptors=rows)

    def at_timestep(self, timestep: int) -> "DIFTExtractor":
        """The same at another noise level, with the same networks in memory."""
        return self._sharing(replace(self.config, timestep=timestep))

    def at_prompt(self, prompt: str) -> "DIFTExtractor":
        """The same with another text, with the same networks in memory; without effect on models of no text.

        Raises:
            WeightsError: when the prompt cannot be encoded, nor is its embedding in the cache.
        """
        if prompt == self.config.prompt:
            return self
        config = replace(self.config, prompt=prompt)
        other = replace(self, config=config, prompt_embedding=None)
        other.__dict__["model"] = with_prompt(self.model, config)
        return other

    def _sharing(self, config: DIFTConfig) -> "DIFTExtractor":
        """The same networks under other settings of the pass."""
        other = replace(self, config=config)
        other.__dict__["model"] = self.model
        return other

    def network_input(self, image: ImageLike) -> Tensor:
        """(1, 3, h, w) in [-1, 1]: the image in the size that `DIFTConfig.image_size` rules."""
        picture, config = load_image(image), self.config
        size = dense_size(picture.size, config.image_size, self.model.stride, config.image_side)
        # Pillow's bicubic, as in the reference: smooth when an axis shrinks, exact in geometry
        resized = PILImage.fromarray(picture.pixels).resize(size, PILImage.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(resized).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]

    def dense_many(
        self, images: Sequence[ImageLike], noises: Sequence[Tensor] | None = None
    ) -> list[FeatureMap]:
        """The feature maps of several images; those that enter the network in one size share its passes."""
        pictures = [load_image(image) for image in images]
        inputs = [self.network_input(picture) for picture in pictures]
        found: dict[int, FeatureMap] = {}
        for shape in dict.fromkeys(tensor.shape for tensor in inputs):
            members = [index for index, tensor in enumerate(inputs) if tensor.shape == shape]
            maps = self.activations(torch.cat([inputs[index] for index in members]), noises)
            for row, index in enumerate(members):
                found[index] = FeatureMap(tuple(layer[row] for layer in maps), pictures[index].size)
        return [found[index] for index in range(len(pictures))]

    @torch.inference_mode()
    def activations(self, images: Tensor, noises: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Mean of the layers' outputs over the ensemble, each (B, C, h, w) float32.

        Every image is encoded once. All images share the noises, so that none
        depends on its company.

        Args:
            images: (B, 3, H, W) in [-1, 1], sides multiples of the model's stride.
            noises: see `dense`.
        """
        total: list[Tensor] = []
        for maps in self.members(images, noises):
            # not in place: a block and its last part may be one tensor
            total = [summed + new for summed, new in zip(total, maps, strict=True)] if total else maps
        return [layer / self.config.ensemble_size for layer in total]

    def members(self, images: Tensor, noises: Sequence[Tensor] | None = None) -> Iterator[list[Tensor]]:
        """The layers' outputs for each member of the ensemble in turn; see `activations`.

        Raises:
            MemoryError: when not even one image at a time fits the device.
        """
        config, model = self.config, self.model
        if noises is not None and not config.noise:
            raise ValueError("noises were given to a configuration without noise")
        if noises is not None and len(noises) != config.ensemble_size:
            raise ValueError(f"{config.ensemble_size} noises are needed, got {len(noises)}")
        size = config.batch_size or batch_size(images, model)
        encoded: list[Latents] = []
        size = in_batches(len(images), size, lambda part: encoded.append(model.encode(images[part])))
        mean = torch.cat([latents.mean for latents in encoded])
        std = None if encoded[0].std is None else torch.cat([x.std for x in encoded if x.std is not None])
        if not config.noise:
            yield self._pass(mean, size)[0]
            return
        for noise in noises or ():
            check_shape("noise", noise.numpy(force=True), (1, *mean.shape[1:]))
        # one batch holds as many whole members as it may
        together = max(1, size // len(images))
        for start in range(0, config.ensemble_size, together):
            noisy = []
            for member in range(start, min(start + together, config.ensemble_size)):
                generator = torch.Generator().manual_seed(config.seed + member)
                drawn = torch.randn((1, *mean.shape[1:]), generator=generator)
                noise = drawn if noises is None else noises[member]
                latents = mean
                if config.latent == "sample" and std is not None:
                    latents = mean + std * torch.randn(drawn.shape, generator=generator).to(std)
                noisy.append(model.add_noise(latents, noise.to(latents), config.timestep))
            yield from self._pass(torch.cat(noisy), size, len(images))

    def _pass(self, latents: Tensor, size: int, images: int | None = None) -> list[list[Tensor]]:
        """Through the UNet in batches; the maps of each group of ``images`` rows."""
        config, model = self.config, self.model
        parts: list[list[Tensor]] = []
        in_batches(
            len(latents),
            size,
            lambda part: parts.append(model.activations(latents[part], config.timestep, config.layers)),
        )
        joined = [torch.cat(layer) if len(layer) > 1 else layer[0] for layer in zip(*parts, strict=True)]
        groups = [layer.split(images or len(latents)) for layer in joined]
        return [list(group) for group in zip(*groups, strict=True)]

    def describe(self, image: ImageLike, features: Features, paper_sampling: bool = False) -> Features:
        """The keypoints with their DIFT descriptors.

        Args:
            image: see `geomatch.load_image`.
            features: of this image.
            paper_sampling: see `FeatureMap.sample`; patches have no such choice.

        Raises:
            ValueError: when the features belong to an image of another size.
        """
        return self.describe_many([image], [features], paper_sampling)[0]

    def describe_many(
        self, images: Sequence[ImageLike], features: Sequence[Features], paper_sampling: bool = False
    ) -> list[Features]:
        """As `describe`, for several images, whose dense maps share the network's passes."""
        pictures = [load_image(image) for image in images]
        for picture, found in zip(pictures, features, strict=True):
            if found.image_size != picture.size:
                raise ValueError(
                    f"the features are of an image of {found.image_size} pixels, "
                    f"{picture.name} has {picture.size}"
                )
        width = self.head.dimension if self.head else 1
        rows = [np.zeros((0, width), np.float32) for _ in pictures]
        filled = [index for index, found in enumerate(features) if len(found)]
        if self.config.sampling == "patch":
            for index in filled:
                rows[index] = self._describe_patches(pictures[index], features[index])
        elif self.config.rotations * self.config.scales > 1:
            for index in filled:
                rows[index] = self._describe_copies(pictures[index], features[index], paper_sampling)
        elif filled:
            maps = self.dense_many([pictures[index] for index in filled])
            for index, feature_map in zip(filled, maps, strict=True):
                points = features[index].keypoints
                rows[index] = self._project(feature_map.sample(points, self.config.metric, paper_sampling))
        return [replace(found, descriptors=row) for found, row in zip(features, rows, strict=True)]

    def _project(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.head.apply(rows) if isinstance(self.head, LinearHead) else rows

    def _describe_copies(
        self, picture: Image, features: Features, paper_sampling: bool
    ) -> NDArray[np.float32]:
        config, stride = self.config, self.model.stride
        size = dense_size(picture.size, config.image_size, stride, config.image_side)
        copies = needed_copies(picture, features, size, config.rotations, config.scales, stride)
        as_they_are = self._sharing(replace(config, image_size=None, rotations=1, scales=1))
        parts = []
        # copies of one size share passes; the maps of all sizes at once might not fit the memory
        copies.sort(key=lambda copy: copy.image.size)
        for _, group in groupby(copies, key=lambda copy: copy.image.size):
            members = list(group)
            maps = as_they_are.dense_many([copy.image for copy in members])
            for copy, feature_map in zip(members, maps, strict=True):
                points = warp_points(copy.matrix, features.keypoints[copy.members])
                parts.append(self._project(feature_map.sample(points, config.metric, paper_sampling)))
        described = np.concatenate([copy.members for copy in copies])
        return np.concatenate(parts)[np.argsort(described)]

    def _describe_patches(self, picture: Image, features: Features) -> NDArray[np.float32]:
        if isinstance(self.config.image_size, tuple):
            raise ValueError("sampling='patch' keeps the aspect: image_size must be an int or None")
        if self.config.patch_size % self.model.stride:
            raise ValueError(
                f"patch_size must be a multiple of {self.model.stride}, got {self.config.patch_size}"
            )
        reduced = reduce_image(picture, self.config.image_size)
        factor = reduced.size[0] / picture.size[0]
        sides = np.full(len(features), UPRIGHT_SIDE, np.float32)
        angles = np.zeros(len(features), np.float32)
        if features.scales is not None and features.orientations is not None:
            sides, angles = features.scales * (self.config.patch_scale * factor), features.orientations
        parts = []
        for patches in cut_patches(
            reduced.pixels,
            resize_points(features.keypoints, picture.size, reduced.size),
            sides,
            angles,
            self.config.patch_size,
        ):
            maps = patch_maps(self, patches)
            parts.append(self.head.describe_patches(maps) if self.head else pool_patches(maps))
        return np.concatenate(parts)


def patch_maps(extractor: DIFTExtractor, patches: Tensor) -> list[Tensor]:
    """The layers' outputs for patches (n, 3, P, P) of values 0 to 255, each (n, C, h, w)."""
    return extractor.activations(normalize_patches(patches) * PATCH_CONTRAST)


def dense_size(
    size: tuple[int, int], rule: int | tuple[int, int] | None, stride: int, side: Side = "long"
) -> tuple[int, int]:
    """(width, height) at which an image enters the network: the rule, rounded to multiples of ``stride``."""
    if isinstance(rule, tuple):
        width, height = float(rule[0]), float(rule[1])
    elif rule is not None and side == "short":
        short = max(1, round(rule / stride)) * stride
        scaled = [length * short / min(size) for length in size]
        floored = [max(1, int(length / VIDEO_MULTIPLE)) * VIDEO_MULTIPLE for length in scaled]
        return (floored[0], short) if size[0] > size[1] else (short, floored[1])
    else:
        factor = min(1.0, rule / max(size)) if rule else 1.0
        width, height = size[0] * factor, size[1] * factor
    return max(1, round(width / stride)) * stride, max(1, round(height / stride)) * stride

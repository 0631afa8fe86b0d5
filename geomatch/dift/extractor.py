"""The DIFT descriptor extractor."""

import copyreg
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from geomatch.devices import device_kind, find_device
from geomatch.dift.backends.loading import PROBE_CELLS, load_model, network_dtype, patch_dtype, with_prompt
from geomatch.dift.backends.model import DiffusionModel
from geomatch.dift.config import DIFTConfig
from geomatch.dift.ensemble import images_at_once, mean_activations
from geomatch.dift.files import Conditioning, head_file, model_fingerprint
from geomatch.dift.head.dense import STRIDE
from geomatch.dift.head.projection import POOLED, Head, NetworkHead, load_head, pool_patches
from geomatch.dift.inputs import image_input, keypoint_patches, network_patches
from geomatch.dift.maps.feature_map import FeatureMap
from geomatch.dift.presets import PRESETS
from geomatch.images import Image, ImageLike, stream_images
from geomatch.isolation import isolated
from geomatch.provenance import settings_key
from geomatch.tensors import FeatureTensors, upload_features
from geomatch.types import Features, Metric, Traits
from geomatch.weights.checkpoint import looks_untrained

PATCH_RATIO = 0.8
"""Ratio test of collections: of 29 photographs along a street 0.9, 0.85 and 0.8 registered 12, 19 and 21."""
DISTILLED_RATIO = 0.85
"""The same for the embedded network over patches, whose distances are spread otherwise: of these photographs
0.95, 0.9, 0.85 and 0.8 registered 14, 18, 20 and 15 with 2,000 keypoints, 0.9 and 0.85 26 and 27 with 3,000
(means of three seeds of the mapper)."""
_NOT_SETTINGS = (
    "model", "revision", "unet_file", "head", "prompt", "device", "batch_size", "compile", "dtype",
)  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DIFTExtractor:
    """Describes keypoints by the activations of a diffusion model; the weights are loaded on first use."""

    config: DIFTConfig = PRESETS["dift-tiny"]
    conditioning: Conditioning | None = field(default=None, repr=False, compare=False)
    """What the prompt's encoding would be, for models conditioned on text: tensors by name, see
    `geomatch.weights.prompt.Conditioning`."""

    @cached_property
    def model(self) -> DiffusionModel:
        """The networks; raises `WeightsError` when they cannot be loaded."""
        _log.info("loading %s", self.config.model)
        return load_model(self.config, self.conditioning)

    @cached_property
    def head(self) -> Head | None:
        """The projection head, when the configuration asks for one."""
        file, head, wanted = head_file(self.config), self._stored_head, self.config.feature_settings()
        if file is None or head is None:
            return None
        names = dict.fromkeys([*wanted, *head.settings])
        different = [name for name in names if head.settings.get(name) != wanted.get(name)]
        if different:
            fitted = ", ".join(f"{name}={head.settings.get(name)}" for name in different)
            raise ValueError(f"the head of {file.parent} was fitted with {fitted}; use these, or head=False")
        return head

    @cached_property
    def _stored_head(self) -> Head | None:
        file = head_file(self.config)
        return None if file is None else load_head(file)

    @property
    def _distilled(self) -> bool:
        return isinstance(self._stored_head, NetworkHead) and self._stored_head.distilled

    def load_networks(self) -> None:
        """Load networks and projection head now."""
        _ = self._patch_head if self._distilled else (self.head, self.model)

    @cached_property
    def dimension(self) -> int:
        """Length of the descriptors; without a projection head the networks are loaded to know it."""
        if self.head is not None:
            return self.head.dimension
        side = self.model.stride * PROBE_CELLS
        probe = torch.zeros(1, 3, side, side, dtype=torch.float32, device="cpu")
        channels = sum(layer.shape[1] for layer in self.activations(probe))
        return channels * POOLED**2 if self.config.sampling == "patch" else channels

    @property
    def traits(self) -> Traits:
        """See `geomatch.types.Traits`."""
        config = self.config
        patches = config.sampling == "patch"
        ratio = DISTILLED_RATIO if config.embedded and config.head is True else PATCH_RATIO
        return Traits(
            metric=self._metric,
            dense=not patches,
            local=patches,
            large=not config.embedded,
            device=config.device,
            reentrant=True,
            max_ratio=ratio if patches else None,
        )

    @property
    def remark(self) -> str | None:
        """What results should say: that the weights look untrained; the networks are loaded to know it."""
        if self._distilled:
            return None
        return "the descriptor's weights look untrained" if looks_untrained(self.model.network) else None

    def cache_key(self) -> Any:
        """Settings, kind of device, weights and prompt by their content; `WeightsError` without weights."""
        device, config = device_kind(self.config.device), self.config
        if self._distilled:
            dtype = str(patch_dtype(config.dtype, device))
        else:  # on CUDA weights decide what auto means
            dtype = config.dtype if device == "cuda" else str(network_dtype(config.dtype, device))
        settings = settings_key(config, leave_out=_NOT_SETTINGS)
        fingerprint = model_fingerprint(config, self.conditioning)
        return [settings, device, dtype, fingerprint, bool(config.head)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the settings travel; a process that gets them again and again loads the networks once."""
        if type(self) is DIFTExtractor and self.conditioning is None:
            return cached_extractor, (self.config,)
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return copyreg.__newobj__, (type(self),), settings  # type: ignore[attr-defined]

    def expect(self, images: int) -> None:
        """Announce that so many images are coming, so that compiling the networks may pay; loads them."""
        if self._distilled:  # too small to gain by it
            return
        for runner, passes in ((self.model.encoder, 1), (self.model.part, self.config.ensemble_size)):
            if runner is not None:
                runner.coming = max(runner.coming, images * passes)

    def at_prompt(self, prompt: str) -> "DIFTExtractor":
        """The same with another text, sharing the networks; WeightsError when it cannot be encoded."""
        if prompt == self.config.prompt or not self.model.text:
            return self
        config = replace(self.config, prompt=prompt)
        other = replace(self, config=config, conditioning=None)
        other.__dict__["model"] = with_prompt(self.model, config)
        return other

    @isolated()
    def activations(self, images: Tensor) -> list[Tensor]:
        """Means over the ensemble of the layers' outputs, (B, C, h, w) float32; see `mean_activations`."""
        return mean_activations(self.model, self.config, images)

    def dense(self, image: ImageLike) -> FeatureMap:
        """The feature maps of the whole image."""
        return self.dense_many([image])[0]

    def dense_many(self, images: Iterable[ImageLike]) -> list[FeatureMap]:
        """The feature maps of several images, which are decoded ahead; those of one size share passes."""
        found = dict(self._map_stream(stream_images(images)))
        return [found[place] for place in range(len(found))]

    def describe(self, image: ImageLike, features: Features, paper_sampling: bool = False) -> Features:
        """Describe keypoints; ``paper_sampling`` as of `FeatureMap.sample`. ValueError if sizes differ."""
        return self.describe_many([image], [features], paper_sampling)[0]

    def describe_many(
        self, images: Iterable[ImageLike], features: Sequence[Features], paper_sampling: bool = False
    ) -> list[Features]:
        """As `describe`, for several images, whose dense maps share the network's passes."""
        tensors = [upload_features(found, self._device) for found in features]
        described = self.describe_tensors(images, tensors, paper_sampling)
        return [found.to_features() for found in described]

    @isolated()
    def describe_tensors(
        self, images: Iterable[ImageLike], features: Sequence[FeatureTensors], paper_sampling: bool = False
    ) -> list[FeatureTensors]:
        """As `describe_many`; keypoints and descriptors are on the networks' device."""
        uploaded = [found.to(self._device) for found in features]
        width = self.head.dimension if self.head else 1
        rows = [found.keypoints.new_zeros(0, width) for found in uploaded]
        places: list[int] = []  # of the images that have keypoints

        def pictures() -> Iterator[Image]:
            for place, (picture, found) in enumerate(zip(stream_images(images), features, strict=True)):
                if found.image_size != picture.size:
                    raise ValueError(
                        f"the features are of an image of {found.image_size} pixels, "
                        f"{picture.name} has {picture.size}"
                    )
                if len(found):
                    places.append(place)
                    yield picture

        if self.config.sampling == "dense":
            for number, feature_map in self._map_stream(pictures()):
                place = places[number]
                points = uploaded[place].keypoints
                rows[place] = feature_map.sample_tensor(points, self._metric, paper_sampling)
        else:
            for picture in pictures():
                rows[places[-1]] = self._patch_rows(picture, uploaded[places[-1]])
        return [replace(found, descriptors=row) for found, row in zip(uploaded, rows, strict=True)]

    @isolated()
    def describe_map(self, feature_map: FeatureMap, features: Features) -> Features:
        """What `describe` gives for keypoints of an image whose map is at hand."""
        return replace(features, descriptors=feature_map.sample(features.keypoints, self._metric))

    def _map_stream(self, pictures: Iterable[Image]) -> Iterator[tuple[int, FeatureMap]]:
        """Place and maps of each image, as soon as a batch of one size is full."""
        waiting: dict[torch.Size, list[tuple[int, tuple[int, int], Tensor]]] = {}
        for place, picture in enumerate(pictures):
            stride = math.lcm(self.model.stride, STRIDE if self.head else 1)  # a head's cells are whole
            tensor = image_input(picture, self.config, stride, self.model.device)
            group = waiting.setdefault(tensor.shape, [])
            group.append((place, picture.size, tensor))
            if len(group) == images_at_once(self.config, tensor):
                yield from self._maps_together(waiting.pop(tensor.shape))
        for group in waiting.values():
            yield from self._maps_together(group)

    @isolated()
    def _maps_together(
        self, group: Sequence[tuple[int, tuple[int, int], Tensor]]
    ) -> list[tuple[int, FeatureMap]]:
        maps = self.activations(torch.cat([tensor for *_, tensor in group]))
        maps = [self._map_head(maps)] if self._map_head else maps
        return [
            (place, FeatureMap(tuple(layer[row] for layer in maps), size))
            for row, (place, size, _) in enumerate(group)
        ]

    @property
    def _metric(self) -> Metric:
        return "cosine" if self.config.head else self.config.metric  # heads give unit length

    @cached_property
    def _device(self) -> torch.device:
        return torch.device(find_device(self.config.device))

    @cached_property
    def _patch_head(self) -> Callable[[Any], Tensor]:
        if isinstance(self.head, NetworkHead):
            _log.info("loading %s", self.config.model)
            return self.head.network.on(self._device, patch_dtype(self.config.dtype, self._device.type))
        project = self.head.rows_on(self._device) if self.head else torch.nn.Identity()
        return lambda maps: project(pool_patches(maps))

    @cached_property
    def _map_head(self) -> Callable[[Any], Tensor] | None:
        if self.head is None or self.config.sampling == "patch":
            return None
        if isinstance(self.head, NetworkHead):
            return self.head.network.on(self._device, torch.float32)
        return self.head.on_maps(self._device, self.config.metric)

    def _patch_rows(self, picture: Image, features: FeatureTensors) -> Tensor:
        stride = 1 if self._distilled else self.model.stride
        found = []
        for batch in keypoint_patches(picture, features, self.config, stride):
            patches = network_patches(batch)
            found.append(self._patch_head(patches if self._distilled else self.activations(patches)))
        return torch.cat(found)


@lru_cache(maxsize=2)
def cached_extractor(config: DIFTConfig) -> DIFTExtractor:
    """One extractor per configuration, whose model stays loaded; see `geomatch.describers.release`."""
    return DIFTExtractor(config)

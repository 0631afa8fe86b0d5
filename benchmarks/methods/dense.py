"""A method for dense tasks: feature maps of whole images, by the name of what makes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, cast

from geomatch.benchmarks.methods.backbones import MODELS, SIDE, Size, TransformersFeatures
from geomatch.describers import dift_config
from geomatch.dift import DIFTExtractor, FeatureMap
from geomatch.images import Image
from geomatch.provenance import cache_key
from geomatch.types import Metric
from geomatch.weights.sources import model_folder


@dataclass(frozen=True)
class DenseMethod:
    """What makes the maps, and how their vectors are compared."""

    name: str
    """As written."""
    features: DIFTExtractor | TransformersFeatures
    metric: Metric

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its numbers, with the weights' checksums, as JSON can hold it.

        Raises:
            WeightsError: when weights are missing.
        """
        return {"features": cache_key(self.features), "metric": self.metric}

    @cached_property
    def takes_text(self) -> bool:
        """Whether a prompt changes its maps."""
        if not isinstance(self.features, DIFTExtractor):
            return False
        config = self.features.config
        folder = model_folder(config.model, config.revision, own_unet=config.unet_file is None)
        return (folder / "vae").is_dir()  # models with an autoencoder are conditioned on text

    def prompted(self, prompt: str) -> "DenseMethod":
        """The same with another text, where the model takes any."""
        if not isinstance(self.features, DIFTExtractor):
            return self
        return replace(self, features=self.features.at_prompt(prompt))

    def dense(self, images: Sequence[Image]) -> list[FeatureMap]:
        """Maps of whole images; DIFT takes those of one size through the network together."""
        if isinstance(self.features, DIFTExtractor):
            return self.features.dense_many(images)
        return [self.features.dense(image) for image in images]


@lru_cache(maxsize=8)
def create_dense_method(text: str, device: str = "cpu", size: Size | None = None) -> DenseMethod:
    """``dino``, ``dinov2``, ``clip`` (with ``:MODEL``, a folder or hub id), or a dense DIFT descriptor.

    Args:
        text: such a name; descriptors are presets, folders or hub ids of diffusers models.
        device: of the networks.
        size: at which images enter, for protocols that say so: (width, height), or the length of the short
            side, which for DIFT follows the paper's rule for video; None leaves it to the method.

    Raises:
        ValueError: for any other name, or a descriptor that works in patches.
    """
    kind, _, model = text.partition(":")
    if kind in MODELS:
        chosen = TransformersFeatures(cast(Any, kind), model or MODELS[kind], size or (SIDE, SIDE), device)
        return DenseMethod(text, chosen, "cosine")
    config = replace(dift_config(text), device=device)
    if config.sampling != "dense":
        raise ValueError(f"{text}: works in patches; choose a dense descriptor, such as dift-tiny-dense")
    if size is not None:
        config = replace(config, image_size=size, image_side="short" if isinstance(size, int) else "long")
    return DenseMethod(text, DIFTExtractor(config), config.metric)

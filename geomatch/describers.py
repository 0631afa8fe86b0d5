"""The parts of the pipeline by name, and which are taken when none is named."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor, FeatureMap
from geomatch.images import Image
from geomatch.types import Features, Traits
from geomatch.weights.hub import is_hub_id

DEFAULT_DETECTOR = "mixed"
"""SIFT and the embedded network by turns."""


class Describer(Protocol):
    """Anything that describes keypoints; `DIFTExtractor` does.

    Three more members are used where an object has them:

    - ``traits``: a `Traits`;
    - ``describe_many(images, features)``: a list of `Features`, for several images at once;
    - ``cache_key()``: all that decides the descriptors, see `geomatch.provenance.cache_key`. A frozen
      dataclass needs none: its fields are its key.
    """

    def describe(self, image: Image, features: Features) -> Features:
        """The same keypoints with descriptors."""
        ...


class DenseDescriber(Describer, Protocol):
    """A describer that samples a feature map of the whole image."""

    def dense(self, image: Image) -> FeatureMap:
        """The map."""
        ...

    def dense_many(self, images: Sequence[Image]) -> list[FeatureMap]:
        """The maps of several images, those of one size made together where that is faster."""
        ...

    def describe_map(self, feature_map: FeatureMap, features: Features) -> Features:
        """What ``describe`` gives, from the image's map."""
        ...


def traits_of(describer: Describer) -> Traits:
    """The describer's ``traits``, or the defaults."""
    found: Traits = getattr(describer, "traits", Traits())
    return found


def as_dense(describer: Describer) -> DenseDescriber | None:
    """The describer, if it samples a map of the whole image."""
    return cast(DenseDescriber, describer) if traits_of(describer).dense else None


@lru_cache(maxsize=2)
def cached_extractor(config: DIFTConfig) -> DIFTExtractor:
    """One extractor per configuration, so that a second call finds the model loaded."""
    return DIFTExtractor(config)


def default_config(patches: bool) -> DIFTConfig:
    """The embedded model, in patches or densely."""
    return PRESETS["dift-tiny" if patches else "dift-tiny-dense"]


def dift_config(descriptor: str) -> DIFTConfig:
    """The preset of that name, or a configuration for the model in that folder or of that id on the hub.

    Raises:
        ValueError: listing the presets, when it is neither.
    """
    if descriptor in PRESETS:
        return PRESETS[descriptor]
    if (descriptor and Path(descriptor).expanduser().is_dir()) or is_hub_id(descriptor):
        return DIFTConfig(model=descriptor)
    raise ValueError(
        f"unknown descriptor {descriptor!r}; choose one of: {', '.join(PRESETS)}, "
        "or give a diffusers model: its folder, or its id on the hub"
    )


def create_describer(descriptor: str | DIFTConfig | Describer) -> Describer:
    """A describer by preset, folder, hub id or configuration; an object is given back as it is.

    Raises:
        ValueError: listing the presets, when it is none of these.
    """
    if isinstance(descriptor, str):
        descriptor = dift_config(descriptor)
    return cached_extractor(descriptor) if isinstance(descriptor, DIFTConfig) else descriptor


def describe_images(
    describer: Describer | None, images: Sequence[Image], found: Sequence[Features]
) -> list[Features]:
    """Keypoints of several images described, together where the describer can.

    Args:
        describer: None leaves all as they are.
        images: the images.
        found: their keypoints.
    """
    described = list(found)
    filled = [place for place, features in enumerate(found) if len(features)]
    if describer is None or not filled:
        return described
    together = getattr(describer, "describe_many", None)
    chosen = [images[place] for place in filled], [found[place] for place in filled]
    new = together(*chosen) if together else [describer.describe(*pair) for pair in zip(*chosen, strict=True)]
    for place, features in zip(filled, new, strict=True):
        described[place] = features
    return described


def is_oriented(features: Features) -> bool:
    """Whether the keypoints have scale and orientation, so that patches can follow them."""
    return features.scales is not None and features.orientations is not None

"""What a describer is, the parts of the pipeline by name, and which are taken when none is named."""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from geomatch.dift import PRESETS, DIFTConfig
from geomatch.errors import FeaturesError
from geomatch.images import Image
from geomatch.keypoints import DEFAULT_DETECTOR, Detector, create_detector
from geomatch.matchers import Matcher, create_matcher
from geomatch.places import user_path
from geomatch.types import Features, Traits
from geomatch.weights.hub import is_hub_id

if TYPE_CHECKING:
    from geomatch.dift import FeatureMap
    from geomatch.tensors import FeatureTensors


class Describer(Protocol):
    """Anything that describes keypoints; `DIFTExtractor` does.

    Eight more members are used where an object has them:

    - ``traits``: a `Traits`;
    - ``dimension``: the length of its descriptors;
    - ``describe_many(images, features)``: a list of `Features`, for several images at once;
    - ``describe_tensors(images, features)``: the same for `FeatureTensors`, on the describer's device, where
      matching then reads them;
    - ``load_networks()``: loads what takes long now, so that it is timed apart from the description;
    - ``expect(images)``: announces how many images are coming, so that it may compile its networks;
    - ``remark``: a line that results should carry (``result.json``, the screen), or None;
    - ``cache_key()``: all that decides the descriptors, see `geomatch.provenance.cache_key`. A frozen
      dataclass needs none: its fields are its key.
    """

    def describe(self, image: Image, features: Features) -> Features:
        """The same keypoints with descriptors."""


class DenseDescriber(Describer, Protocol):
    """A describer that samples a feature map of the whole image."""

    def dense(self, image: Image) -> "FeatureMap":
        """The map."""

    def dense_many(self, images: Sequence[Image]) -> list["FeatureMap"]:
        """The maps of several images, those of one size made together where that is faster."""

    def describe_map(self, feature_map: "FeatureMap", features: Features) -> Features:
        """What ``describe`` gives, from the image's map."""


@dataclass(frozen=True)
class OwnDescriptors:
    """Leaves keypoints the descriptors that their detector brings; its name is ``own``."""

    traits: ClassVar = Traits(local=True)  # that is, nobody can compute them elsewhere in the image

    def describe(self, image: Image, features: Features) -> Features:
        """The features as they are; raises `FeaturesError` when they have no descriptors."""
        if features.descriptors is None:
            raise FeaturesError("the detector brings no descriptors: name a descriptor, such as dift-tiny")
        return features


def traits_of(describer: Describer) -> Traits:
    """The describer's ``traits``, or the defaults."""
    found: Traits = getattr(describer, "traits", Traits())
    return found


def as_dense(describer: Describer) -> DenseDescriber | None:
    """The describer, if it samples a map of the whole image."""
    return cast(DenseDescriber, describer) if traits_of(describer).dense else None


def describe_images(
    describer: Describer | None, images: Sequence[Image], found: Sequence[Features]
) -> list[Features]:
    """Describe the keypoints of several images, together where the describer can; None describes none."""
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


def describe_tensors(
    describer: Describer, images: Sequence[Image], found: Sequence["FeatureTensors"]
) -> list["FeatureTensors"]:
    """`describe_images` for tensors; the descriptors are where the describer leaves them."""
    from geomatch.tensors import tensor_method, upload_features

    own = tensor_method(describer, "describe_tensors", ("describe", "describe_many"))
    if own is not None:
        return list(own(images, found))
    described = describe_images(describer, images, [features.to_features() for features in found])
    return [upload_features(features, "cpu") for features in described]


def release() -> None:
    """Free the models that geomatch keeps loaded between calls, on accelerators too.

    Up to two diffusion models and four other networks stay loaded; the next call loads what it needs again.
    Those of objects that you made live as long as these.
    """
    for module, cached in (("dift.extractor", "cached_extractor"), ("weights.tensors", "loaded")):
        if (imported := sys.modules.get(f"geomatch.{module}")) is not None:
            getattr(imported, cached).cache_clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def default_config(patches: bool) -> DIFTConfig:
    """The embedded model's settings, in patches or densely."""
    return PRESETS["dift-tiny" if patches else "dift-tiny-dense"]


def dift_config(descriptor: str) -> DIFTConfig:
    """The preset of that name, or settings for the model in that folder or file, or of that id on the hub."""
    if descriptor in PRESETS:
        return PRESETS[descriptor]
    if (descriptor and user_path(descriptor).exists()) or is_hub_id(descriptor):
        return DIFTConfig(model=descriptor)
    raise ValueError(
        f"unknown descriptor {descriptor!r}; choose one of: {', '.join(PRESETS)}, "
        "or give a diffusers model: its folder or single file, or its id on the hub"
    )


def create_describer(descriptor: str | DIFTConfig | Describer, device: str = "auto") -> Describer:
    """Create a describer by name, on ``device`` if its own is ``auto``; an object is given back as it is."""
    if descriptor == "own":
        return OwnDescriptors()
    if isinstance(descriptor, str):
        descriptor = dift_config(descriptor)
    if not isinstance(descriptor, DIFTConfig):
        return descriptor
    from geomatch.dift import cached_extractor  # loads torch

    return cached_extractor(replace(descriptor, device=device) if descriptor.device == "auto" else descriptor)


def choose_parts(
    matcher: str | Matcher | None,
    detector: str | Detector | None,
    descriptor: str | DIFTConfig | Describer | None,
    max_keypoints: int,
    device: str = "auto",
    usual: str = DEFAULT_DETECTOR,
) -> tuple[Matcher | None, Detector, Describer | None]:
    """Create matcher, detector and describer; where none is given, what the matcher says that it is made for.

    Else the detector is the ``usual`` one, the describer None. ValueError for others with a learned matcher.
    """
    made = create_matcher(matcher, device)
    if (own := getattr(made, "features", None)) is not None:
        if isinstance(matcher, str) and (detector not in (None, own) or descriptor not in (None, "own")):
            raise ValueError(f"{matcher} brings {own} and its descriptors: name no others")
        device, detector = getattr(matcher, "device", device), own if detector is None else detector
        descriptor = "own" if descriptor is None else descriptor
    describer = None if descriptor is None else create_describer(descriptor, device)
    if describer is not None and traits_of(describer).device != "auto":
        device = traits_of(describer).device
    detector = usual if detector is None else detector
    found = create_detector(detector, max_keypoints, device) if isinstance(detector, str) else detector
    return made, found, describer

"""A method: where features come from, how they are matched, and all that decides its numbers."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, cast

from geomatch.benchmarks.methods.features import FeatureFiles
from geomatch.benchmarks.methods.functions import MatchFiles
from geomatch.describers import Describer, describe_images, traits_of
from geomatch.dift import DIFTConfig, DIFTExtractor, cached_extractor
from geomatch.dift.config import Side
from geomatch.dift.files import folder_of
from geomatch.images import Image
from geomatch.keypoints import Detector
from geomatch.matchers import Matcher, match_features
from geomatch.matching import match_mutual
from geomatch.provenance import cache_key
from geomatch.tensors import detect_features
from geomatch.types import Features, Matches, Metric
from geomatch.weights.folders import family_of


class PairMatcher(Protocol):
    """Anything that matches two images by itself, without keypoints that each has of its own."""

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """Row i of the one and row i of the other match, best first; scores are confidences."""


@dataclass(frozen=True)
class Method:
    """A source of features, a descriptor unless they bring their own, and a way to match; or a `PairMatcher`.

    The parts are geomatch's or the user's own: frozen dataclasses, or objects with a ``cache_key()``
    (`geomatch.provenance.cache_key`). They are pickled for worker processes.
    """

    name: str
    """Its string, or the user's name for it."""
    source: Detector | FeatureFiles | None = None
    """None for dense tasks and for a `pair_matcher`, which need no keypoints."""
    descriptor: Describer | None = None
    """For dense tasks a `geomatch.describers.DenseDescriber`."""
    metric: Metric = "cosine"
    """The metric of mutual nearest neighbours, and of dense comparisons."""
    max_ratio: float | None = None
    """The ratio test of mutual nearest neighbours, see `match_mutual`."""
    matcher: Matcher | None = None
    """Instead of mutual nearest neighbours."""
    pair_matcher: PairMatcher | MatchFiles | None = None
    """Instead of all of these."""
    estimator: str | None = None
    """Instead of the protocols' own."""
    dift: DIFTConfig | None = None
    """The settings of ``descriptor``, a `DIFTExtractor`; a few are kept in memory (`cached_extractor`)."""

    @classmethod
    def of(cls, name: str, source: Detector | None, describer: Describer | None) -> "Method":
        """A method of the user's own detector and describer, compared by the describer's metric."""
        return cls(name, source, describer, traits_of(describer).metric if describer else "cosine")

    def detect(self, image: Image) -> Features:
        """Keypoints best first, described if the source, which must be a detector, does that."""
        return detect_features(cast(Detector, self.source), image).to_features()

    def describe(
        self, images: Sequence[Image], found: Sequence[Features], paper_sampling: bool = False
    ) -> list[Features]:
        """What was detected with descriptors; ``paper_sampling`` as `FeatureMap.sample`."""
        if self.dift is not None:
            return cached_extractor(self.dift).describe_many(images, found, paper_sampling)
        return describe_images(self.descriptor, images, found)

    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first; ValueError when there are no descriptors."""
        if self.matcher:
            return match_features(self.matcher, features0, features1)
        if features0.descriptors is None or features1.descriptors is None:
            raise ValueError(f"{self.name} gave features without descriptors")
        return match_mutual(features0.descriptors, features1.descriptors, self.metric, None, self.max_ratio)

    @property
    def samples(self) -> bool:
        """True if descriptors are sampled from a map of DIFT, as the paper's code does or exactly."""
        return self.dift is not None and self.dift.sampling == "dense"

    @property
    def takes_text(self) -> bool:
        """True if a prompt changes its maps."""
        if self.dift is None:
            return hasattr(self.descriptor, "at_prompt")
        family = family_of(folder_of(self.dift))
        return family is not None and bool(family.pipelines)

    def maps(self, images: Sequence[Image], prompt: str | None = None) -> list[Any]:
        """The `FeatureMap` of each image."""
        text = prompt if self.takes_text else None
        if self.dift is not None:
            return _prompted(self.dift, self.dift.prompt if text is None else text).dense_many(images)
        describer = cast(Any, self.descriptor)
        return list((describer if text is None else describer.at_prompt(text)).dense_many(images))

    def at_size(self, size: int | tuple[int, int]) -> "Method":
        """The same with images at a protocol's size, the short side or (width, height), where it has one."""
        if self.dift is not None:
            side: Side = "short" if isinstance(size, int) else "long"
            config = replace(self.dift, image_size=size, image_side=side)
            return replace(self, dift=config, descriptor=replace(cast(Any, self.descriptor), config=config))
        change = getattr(self.descriptor, "at_size", None)
        return replace(self, descriptor=change(size)) if change else self

    def key(self, known: MutableMapping[DIFTConfig, Any] | None = None) -> dict[str, Any]:
        """All that decides its numbers, as JSON can hold it; `feature_key` is the part before matching.

        Keys of DIFT's weights that are ``known`` are not computed again. Raises ValueError for a part whose
        settings cannot be read (`geomatch.provenance.cache_key`), WeightsError and FeaturesError where
        weights or files are missing.
        """
        names = ("source", "metric", "max_ratio", "matcher", "pair_matcher", "estimator")
        descriptor = self._descriptor_key({} if known is None else known)
        return {"descriptor": descriptor, **{name: cache_key(getattr(self, name)) for name in names}}

    def _descriptor_key(self, known: MutableMapping[DIFTConfig, Any]) -> Any:
        if self.dift is None or self.dift.head:  # which is for one time step and its layers
            return cache_key(self.descriptor)
        base = replace(self.dift, timestep=0, layers=(0,), ensemble_size=1)
        if base not in known:
            known[base] = cache_key(replace(cast(Any, self.descriptor), config=base))
        names = ("timestep", "layers", "ensemble_size")
        return {"dift": known[base], **{name: cache_key(getattr(self.dift, name)) for name in names}}


@lru_cache(maxsize=1)
def _prompted(config: DIFTConfig, prompt: str) -> DIFTExtractor:
    """The text is encoded once for many images."""
    return cached_extractor(config).at_prompt(prompt)


def feature_key(key: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a `Method.key` that decides features and maps."""
    return {name: key[name] for name in ("source", "descriptor", "pair_matcher")}

"""A method: where features come from, how they are matched, and the string that says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

from geomatch.benchmarks.methods.backbones import MODELS, TransformersFeatures
from geomatch.benchmarks.methods.feature_files import FeatureFiles
from geomatch.benchmarks.methods.matchers import TRAINED_FOR, LightGlueMatcher, LoFTRMatcher
from geomatch.benchmarks.methods.peers import KorniaFeatures, OpenCVFeatures
from geomatch.describers import Describer, dift_config
from geomatch.dift import DIFTExtractor
from geomatch.estimators import estimators
from geomatch.images import Image
from geomatch.keypoints import Detector, MagicLeapSuperPoint, SuperPointDetector, create_detector
from geomatch.matching import match_mutual
from geomatch.provenance import cache_key
from geomatch.types import Features, Matches, Metric
from geomatch.weights.hub import transformers_folder

_L2 = ("sift", "orb", "akaze")
_LEARNED = ("aliked", "disk", "xfeat", "dedode")
_PEERS = (*_L2, "rootsift", "superpoint", "superpoint-magicleap", *_LEARNED)


@dataclass(frozen=True)
class Method:
    """A source of features, a descriptor unless they bring their own, and a way to match."""

    name: str
    """As written."""
    source: Detector | FeatureFiles | LoFTRMatcher
    descriptor: Describer | None
    metric: Metric
    """Of mutual nearest neighbours."""
    matcher: LightGlueMatcher | None = None
    """Instead of mutual nearest neighbours."""
    estimator: str | None = None
    """Instead of the protocols' own."""

    def extract(
        self, images: Sequence[Image], describe: bool = True, paper_sampling: bool = False
    ) -> list[Features]:
        """Keypoints best first, with descriptors if wanted; see `DIFTExtractor.describe`.

        DIFT takes images of one size through the network together.

        Raises:
            TypeError: when the source is no detector.
        """
        if isinstance(self.source, (FeatureFiles, LoFTRMatcher)):
            raise TypeError(f"{self.name} does not extract features of images")
        found = [self.source.detect(image) for image in images]
        if not describe or self.descriptor is None:
            return found
        if isinstance(self.descriptor, DIFTExtractor):
            return self.descriptor.describe_many(images, found, paper_sampling)
        return [
            self.descriptor.describe(image, features) for image, features in zip(images, found, strict=True)
        ]

    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first.

        Raises:
            ValueError: when there are no descriptors.
        """
        if self.matcher:
            return self.matcher.match(features0, features1)
        if features0.descriptors is None or features1.descriptors is None:
            raise ValueError("the method returned features without descriptors")
        return match_mutual(features0.descriptors, features1.descriptors, self.metric)

    @property
    def dense(self) -> bool:
        """Whether descriptors are sampled from a map of the whole image of DIFT."""
        return isinstance(self.descriptor, DIFTExtractor) and self.descriptor.config.sampling == "dense"

    @property
    def feature_identity(self) -> dict[str, Any]:
        """All that decides its features, with the weights' checksums, as JSON can hold it.

        Raises:
            WeightsError: when weights are missing.
            FeaturesError: when files are.
        """
        return {"source": cache_key(self.source), "descriptor": cache_key(self.descriptor)}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its numbers; raises as `feature_identity`."""
        rest = {"metric": self.metric, "matcher": cache_key(self.matcher), "estimator": self.estimator}
        return self.feature_identity | rest


@lru_cache(maxsize=8)
def create_method(text: str, max_keypoints: int = 2000, device: str = "cpu") -> Method:
    """A method by its string: parts joined by ``+``, weights after a colon.

    - features: a peer with its own descriptors (``sift``, ``aliked:aliked-n16.pth``), or
      ``DETECTOR+DESCRIPTOR`` with a detector of geomatch or a learned peer's keypoints and a DIFT
      descriptor, ``dino``, ``dinov2`` or ``clip`` (``superpoint+dift-sd``, ``sift+dinov2:FOLDER``,
      ``aliked:aliked-n16.pth+dift-tiny``), or files, see `FeatureFiles`
      (``npz:ROOT:SUFFIX``, ``h5:FILE``), or ``loftr``;
    - then ``mnn`` (what is done anyway) or ``lightglue``;
    - then an estimator, which takes the place of the protocol's, at the protocol's threshold.

    Args:
        text: such a string.
        max_keypoints: per image.
        device: of the networks, as torch names it.

    Raises:
        ValueError: saying how a method is written, when it is none.
    """
    parts = text.split("+")
    estimator = {"magsac": "usac_magsac"}.get(parts[-1], parts[-1])
    chosen = estimator if estimator in estimators() else None
    parts = parts[:-1] if chosen else parts
    name, _, weights = parts[0].partition(":")
    matcher = None
    if parts[-1] == "mnn":
        parts = parts[:-1]
    elif parts[-1].partition(":")[0] == "lightglue":
        if name not in TRAINED_FOR or len(parts) != 2:
            raise ValueError(f"{text}: LightGlue has weights for {', '.join(TRAINED_FOR)} only")
        matcher = LightGlueMatcher(name, parts[-1].partition(":")[2] or None, device)
        parts = parts[:-1]
    if len(parts) == 1 and name == "loftr":
        return Method(
            text, LoFTRMatcher(weights or None, max_keypoints, device), None, "cosine", None, chosen
        )
    if len(parts) == 1 and name in ("npz", "h5") and weights:
        root, _, suffix = weights.rpartition(":") if name == "npz" else (weights, "", "")
        files = FeatureFiles("npz" if name == "npz" else "h5", root, suffix, max_keypoints)
        return Method(text, files, None, "cosine", None, chosen)
    if len(parts) == 1 and name in _PEERS:
        peer = _peer(name, max_keypoints, weights, device)
        return Method(text, peer, None, "l2" if name in _L2 else "cosine", matcher, chosen)
    if len(parts) != 2 or matcher:
        raise ValueError(
            f"no method {text!r}: give one of {', '.join(_PEERS)}, loftr, npz:ROOT:SUFFIX, h5:FILE, or "
            "DETECTOR+DESCRIPTOR (sift+dift-tiny); then +lightglue if wanted, then an estimator (+magsac)"
        )
    kind, _, model = parts[1].partition(":")
    if kind in MODELS:
        backbone = TransformersFeatures(cast(Any, kind), model or MODELS[kind], device=device)
        return Method(text, _detector(name, max_keypoints, weights, device), backbone, "cosine", None, chosen)
    config = replace(dift_config(parts[1]), device=device)
    detector = _detector(name, max_keypoints, weights, device)
    return Method(text, detector, DIFTExtractor(config), config.metric, None, chosen)


def _peer(name: str, count: int, weights: str, device: str) -> Detector:
    if name in ("sift", "rootsift", "orb", "akaze"):
        return OpenCVFeatures(cast(Any, name), count)
    return _detector(name, count, weights, device)


def _detector(name: str, count: int, weights: str, device: str) -> Detector:
    own: dict[str, Callable[[], Detector]] = {
        "superpoint": partial(SuperPointDetector, weights or None, max_keypoints=count, device=device),
        "superpoint-magicleap": lambda: MagicLeapSuperPoint(
            str(transformers_folder(weights or MagicLeapSuperPoint.weights)), count, device=device
        ),
    }
    if name in _LEARNED:  # their descriptors give way to those of the method
        return KorniaFeatures(cast(Any, name), count, weights or None, device)
    return own[name]() if name in own else create_detector(name, count)

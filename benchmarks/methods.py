"""Methods to compare, each written as one short string.

``NAME`` for features that bring their own descriptors (``sift``, ``aliked``),
``DETECTOR+DESCRIPTOR`` for a detector of geomatch and a DIFT descriptor
(``sift+dift-tiny``, ``superpoint+dift-sd``); weights may follow a name after a
colon (``aliked:aliked-n16.pth``). ``+mnn`` may be added and says what is true
anyway. An estimator at the end (``sift+dift-tiny+mnn+magsac``) takes the place of
the protocol's, at the protocol's threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from geomatch.benchmarks.peers import KorniaFeatures, OpenCVFeatures
from geomatch.dift import DIFTExtractor
from geomatch.dift.loading import model_fingerprint
from geomatch.estimators import estimators
from geomatch.files import sha256_of
from geomatch.images import Image
from geomatch.keypoints import Detector, MagicLeapSuperPoint, SuperPointDetector, create_detector
from geomatch.keypoints.opencv import FRAMED
from geomatch.matching import Metric
from geomatch.pipeline import dift_config, record
from geomatch.types import Features
from geomatch.weights import SUPERPOINT_V6, locate_weights

_OWN: dict[str, Callable[[int, str | None], Detector]] = {
    "sift": lambda n, _: OpenCVFeatures("sift", n),
    "rootsift": lambda n, _: OpenCVFeatures("rootsift", n),
    "orb": lambda n, _: OpenCVFeatures("orb", n),
    "akaze": lambda n, _: OpenCVFeatures("akaze", n),
    "superpoint": lambda n, weights: SuperPointDetector(weights, max_keypoints=n),
    "superpoint-magicleap": lambda n, _: MagicLeapSuperPoint(max_keypoints=n),
    "aliked": lambda n, weights: KorniaFeatures("aliked", n, weights),
    "disk": lambda n, weights: KorniaFeatures("disk", n, weights),
    "xfeat": lambda n, weights: KorniaFeatures("xfeat", n, weights),
}
_L2 = ("sift", "orb", "akaze")


@dataclass(frozen=True)
class Method:
    """A detector, and a descriptor unless the detector brings its own."""

    name: str
    """As written."""
    detector: Detector
    extractor: DIFTExtractor | None
    metric: Metric
    estimator: str | None = None
    """Instead of the protocols' own."""

    def extract(self, image: Image, describe: bool = True, paper_sampling: bool = False) -> Features:
        """Keypoints best first, with descriptors if wanted; see `DIFTExtractor.describe`."""
        found = self.detector.detect(image)
        return self.extractor.describe(image, found, paper_sampling) if self.extractor and describe else found

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its features, with the weights' checksums, as JSON can hold it.

        Raises:
            WeightsError: when weights are missing.
        """
        weights = [getattr(self.detector, "weights_sha256", None)]
        if isinstance(self.detector, SuperPointDetector):
            weights = [sha256_of(locate_weights(SUPERPOINT_V6, self.detector.weights))]
        if self.extractor:
            weights.append(model_fingerprint(self.extractor.config))
        parts = {"detector": record(self.detector), "descriptor": record(self.extractor)}
        return {**parts, "weights": weights, "metric": self.metric, "estimator": self.estimator}


@lru_cache(maxsize=8)
def create_method(text: str, max_keypoints: int = 2000) -> Method:
    """A method by its string.

    Raises:
        ValueError: saying how a method is written, when it is none.
    """
    parts = [part for part in text.split("+") if part != "mnn"]
    estimator = {"magsac": "usac_magsac"}.get(parts[-1], parts[-1]) if parts else ""
    if estimator in estimators():
        parts.pop()
    chosen = estimator if estimator in estimators() else None
    name, _, weights = parts[0].partition(":") if parts else ("", "", "")
    if len(parts) == 1 and name in _OWN:
        detector = _OWN[name](max_keypoints, weights or None)
        return Method(text, detector, None, "l2" if name in _L2 else "cosine", chosen)
    if len(parts) != 2:
        raise ValueError(
            f"no method {text!r}: give one of {', '.join(_OWN)}, or DETECTOR+DESCRIPTOR (sift+dift-tiny), "
            "and after it an estimator if the protocol's is not wanted (+magsac)"
        )
    config = dift_config(parts[1])
    if config.sampling == "patch" and name not in FRAMED:
        raise ValueError(
            f"{text}: {parts[1]} needs keypoints with scale and orientation; use dift-tiny-dense"
        )
    if name == "superpoint":
        detector = SuperPointDetector(weights or None, max_keypoints=max_keypoints)
    else:
        detector = create_detector(name, max_keypoints)
    return Method(text, detector, DIFTExtractor(config), config.metric, chosen)

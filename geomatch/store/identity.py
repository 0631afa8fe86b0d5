"""All that decides what a part of the pipeline gives, so that kept results are bound to it."""

from typing import Any, cast

from geomatch.dift import DIFTExtractor
from geomatch.dift.backends.loading import model_fingerprint
from geomatch.files import sha256_of
from geomatch.keypoints import (
    MagicLeapSuperPoint,
    MixedDetector,
    OpenCVDetector,
    SuperPointDetector,
    TinyDetector,
)
from geomatch.keypoints.tiny import weights_file
from geomatch.provenance import record
from geomatch.weights.download import SUPERPOINT_V6, locate_weights
from geomatch.weights.hub import transformers_fingerprint


def identity_of(part: object) -> dict[str, Any] | None:
    """Type, settings and checksums of the weights of a detector or descriptor, as JSON can hold them.

    Where weights lie does not count, only what is in them.

    Raises:
        WeightsError: when weights are missing.
        ValueError: for an OpenCV object, whose settings cannot be read.
    """
    if part is None:
        return None
    if isinstance(part, OpenCVDetector) and not isinstance(part.feature, str):
        raise ValueError(
            "results of an OpenCV object cannot be kept, since its settings cannot be read: "
            "give the detector by name, or wrap it in a frozen dataclass that has the settings as fields"
        )
    settings = cast(dict[str, Any], record(part))
    if not isinstance(settings, dict):
        raise ValueError(f"{settings}: to keep its results, a part must be a dataclass of its settings")
    if isinstance(part, SuperPointDetector):
        sums = [sha256_of(locate_weights(SUPERPOINT_V6, part.weights))]
    elif isinstance(part, (TinyDetector, MixedDetector)):
        sums = [sha256_of(weights_file(part.weights))]
    elif isinstance(part, MagicLeapSuperPoint):
        sums = [transformers_fingerprint(part.weights)]
    elif isinstance(part, DIFTExtractor):
        sums = [model_fingerprint(part.config)]
    else:
        sums = getattr(part, "weights_sha256", [])
        for place in ("root", "model"):
            settings.pop(place, None)
    settings.pop("weights", None)
    return settings | {"weights_sha256": sums}

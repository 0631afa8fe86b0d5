"""What matching two images gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.provenance import versions
from geomatch.types import EstimationFailure, Features, Geometry, HomographyEstimate, Matches


@dataclass(frozen=True, eq=False, slots=True)
class MatchResult:
    """What `match` found, and how."""

    image0: Image
    image1: Image
    features0: Features
    """Keypoints of image 0, with descriptors if both images have keypoints."""
    features1: Features
    """Keypoints of image 1; a refined keypoint has the descriptor that it was matched by."""
    matches: Matches
    """Best first."""
    geometry: Geometry
    """What was asked for as ``model``, from image 0 to image 1; false, with a reason, when there is none."""
    seconds: dict[str, float]
    """Wall time per stage: read, load_model, detect, describe, match, refine_keypoints (of a grid), estimate,
    check_mirrored (after a failure, but for large models), search_views (where `effort` asks for it),
    refine_homography, check_content (of features that see more than patches)."""
    settings: dict[str, Any]
    """Images, detector, descriptor, matching, refinement and estimator as used, as JSON can hold them."""

    @property
    def homography(self) -> HomographyEstimate | EstimationFailure:
        """The ``geometry`` where it is a homography; false, with a reason, when there is none."""
        if isinstance(self.geometry, HomographyEstimate | EstimationFailure):
            return self.geometry
        return EstimationFailure("another model was asked for")

    @property
    def points0(self) -> NDArray[np.float32]:
        """(M, 2) matched pixels of image 0, best match first."""
        return self.features0.keypoints[self.matches.indices[:, 0]]

    @property
    def points1(self) -> NDArray[np.float32]:
        """(M, 2) their partners in image 1."""
        return self.features1.keypoints[self.matches.indices[:, 1]]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        found = self.geometry
        return {
            **_described(found, self.settings["model"]["type"]),
            "reason": None if found else found.reason,
            "remarks": list(found.remarks) if found else [],
            "num_keypoints": [len(self.features0), len(self.features1)],
            "num_matches": len(self.matches),
            "num_inliers": found.num_inliers,
            "seconds": {stage: round(spent, 4) for stage, spent in self.seconds.items()},
            "settings": self.settings,
            "versions": versions(),
        }


_OF_PLANES = (
    "model", "parameters", "parameter_deviations", "corner_deviations", "covariance", "score",
)  # fmt: skip


def _described(found: Geometry, model: str) -> dict[str, Any]:
    """What ``result.json`` says of a geometry: each entry is None without one."""
    if model == "Homography":
        names = {"homography": "matrix", **{name: name for name in _OF_PLANES}}
    elif model == "Essential":
        own = ("rotation", "translation", "rotation_deviation", "translation_deviation", "second")
        names = {name: name for name in own}
    else:
        names = {"fundamental": "matrix"}
    values = {name: getattr(found, attribute, None) for name, attribute in names.items()}
    if not found and "score" in values:
        values["score"] = 0.0
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else None if value == np.inf else value
        for name, value in values.items()
    }

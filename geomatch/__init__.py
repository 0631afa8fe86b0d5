"""Register two photographs with diffusion features.

>>> import geomatch
>>> pair = geomatch.bundled_pair()
>>> result = geomatch.match(pair.image0, pair.image1)
>>> bool(result.homography)
True

Names are imported when they are first used: ``import geomatch`` alone loads neither torch nor OpenCV.
"""

from typing import TYPE_CHECKING

from geomatch.errors import GeomatchError, ImageError, MissingDependencyError, ShapeError, WeightsError
from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.cameras import Camera
    from geomatch.demo import bundled_pair
    from geomatch.describers import release
    from geomatch.dift import DIFTConfig, DIFTExtractor
    from geomatch.estimators import Essential, Fundamental, relative_pose
    from geomatch.geometry import corner_error, warp_points
    from geomatch.images import Conversion, Image, load_image
    from geomatch.matching import match_mutual
    from geomatch.pairs import match
    from geomatch.pipeline import Pipeline
    from geomatch.registration.register import Registration, register
    from geomatch.relating import relate
    from geomatch.results import MatchResult
    from geomatch.types import (
        EstimationFailure,
        Features,
        HomographyEstimate,
        Matches,
        RelativePose,
        TwoViewGeometry,
    )

__all__ = [
    "Camera", "Conversion", "DIFTConfig", "DIFTExtractor", "Essential", "EstimationFailure", "Features",
    "Fundamental", "GeomatchError", "HomographyEstimate", "Image", "ImageError", "MatchResult", "Matches",
    "MissingDependencyError", "Pipeline", "Registration", "RelativePose", "ShapeError", "TwoViewGeometry",
    "WeightsError", "bundled_pair", "corner_error", "load_image", "match", "match_mutual", "register",
    "relate", "relative_pose", "release", "warp_points",
]  # fmt: skip

__getattr__ = lazy_names(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)

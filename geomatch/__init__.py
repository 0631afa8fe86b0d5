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
    from geomatch.demo import bundled_pair
    from geomatch.describers import release
    from geomatch.dift import DIFTConfig, DIFTExtractor
    from geomatch.geometry import corner_error, warp_points
    from geomatch.images import Conversion, Image, load_image
    from geomatch.matching import match_mutual
    from geomatch.pipeline import MatchResult, match
    from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches

__all__ = [
    "Conversion", "DIFTConfig", "DIFTExtractor", "EstimationFailure", "Features", "GeomatchError",
    "HomographyEstimate", "Image", "ImageError", "MatchResult", "Matches", "MissingDependencyError",
    "ShapeError", "WeightsError", "bundled_pair", "corner_error", "load_image", "match", "match_mutual",
    "release", "warp_points",
]  # fmt: skip

__getattr__ = lazy_names(
    __name__,
    {
        "geomatch.demo": ("bundled_pair",),
        "geomatch.describers": ("release",),
        "geomatch.dift": ("DIFTConfig", "DIFTExtractor"),
        "geomatch.geometry": ("corner_error", "warp_points"),
        "geomatch.images": ("Conversion", "Image", "load_image"),
        "geomatch.matching": ("match_mutual",),
        "geomatch.pipeline": ("MatchResult", "match"),
        "geomatch.types": ("EstimationFailure", "Features", "HomographyEstimate", "Matches"),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Register two photographs with diffusion features.

>>> import geomatch
>>> pair = geomatch.bundled_pair()
>>> result = geomatch.match(pair.image0, pair.image1)
>>> bool(result.homography)
True

Names are imported when they are first used: ``import geomatch`` alone loads
neither torch nor OpenCV.
"""

from typing import TYPE_CHECKING

from geomatch.errors import GeomatchError as GeomatchError
from geomatch.errors import ImageError as ImageError
from geomatch.errors import MissingDependencyError as MissingDependencyError
from geomatch.errors import ShapeError as ShapeError
from geomatch.errors import WeightsError as WeightsError
from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.demo import bundled_pair as bundled_pair
    from geomatch.describers import release as release
    from geomatch.dift import DIFTConfig as DIFTConfig
    from geomatch.dift import DIFTExtractor as DIFTExtractor
    from geomatch.geometry import corner_error as corner_error
    from geomatch.geometry import warp_points as warp_points
    from geomatch.images import Image as Image
    from geomatch.images import load_image as load_image
    from geomatch.matching import match_mutual as match_mutual
    from geomatch.pipeline import MatchResult as MatchResult
    from geomatch.pipeline import match as match
    from geomatch.types import EstimationFailure as EstimationFailure
    from geomatch.types import Features as Features
    from geomatch.types import HomographyEstimate as HomographyEstimate
    from geomatch.types import Matches as Matches

_HOME = {
    "bundled_pair": "geomatch.demo",
    "release": "geomatch.describers",
    "DIFTConfig": "geomatch.dift",
    "DIFTExtractor": "geomatch.dift",
    "corner_error": "geomatch.geometry",
    "warp_points": "geomatch.geometry",
    "Image": "geomatch.images",
    "load_image": "geomatch.images",
    "match_mutual": "geomatch.matching",
    "MatchResult": "geomatch.pipeline",
    "match": "geomatch.pipeline",
    "EstimationFailure": "geomatch.types",
    "Features": "geomatch.types",
    "HomographyEstimate": "geomatch.types",
    "Matches": "geomatch.types",
}

__all__ = [*_HOME, "GeomatchError", "ImageError", "MissingDependencyError", "ShapeError", "WeightsError"]

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)

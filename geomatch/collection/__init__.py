"""A folder of photographs: features of each image, pairs chosen and matched, tracks.

`match_collection` does it all; it gives `Correspondences`, which the exporters of `geomatch.colmap` write.
"""

from typing import TYPE_CHECKING

from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.collection.correspondences import Correspondences as Correspondences
    from geomatch.collection.correspondences import LazyFeatures as LazyFeatures
    from geomatch.collection.correspondences import LazyPairs as LazyPairs
    from geomatch.collection.correspondences import MatchedPair as MatchedPair
    from geomatch.collection.folder import ImageFolder as ImageFolder
    from geomatch.collection.folder import find_images as find_images
    from geomatch.collection.match import CollectionResult as CollectionResult
    from geomatch.collection.match import match_collection as match_collection
    from geomatch.collection.options import CollectionOptions as CollectionOptions
    from geomatch.collection.options import Extraction as Extraction
    from geomatch.collection.options import Matching as Matching
    from geomatch.collection.options import PairSelection as PairSelection
    from geomatch.collection.pairs import PairReport as PairReport
    from geomatch.collection.pairs import select_pairs as select_pairs

__getattr__ = lazy_names(__name__)

"""A folder of photographs: features, pairs chosen and matched, tracks; `match_collection` does it all."""

from typing import TYPE_CHECKING

from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
    from geomatch.collection.folder import ImageFolder, find_images
    from geomatch.collection.match import CollectionResult, match_collection
    from geomatch.collection.options import CollectionOptions, Extraction, Matching, PairSelection
    from geomatch.collection.pairs import PairReport, select_pairs

__all__ = [
    "CollectionOptions", "CollectionResult", "Correspondences", "Extraction", "ImageFolder", "LazyFeatures",
    "LazyPairs", "MatchedPair", "Matching", "PairReport", "PairSelection", "find_images", "match_collection",
    "select_pairs",
]  # fmt: skip

__getattr__ = lazy_names(__name__)

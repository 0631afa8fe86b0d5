"""DIFT descriptors: activations of a diffusion model at a low timestep (Tang et al., NeurIPS 2023)."""

from typing import TYPE_CHECKING

from geomatch.dift.config import DIFTConfig as DIFTConfig
from geomatch.dift.presets import PRESETS as PRESETS
from geomatch.lazy import lazy_names
from geomatch.weights.models import MODELS as MODELS

if TYPE_CHECKING:
    from geomatch.dift.extractor import DIFTExtractor as DIFTExtractor
    from geomatch.dift.extractor import cached_extractor as cached_extractor
    from geomatch.dift.head.projection import LinearHead as LinearHead
    from geomatch.dift.maps.feature_map import FeatureMap as FeatureMap

__all__ = ["MODELS", "PRESETS", "DIFTConfig", "DIFTExtractor", "FeatureMap", "LinearHead", "cached_extractor"]

__getattr__ = lazy_names(__name__)

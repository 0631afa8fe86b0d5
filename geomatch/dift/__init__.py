"""DIFT descriptors: activations of a diffusion model at a low timestep (Tang et al., NeurIPS 2023)."""

from geomatch.dift.config import DIFTConfig as DIFTConfig
from geomatch.dift.extractor import DIFTExtractor as DIFTExtractor
from geomatch.dift.head.projection import LinearHead as LinearHead
from geomatch.dift.maps.feature_map import FeatureMap as FeatureMap
from geomatch.dift.presets import PRESETS as PRESETS
from geomatch.weights.models import MODELS as MODELS

__all__ = ["MODELS", "PRESETS", "DIFTConfig", "DIFTExtractor", "FeatureMap", "LinearHead"]

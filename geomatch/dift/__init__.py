"""DIFT descriptors: activations of a diffusion model at a low timestep (Tang et al., NeurIPS 2023)."""

from geomatch.dift.config import DIFTConfig as DIFTConfig
from geomatch.dift.extractor import DIFTExtractor as DIFTExtractor
from geomatch.dift.feature_map import FeatureMap as FeatureMap
from geomatch.dift.presets import MODELS as MODELS
from geomatch.dift.presets import PRESETS as PRESETS
from geomatch.dift.readout import ReadOut as ReadOut

__all__ = ["MODELS", "PRESETS", "DIFTConfig", "DIFTExtractor", "FeatureMap", "ReadOut"]

"""Extraction by full-size models with random weights, beside their parts alone in plain diffusers."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomatch.benchmarks.studies.networks import NETWORKS, load_parts, make_model, prompt_of
from geomatch.benchmarks.studies.record import Row, median_seconds, timing_row
from geomatch.dift import DIFTExtractor

IMAGES = 8
"""Images at once, where there are several."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    network: str
    """A name of `NETWORKS`."""
    size: int
    """Side of the square image in pixels."""
    device: str
    """``cpu`` or ``cuda``."""
    repeats: int
    """Timed runs, of which the median counts."""


def measure(setup: Setup) -> list[Row]:
    """An image with the paper's ensemble, and several with one pass each, beside the parts alone."""
    network, rng = NETWORKS[setup.network], np.random.default_rng(0)
    images = [rng.integers(0, 256, (setup.size, setup.size, 3), dtype=np.uint8) for _ in range(IMAGES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(network, folder, setup.device)
        config = replace(network.settings, model=str(folder), image_size=None, device=setup.device)
        whole = DIFTExtractor(config, prompt_of(network))
        rows = [timing_row("an image", median_seconds(lambda: whole.dense(images[0]), setup.repeats), "s")]
        extractor = DIFTExtractor(replace(config, ensemble_size=1), prompt_of(network))
        ours = median_seconds(lambda: extractor.dense_many(images), setup.repeats)
        dtype = dtype_of(extractor)
        alone = parts_alone(setup, dtype, folder)
    name = f"{IMAGES} images at once, one pass each"
    row = timing_row(name, IMAGES / ours, "images/s", f"the parts alone, {dtype}", IMAGES / alone)
    return [*rows, row | {"ratio": round(alone / ours, 3)}]


def dtype_of(extractor: DIFTExtractor) -> Any:
    """In which its UNet computes."""
    return next(extractor.model.network.parameters()).dtype


def parts_alone(setup: Setup, dtype: torch.dtype, folder: Path) -> float:
    """Seconds of encoder and UNet, compiled on CUDA, for `IMAGES` images that are on the device."""
    encode, features = load_parts(NETWORKS[setup.network], folder, setup.device, dtype)
    if setup.device.startswith("cuda"):
        encode, features = torch.compile(encode), torch.compile(features)
    image = torch.zeros(IMAGES, 3, setup.size, setup.size, dtype=dtype, device=setup.device)
    with torch.inference_mode():
        return median_seconds(lambda: features(encode(image)), setup.repeats)

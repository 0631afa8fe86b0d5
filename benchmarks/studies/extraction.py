"""Extraction beside a re-statement of the reference procedure, full-size models with random weights.

Each way runs on the same image, noises and settings (the paper's), and their features are compared; on a CPU
each is in a process of its own, for its memory. The reference repeats the image before the autoencoder, sends
the whole ensemble through the UNet as one batch, stops after the wanted up-block and averages; its forced
attention slicing, which costs time, is left out. Then images in batches of 8, one pass each, beside the
compiled parts alone.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geomatch.benchmarks.studies.networks import NETWORKS, load_parts, make_model, prompt_of
from geomatch.benchmarks.studies.record import (
    Row,
    child_process,
    median_seconds,
    memory,
    reset_peak,
    timing_row,
)
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
    ours: bool = True
    """False for the reference procedure."""
    dtype: str = "auto"
    compile: str = "auto"

    @property
    def label(self) -> str:
        """Which of the extractions compared it is."""
        name = "geomatch" if self.ours else "reference"
        return f"{name} {self.dtype}" + (f", compile {self.compile}" if self.compile != "auto" else "")


def pictures(size: int) -> list[np.ndarray[Any, Any]]:
    """Some images."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(IMAGES)]


def noises(setup: Setup) -> list[Tensor]:
    """One for each member of the ensemble, those that the extractor draws."""
    network = NETWORKS[setup.network]
    shape = (1, 4, setup.size // 8, setup.size // 8) if network.vae else (1, 3, setup.size, setup.size)
    generators = [torch.Generator().manual_seed(k) for k in range(network.settings.ensemble_size)]
    return [torch.randn(shape, generator=generator) for generator in generators]


def extractor_of(setup: Setup, folder: Path, **changed: Any) -> DIFTExtractor:
    """Ours, the networks loaded."""
    network = NETWORKS[setup.network]
    config = replace(
        network.settings, model=str(folder), image_size=None, device=setup.device, dtype=setup.dtype,
        compile=setup.compile, **changed,
    )  # fmt: skip
    extractor = DIFTExtractor(config, prompt_of(network))
    extractor.load_networks()
    return extractor


def extraction(setup: Setup, folder: Path) -> Callable[[], Tensor]:
    """One extraction by this package or by the reference procedure, the model loaded."""
    picture = pictures(setup.size)[0]
    if setup.ours:
        extractor = extractor_of(setup, folder)
        return lambda: extractor.dense(picture).maps[0]
    network, dtype = NETWORKS[setup.network], getattr(torch, setup.dtype)
    encode, features, add_noise = load_parts(network, folder, setup.device, dtype)
    drawn, time = noises(setup), torch.tensor(network.settings.timestep)
    noise = torch.cat(drawn).to(setup.device, dtype)

    def call() -> Tensor:
        image = torch.from_numpy(picture).to(setup.device).permute(2, 0, 1)[None].to(dtype) / 127.5 - 1
        latents = encode(image.repeat(len(drawn), 1, 1, 1))
        return features(add_noise(latents, noise, time)).float().mean(0)

    return torch.inference_mode()(call)


def work(setup: Setup, folder: Path) -> dict[str, Any]:
    """Run one way in this process: seconds, peak memory in MiB, and the features (C, h, w)."""
    call, on_gpu = extraction(setup, folder), setup.device.startswith("cuda")
    loading = memory("VmHWM")
    gc.collect()
    reset_peak()
    features = call().cpu()  # warm up
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(call, setup.repeats)
    extracting = torch.cuda.max_memory_allocated() if on_gpu else memory("VmHWM")
    figures = {"loading_mib": loading / 2**20, "extracting_mib": extracting / 2**20}
    return figures | {"seconds": seconds, "features": features.numpy()}


def worked(setup: Setup, folder: Path) -> dict[str, Any]:
    """The same, on a CPU in another process."""
    if setup.device.startswith("cuda"):
        try:
            return work(setup, folder)
        finally:
            gc.collect()
            torch.cuda.empty_cache()
    child_process(__spec__.name, json.dumps(asdict(setup)), folder, folder / "found.npz")
    return dict(np.load(folder / "found.npz"))


def measure(setup: Setup, dtypes: Sequence[str]) -> list[Row]:
    """Ours with each dtype and the reference, then several images at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(NETWORKS[setup.network], folder, setup.device)
        return _extraction_rows(setup, dtypes, folder) + stream_rows(setup, folder)


def _extraction_rows(setup: Setup, dtypes: Sequence[str], folder: Path) -> list[Row]:
    ways = [replace(setup, ours=ours, dtype="float32") for ours in (False, True)]
    ways += [replace(setup, dtype=dtype) for dtype in dtypes if dtype != "float32"]
    if setup.device.startswith("cuda"):
        ways += [replace(setup, ours=False, dtype="float16")]
        ways += [replace(setup, compile=compiled) for compiled in ("on", "off")]
    found = {way.label: worked(way, folder) for way in ways}
    exact, theirs = (found[name]["features"] for name in ("geomatch float32", "reference float32"))
    difference = float(np.abs(exact - theirs).max() / np.abs(theirs).max())
    rows: list[Row] = [{"name": "largest relative difference of the features", "value": difference}]
    slowest = float(found["reference float32"]["seconds"])
    for name, own in found.items():
        row = timing_row(name, float(own["seconds"]), "s", "reference float32", slowest)
        if half := found.get("reference float16"):
            row["ratio to the reference in float16"] = round(float(half["seconds"]) / row["value"], 3)
        rows.append(row | {"cosine_distance": 1 - _cosine(own["features"], exact)})
        for what in ("loading", "extracting"):
            own_mib, other = (float(way[f"{what}_mib"]) for way in (own, found["reference float32"]))
            label = f"{name}, peak memory while {what}"
            rows.append(timing_row(label, own_mib, "MiB", "reference float32", other))
    return rows


def _cosine(a: Any, b: Any) -> float:
    """Mean over the places of two maps (C, h, w)."""
    maps = (torch.from_numpy(value).double() for value in (a, b))
    return float(functional.cosine_similarity(*maps, dim=0).mean())


def stream_rows(setup: Setup, folder: Path) -> list[Row]:
    """`DIFTExtractor.dense_many`, one pass per image, beside the parts alone, compiled on CUDA."""
    images = pictures(setup.size)
    extractor = extractor_of(setup, folder, ensemble_size=1)
    ours = median_seconds(lambda: extractor.dense_many(images), setup.repeats)
    dtype = dtype_of(extractor)
    alone = parts_alone(setup, dtype, folder)
    name = f"{IMAGES} images at once, one pass each"
    row = timing_row(name, IMAGES / ours, "images/s", f"the parts alone, {dtype}", IMAGES / alone)
    return [row | {"ratio": round(alone / ours, 3)}]


def dtype_of(extractor: DIFTExtractor) -> torch.dtype:
    """In which its UNet computes."""
    return next(extractor.model.unet.parameters()).dtype


def parts_alone(setup: Setup, dtype: torch.dtype, folder: Path) -> float:
    """Seconds of encoder and UNet for `IMAGES` images that are on the device."""
    encode, features, _ = load_parts(NETWORKS[setup.network], folder, setup.device, dtype)
    if setup.device.startswith("cuda"):
        encode, features = torch.compile(encode), torch.compile(features)
    image = torch.zeros(IMAGES, 3, setup.size, setup.size, dtype=dtype, device=setup.device)
    with torch.inference_mode():
        return median_seconds(lambda: features(encode(image)), setup.repeats)


if __name__ == "__main__":
    np.savez(sys.argv[3], **work(Setup(**json.loads(sys.argv[1])), Path(sys.argv[2])))

"""Extraction beside a re-statement of the reference procedure, on Stable Diffusion 2-1 with random weights.

``python -m geomatch.benchmarks.studies.extraction`` runs each way in a process of its own, on the same image,
noises and settings, and compares their features. The reference repeats the image before the autoencoder,
sends the whole ensemble through the UNet as one batch, stops after the wanted up-block and averages; its
forced attention slicing, which costs time, is left out.
"""

import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from geomatch.benchmarks.studies.record import (
    Row,
    child_process,
    markdown,
    memory,
    reset_peak,
    seconds_of,
    study_parser,
    write_record,
)
from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.backends.model import capture

SD_UNET = {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
"""Stable Diffusion 2-1 as far as it differs from diffusers' defaults (its configuration file)."""
SD_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMESTEP, LAYER, ENSEMBLE = 0, 2, 8
"""The paper's for HPatches."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    size: int
    """Side of the square image in pixels."""
    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    """torch's name of the networks' type."""
    repeats: int
    """Timed runs, of which the median counts."""


def make_model(folder: Path) -> None:
    """A full-width model with random weights, stored in half precision."""
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(SD_UNET).to(torch.bfloat16).save_pretrained(folder / "unet")
    AutoencoderKL.from_config(SD_VAE).to(torch.bfloat16).save_pretrained(folder / "vae")
    DDIMScheduler.from_config(SD_SCHEDULE).save_pretrained(folder / "scheduler")


def inputs(setup: Setup) -> tuple[np.ndarray[Any, Any], list[Tensor], np.ndarray[Any, Any]]:
    """A picture, one noise per member of the ensemble, and a prompt embedding."""
    rng, size = np.random.default_rng(0), setup.size
    picture = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    shape = 1, 4, size // 8, size // 8
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(ENSEMBLE)]
    return picture, noises, rng.standard_normal((77, 1024)).astype(np.float32)


def geomatch_way(setup: Setup, folder: Path) -> Callable[[], Tensor]:
    """Extraction by this package, the model loaded."""
    picture, noises, embedding = inputs(setup)
    config = DIFTConfig(
        str(folder), timestep=TIMESTEP, layers=(LAYER,), ensemble_size=ENSEMBLE, image_size=None,
        device=setup.device, dtype=setup.dtype,  # type: ignore[arg-type]
    )  # fmt: skip
    extractor = DIFTExtractor(config, embedding)
    _ = extractor.model
    return lambda: extractor.dense(picture, noises).maps[0]


def reference_way(setup: Setup, folder: Path) -> Callable[[], Tensor]:
    """The reference procedure with diffusers alone, the model loaded."""
    picture, noises, embedding = inputs(setup)
    device, dtype, timestep = setup.device, getattr(torch, setup.dtype), torch.tensor(TIMESTEP)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].to(device, dtype) / 127.5 - 1
    noise = torch.cat(noises).to(device, dtype)
    prompt = torch.from_numpy(embedding)[None].to(device, dtype).repeat(ENSEMBLE, 1, 1)

    def load(kind: Any, part: str) -> Any:
        return kind.from_pretrained(folder / part, torch_dtype=dtype).to(device).eval()

    unet, vae = load(UNet2DConditionModel, "unet"), load(AutoencoderKL, "vae")
    schedule = DDIMScheduler.from_pretrained(folder / "scheduler")

    def call() -> Tensor:
        latents = vae.encode(image.repeat(ENSEMBLE, 1, 1, 1)).latent_dist.mode() * vae.config.scaling_factor
        noisy = schedule.add_noise(latents, noise, timestep)
        (features,) = capture(unet, [f"up_blocks.{LAYER}"], lambda: unet(noisy, timestep, prompt))
        return features.float().mean(0)

    return torch.inference_mode()(call)


WAYS = {"geomatch": geomatch_way, "reference": reference_way}


def work(setup: Setup, way: str, folder: Path) -> None:
    """Run one way in this process: seconds, peak memory and the features go to ``folder/<way>.npz``."""
    call = WAYS[way](setup, folder / "model")
    loading = memory("VmHWM")
    gc.collect()
    reset_peak()
    features = call().cpu()  # warm up
    # a result on the processor is a finished one
    seconds = statistics.median(seconds_of(lambda: call().cpu()) for _ in range(setup.repeats))
    extracting = memory("VmHWM")
    if setup.device.startswith("cuda"):
        extracting = torch.cuda.max_memory_allocated()
    figures = {"seconds": seconds, "loading": loading / 2**20, "extracting": extracting / 2**20}
    np.savez(folder / f"{way}.npz", features=features.numpy(), **figures)  # type: ignore[arg-type]


def gigaflops(size: int) -> dict[str, float]:
    """Floating-point operations of an extraction, counted without computing, in units of 10^9."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(SD_UNET)
        vae: Any = AutoencoderKL.from_config(SD_VAE)
        encode = _gigaflops(lambda: vae.encode(torch.zeros(1, 3, size, size)))
        shapes = (1, 4, size // 8, size // 8), (1,), (1, 77, 1024)
        tensors = [torch.zeros(shape) for shape in shapes]
        one = _gigaflops(lambda: capture(unet, [f"up_blocks.{LAYER}"], lambda: unet(*tensors)))
    return {
        "reference": ENSEMBLE * (encode + one),
        "geomatch": encode + ENSEMBLE * one,
        "geomatch, ensemble 1": encode + one,
    }


def _gigaflops(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e9


def measure(setup: Setup) -> list[Row]:
    """Both ways, and the operations that each needs at the measured size and at 768 x 768."""
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name) / "model")
        found = {}
        for way in WAYS:
            child_process(__spec__.name, "work", json.dumps(asdict(setup)), way, name)
            found[way] = dict(np.load(Path(name) / f"{way}.npz"))
    ours, theirs = found["geomatch"], found["reference"]
    difference = np.abs(ours["features"] - theirs["features"]).max() / np.abs(theirs["features"]).max()
    rows: list[Row] = [{"name": "largest relative difference of the features", "value": float(difference)}]
    for what, unit in (("seconds", "s"), ("loading", "MiB"), ("extracting", "MiB")):
        value, other = float(ours[what]), float(theirs[what])
        row = {"name": what, "value": value, "unit": unit, "reference": other}
        rows.append(row | {"ratio": round(other / value, 3)})
    for size in sorted({setup.size, 768}):
        for what, value in gigaflops(size).items():
            rows.append({"name": f"GFLOP at {size} x {size}, {what}", "value": round(value, 1)})
    return rows


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    found = {row["name"]: row for row in rows}
    ours, theirs = (found[f"GFLOP at 768 x 768, {way}"]["value"] for way in WAYS)
    figures = [("GFLOP at 768x768", ours, theirs, 0)]
    for words, what, digits in (
        ("peak memory while extracting, MiB", "extracting", 0),
        ("peak memory while loading, MiB", "loading", 0),
        ("seconds per image", "seconds", 1),
    ):
        figures.insert(0, (words, found[what]["value"], found[what]["reference"], digits))
    lines = [(words, f"{a:.{n}f}", f"{b:.{n}f}", f"{b / a:.1f}") for words, a, b, n in figures]
    return markdown(("", "geomatch", "reference procedure", "ratio"), lines)


def main() -> None:
    """Run from the command line."""
    parser = study_parser("extraction", __doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the square image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    given = vars(parser.parse_args())
    out, setup = given.pop("out"), Setup(**given)
    rows = measure(setup)
    device = setup.device.partition(":")[0]
    write_record(out, "extraction-sd", rows, asdict(setup), [table(rows)], device)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Setup(**json.loads(sys.argv[2])), sys.argv[3], Path(sys.argv[4]))
    else:
        main()

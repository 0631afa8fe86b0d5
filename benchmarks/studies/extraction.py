"""Extraction beside a re-statement of the reference procedure, on a full-width model with random weights.

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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
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
from geomatch.dift.backends.capture import capture
from geomatch.dift.backends.model import layer_name
from geomatch.dift.backends.pixel_unet import output_blocks

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
ADM_UNET = {
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 2,
    "block_out_channels": [256, 256, 512, 512, 1024, 1024],
    "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 64,
    "attn_norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}
"""256x256_diffusion_uncond as `geomatch.weights.adm.adm_config` reads it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "sd": {"timestep": 0, "layers": (2,), "ensemble_size": 8},
    "adm": {"timestep": 41, "layers": (11,), "ensemble_size": 4},
}
"""The paper's for HPatches."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    model: str
    """``sd`` or ``adm``."""
    size: int
    """Side of the square image in pixels."""
    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    """torch's name of the networks' type."""
    repeats: int
    """Timed runs, of which the median counts."""


def make_model(kind: str, folder: Path) -> None:
    """A full-width model with random weights, stored in half precision."""
    torch.manual_seed(0)
    if kind == "adm":
        UNet2DModel.from_config(ADM_UNET).to(torch.bfloat16).save_pretrained(folder)
        return
    UNet2DConditionModel.from_config(SD_UNET).to(torch.bfloat16).save_pretrained(folder / "unet")
    AutoencoderKL.from_config(SD_VAE).to(torch.bfloat16).save_pretrained(folder / "vae")
    DDIMScheduler.from_config(SD_SCHEDULE).save_pretrained(folder / "scheduler")


def inputs(setup: Setup) -> tuple[np.ndarray[Any, Any], list[Tensor], np.ndarray[Any, Any]]:
    """A picture, one noise per member of the ensemble, and a prompt embedding."""
    rng, size = np.random.default_rng(0), setup.size
    picture = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    shape = (1, 3, size, size) if setup.model == "adm" else (1, 4, size // 8, size // 8)
    count = SETTINGS[setup.model]["ensemble_size"]
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(count)]
    return picture, noises, rng.standard_normal((77, 1024)).astype(np.float32)


def geomatch_way(setup: Setup, folder: Path) -> Callable[[], Tensor]:
    """Extraction by this package, the model loaded."""
    picture, noises, embedding = inputs(setup)
    settings = SETTINGS[setup.model] | {"device": setup.device, "dtype": setup.dtype}
    config = DIFTConfig(str(folder), image_size=None, **settings)
    extractor = DIFTExtractor(config, embedding if setup.model == "sd" else None)
    _ = extractor.model
    return lambda: extractor.dense(picture, noises).maps[0]


def reference_way(setup: Setup, folder: Path) -> Callable[[], Tensor]:
    """The reference procedure with diffusers alone, the model loaded."""
    picture, noises, embedding = inputs(setup)
    settings, device, dtype = SETTINGS[setup.model], setup.device, getattr(torch, setup.dtype)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].to(device, dtype) / 127.5 - 1
    noise = torch.cat(noises).to(device, dtype)
    count, timestep = settings["ensemble_size"], torch.tensor(settings["timestep"])
    (index,) = settings["layers"]

    def load(kind: Any, part: str = "") -> Any:
        return kind.from_pretrained(folder / part, torch_dtype=dtype).to(device).eval()

    if setup.model == "adm":
        unet, schedule = load(UNet2DModel), DDIMScheduler()
        layer, arguments = layer_name(index, output_blocks(unet)), list[Tensor]()
    else:
        unet, vae = load(UNet2DConditionModel, "unet"), load(AutoencoderKL, "vae")
        schedule = DDIMScheduler.from_pretrained(folder / "scheduler")
        layer = f"up_blocks.{index}"
        arguments = [torch.from_numpy(embedding)[None].to(device, dtype).repeat(count, 1, 1)]

    def call() -> Tensor:
        latents = image.repeat(count, 1, 1, 1)
        if setup.model == "sd":
            latents = vae.encode(latents).latent_dist.mode() * vae.config.scaling_factor
        noisy = schedule.add_noise(latents, noise, timestep)
        return capture(unet, [layer], lambda: unet(noisy, timestep, *arguments))[0].float().mean(0)

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


def gigaflops(kind: str, size: int) -> dict[str, float]:
    """Floating-point operations of an extraction, counted without computing, in units of 10^9."""
    count, (index,), encode = SETTINGS[kind]["ensemble_size"], SETTINGS[kind]["layers"], 0.0
    with torch.device("meta"):
        if kind == "adm":
            unet: Any = UNet2DModel.from_config(ADM_UNET)
            layer, arguments = layer_name(index, output_blocks(unet)), [(1, 3, size, size), (1,)]
        else:
            unet = UNet2DConditionModel.from_config(SD_UNET)
            layer, arguments = f"up_blocks.{index}", [(1, 4, size // 8, size // 8), (1,), (1, 77, 1024)]
            vae = AutoencoderKL.from_config(SD_VAE)
            encode = _gigaflops(lambda: vae.encode(torch.zeros(1, 3, size, size)))
        tensors = [torch.zeros(shape) for shape in arguments]
        one = _gigaflops(lambda: capture(unet, [layer], lambda: unet(*tensors)))
    return {
        "encode": encode,
        "one pass": one,
        "reference": count * (encode + one),
        "geomatch": encode + count * one,
        "geomatch, ensemble 1": encode + one,
    }


def _gigaflops(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e9


def measure(setup: Setup) -> list[Row]:
    """Both ways, and the operations that each needs at the measured size and at 768 x 768."""
    with tempfile.TemporaryDirectory() as name:
        make_model(setup.model, Path(name) / "model")
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
        for what, value in gigaflops(setup.model, size).items():
            rows.append({"name": f"GFLOP at {size} x {size}, {what}", "value": round(value, 1)})
    return rows


def table(rows: list[Row]) -> str:
    """In Markdown."""
    found = {row["name"]: row for row in rows}
    words = {"seconds": "seconds per image", "loading": "peak memory while loading, MiB",
             "extracting": "peak memory while extracting, MiB"}  # fmt: skip
    figures = [(words[what], found[what]["value"], found[what]["reference"]) for what in words]
    ours, theirs = (found[f"GFLOP at 768 x 768, {way}"]["value"] for way in WAYS)
    lines = [
        (name, f"{own:.{1 if own < 100 else 0}f}", f"{other:.{1 if own < 100 else 0}f}", f"{other / own:.1f}")
        for name, own, other in (*figures, ("GFLOP at 768x768", ours, theirs))
    ]
    return markdown(("", "geomatch", "reference procedure", "ratio"), lines)


def main() -> None:
    """Run from the command line."""
    parser = study_parser("extraction", __doc__)
    parser.add_argument("--model", choices=sorted(SETTINGS), default="sd")
    parser.add_argument("--size", type=int, default=256, help="side of the square image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    given = vars(parser.parse_args())
    out, setup = given.pop("out"), Setup(**given)
    rows = measure(setup)
    device = setup.device.partition(":")[0]
    write_record(out, f"extraction-{setup.model}", rows, asdict(setup), [table(rows)], device)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Setup(**json.loads(sys.argv[2])), sys.argv[3], Path(sys.argv[4]))
    else:
        main()

"""Extraction beside a re-statement of the reference procedure, on a full-width model with random weights.

``python -m geomatch.benchmarks.studies.extraction`` runs each way in a process of its
own, on the same image, noises and settings, and compares their features. The
reference repeats the image before the autoencoder, sends the whole ensemble
through the UNet as one batch, stops after the wanted up-block and averages; its
forced attention slicing, which costs time, is left out.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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

from geomatch.benchmarks.harness.machine import write_record
from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.dift.backends.model import capture, layer_name
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
Row = dict[str, Any]


def make_model(kind: str, folder: Path) -> None:
    """A full-width model with random weights, stored in half precision."""
    torch.manual_seed(0)
    if kind == "adm":
        UNet2DModel.from_config(ADM_UNET).to(torch.bfloat16).save_pretrained(folder)
        return
    UNet2DConditionModel.from_config(SD_UNET).to(torch.bfloat16).save_pretrained(folder / "unet")
    AutoencoderKL.from_config(SD_VAE).to(torch.bfloat16).save_pretrained(folder / "vae")
    DDIMScheduler.from_config(SD_SCHEDULE).save_pretrained(folder / "scheduler")


def inputs(kind: str, size: int) -> tuple[np.ndarray[Any, Any], list[Tensor], np.ndarray[Any, Any]]:
    """A picture, one noise per member, and a prompt embedding."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    shape = (1, 3, size, size) if kind == "adm" else (1, 4, size // 8, size // 8)
    count = SETTINGS[kind]["ensemble_size"]
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(count)]
    return picture, noises, rng.standard_normal((77, 1024)).astype(np.float32)


def geomatch_way(kind: str, folder: Path, size: int, device: str, dtype: str) -> Callable[[], Tensor]:
    """Extraction by this package, the model loaded."""
    picture, noises, embedding = inputs(kind, size)
    config = DIFTConfig(str(folder), image_size=None, device=device, dtype=dtype, **SETTINGS[kind])  # type: ignore[arg-type]
    extractor = DIFTExtractor(config, embedding if kind == "sd" else None)
    _ = extractor.model
    return lambda: extractor.dense(picture, noises).maps[0]


def reference_way(kind: str, folder: Path, size: int, device: str, dtype: str) -> Callable[[], Tensor]:
    """The reference procedure with diffusers alone, the model loaded."""
    picture, noises, embedding = inputs(kind, size)
    settings, kept = SETTINGS[kind], getattr(torch, dtype)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].to(device, kept) / 127.5 - 1
    noise = torch.cat(noises).to(device, kept)
    count, timestep = settings["ensemble_size"], torch.tensor(settings["timestep"])
    if kind == "adm":
        unet = UNet2DModel.from_pretrained(folder, torch_dtype=kept).to(device).eval()
        schedule = DDIMScheduler()
        (layer,) = (layer_name(index, output_blocks(unet)) for index in settings["layers"])

        def adm() -> Tensor:
            noisy = schedule.add_noise(image.repeat(count, 1, 1, 1), noise, timestep)
            return capture(unet, [layer], lambda: unet(noisy, timestep))[0].float().mean(0)

        return torch.inference_mode()(adm)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kept).to(device).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=kept).to(device).eval()
    schedule = DDIMScheduler.from_pretrained(folder / "scheduler")
    text = torch.from_numpy(embedding)[None].to(device, kept).repeat(count, 1, 1)
    (layer,) = (f"up_blocks.{index}" for index in settings["layers"])

    def sd() -> Tensor:
        latents = vae.encode(image.repeat(count, 1, 1, 1)).latent_dist.mode() * vae.config.scaling_factor
        noisy = schedule.add_noise(latents, noise, timestep)
        return capture(unet, [layer], lambda: unet(noisy, timestep, text))[0].float().mean(0)

    return torch.inference_mode()(sd)


WAYS = {"geomatch": geomatch_way, "reference": reference_way}


def work(options: argparse.Namespace, folder: Path, way: str, result: Path) -> None:
    """One way in this process: seconds, peak memory and the features go to ``result``."""
    call = WAYS[way](options.model, folder, options.size, options.device, options.dtype)
    loading = _peak_memory()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    call()  # warm up
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        features = call().cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    extracting = _peak_memory()
    if options.device.startswith("cuda"):
        extracting = torch.cuda.max_memory_allocated() / 2**20
    figures = {"seconds": statistics.median(seconds), "loading": loading, "extracting": extracting}
    np.savez(result, features=features.numpy(), **figures)  # type: ignore[arg-type]


def _peak_memory() -> float:
    """MiB of this process."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def gigaflops(kind: str, size: int) -> dict[str, float]:
    """Floating-point operations of an extraction, counted without computing, in units of 10^9."""
    settings = SETTINGS[kind]
    count = settings["ensemble_size"]
    with torch.device("meta"):
        if kind == "adm":
            unet, encode = UNet2DModel.from_config(ADM_UNET), 0.0
            layer = layer_name(settings["layers"][0], output_blocks(unet))
            arguments = [torch.zeros(1, 3, size, size), torch.zeros(1)]
        else:
            unet = UNet2DConditionModel.from_config(SD_UNET)
            vae = AutoencoderKL.from_config(SD_VAE)
            with FlopCounterMode(display=False) as counter:
                vae.encode(torch.zeros(1, 3, size, size))
            encode = counter.get_total_flops() / 1e9
            layer = f"up_blocks.{settings['layers'][0]}"
            arguments = [torch.zeros(1, 4, size // 8, size // 8), torch.zeros(1), torch.zeros(1, 77, 1024)]
        with FlopCounterMode(display=False) as counter:
            capture(unet, [layer], lambda: unet(*arguments))
    one = counter.get_total_flops() / 1e9
    return {
        "encode": encode,
        "one pass": one,
        "reference": count * (encode + one),
        "geomatch": encode + count * one,
        "geomatch, ensemble 1": encode + one,
    }


def measure(options: argparse.Namespace) -> list[Row]:
    """Both ways, and the operations that each needs at the measured size and at 768 x 768."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        make_model(options.model, folder)
        found = {}
        for way in WAYS:
            result = Path(name) / f"{way}.npz"
            command = [sys.executable, "-m", "geomatch.benchmarks.studies.extraction", "--worker", way]
            command += ["--folder", str(folder), "--result", str(result)]
            for option in ("model", "size", "device", "dtype", "repeats"):
                command += [f"--{option}", str(getattr(options, option))]
            subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
            found[way] = np.load(result)
    ours, theirs = found["geomatch"], found["reference"]
    difference = np.abs(ours["features"] - theirs["features"]).max() / np.abs(theirs["features"]).max()
    rows.append({"name": "largest relative difference of the features", "value": float(difference)})
    for what, unit in (("seconds", "s"), ("loading", "MiB"), ("extracting", "MiB")):
        value, other = float(ours[what]), float(theirs[what])
        rows.append(
            {"name": what, "value": value, "unit": unit, "reference": other, "ratio": round(other / value, 3)}
        )
    for size in sorted({options.size, 768}):
        for what, value in gigaflops(options.model, size).items():
            rows.append({"name": f"GFLOP at {size} x {size}, {what}", "value": round(value, 1)})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m geomatch.benchmarks.studies.extraction", description=__doc__
    )
    parser.add_argument("--model", choices=sorted(SETTINGS), default="sd")
    parser.add_argument("--size", type=int, default=256, help="side of the square image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--worker", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen, chosen.folder, chosen.worker, chosen.result)
    else:
        measured = measure(chosen)
        for row in measured:
            print(json.dumps(row))
        values = {name: getattr(chosen, name) for name in ("model", "size", "device", "dtype", "repeats")}
        name = f"extraction-{chosen.model}"
        kind = chosen.device.partition(":")[0]
        print(f"wrote {write_record(chosen.out, name, measured, values, kind)}")

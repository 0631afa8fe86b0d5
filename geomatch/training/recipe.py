"""The whole recipe of the embedded model: images, denoiser, read-out, model card."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from geomatch.dift import PRESETS
from geomatch.dift.readout import AnyReadOut
from geomatch.files import replacing
from geomatch.training.bank import BankImage
from geomatch.training.crops import load_crops
from geomatch.training.denoise import DenoiseConfig, train_denoiser
from geomatch.training.head import HeadConfig, train_readout
from geomatch.training.sources import TrainingImage, fetch_packages, find_images

DENOISER_PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "supertuxkart-data",
    "torcs-data",
)
"""The denoiser learned from these packages; the read-out, which came later, from all."""
VIEWS = {"photo": 40, "texture": 4}
"""View pairs per image for the read-out: there are few photographs."""
HEAD = HeadConfig()
"""Of the shipped read-out."""


def run_recipe(
    out: Path,
    images: Path,
    steps: int = 8000,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Train ``dift-tiny`` into the folder ``out``; an interrupted run goes on from its checkpoints.

    Args:
        out: gets the model folder; ``out/work`` keeps checkpoints and patches (4 GB).
        images: folder of the unpacked Debian packages, downloaded if missing.
        steps: optimiser steps of the denoiser.
        device: of the denoiser.
        threads: CPU threads; None for torch's default.
        progress: show progress bars.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    fetch_packages(images)
    found = find_images(images, "train")
    config = DenoiseConfig(steps=steps)
    work = out / "work"
    of_denoiser = [entry for entry in found if entry[0].package in DENOISER_PACKAGES]
    train_denoiser(config, load_crops(of_denoiser, progress), work, device, progress=progress)
    unet = UNet2DModel.from_pretrained(work, low_cpu_mem_usage=False)
    unet.register_to_config(_name_or_path="dift-tiny")  # not a path of this machine
    unet.half().save_pretrained(out)
    (out / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers leaves it to the owner alone
    with replacing(out / "scheduler_config.json") as temporary:
        temporary.write_bytes((work / "scheduler_config.json").read_bytes())
    settings = replace(PRESETS["dift-tiny"], model=str(out), readout=False)
    readout = train_readout(settings, bank_images(found), work, HEAD, progress=progress).readout
    readout = replace(readout, training={**readout.training, "model": "dift-tiny"})
    readout.save(out)
    with (work / "loss.csv").open(newline="", encoding="utf-8") as file:
        losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    with replacing(out / "README.md") as temporary:
        temporary.write_text(model_card(config, found, readout, losses), encoding="utf-8")
    return out


def bank_images(images: Sequence[tuple[TrainingImage, Path]]) -> list[BankImage]:
    """How often the read-out sees each image."""
    return [BankImage(path, image.sha256, VIEWS[image.kind]) for image, path in images]


def model_card(
    config: DenoiseConfig,
    images: Sequence[tuple[TrainingImage, Path]],
    readout: AnyReadOut,
    losses: Sequence[tuple[int, float]],
) -> str:
    """The model card in Markdown: data, licences, settings and loss curve."""
    groups: dict[tuple[str, str, str], int] = {}
    for image, _ in images:
        key = (image.package, image.kind, image.licence)
        groups[key] = groups.get(key, 0) + 1
    data = [f"| {p} | {kind} | {count} | {licence} |" for (p, kind, licence), count in sorted(groups.items())]
    log = readout.training["log"]
    stride = max(1, len(losses) // 20)
    chosen = [*losses[::stride], losses[-1]] if (len(losses) - 1) % stride else losses[::stride]
    curve = [f"| {step} | {loss:.4f} |" for step, loss in chosen]
    head_curve = [f"| {row['step']:.0f} | {row['loss']:.3f} | {row['rank1']:.3f} |" for row in log[1::2]]
    settings = json.dumps(asdict(config))
    samples = config.steps * config.batch_size
    packages = ", ".join(DENOISER_PACKAGES)
    return "\n".join(
        [
            "# dift-tiny",
            "",
            "A small denoising diffusion model in pixel space (diffusers `UNet2DModel`, 2 x 2 pixel",
            "blocks as channels, no attention), whose activations serve as descriptors, with a read-out",
            f"(a small network, {readout.dimension} dimensions) trained on the frozen activations.",
            "",
            "Made by `geomatch train OUT`. The weights are released under the MIT licence of the code, as",
            "far as its authors hold rights in them; they were trained on the openly licensed images below.",
            "",
            "## Training",
            "",
            f"- Denoiser: `{settings}`",
            f"- {samples:,} crops seen of the packages {packages};",
            "  noise prediction, linear DDPM schedule, weights averaged (EMA).",
            f"- Read-out: `{json.dumps(readout.training['head'])}`",
            f"- {readout.training['pairs']:,} pairs of SIFT keypoints in made views of all images (every",
            "  20th was only watched).",
            f"- Descriptor: `{json.dumps(PRESETS['dift-tiny'].feature_settings())}`",
            "",
            "## Data",
            "",
            "From Debian 12 (main). Every file with its SHA-256 is listed in `geomatch/training/images.tsv`;",
            "rows marked `holdout` were not used.",
            "",
            "| package | kind | images | licence |",
            "| --- | --- | --- | --- |",
            *data,
            "",
            "## Learning curves",
            "",
            "Of the read-out: its loss, and the share of keypoints of watched images whose nearest neighbour",
            "among those of the other view is right.",
            "",
            "| step | loss | rank-1 |",
            "| --- | --- | --- |",
            *head_curve,
            "",
            "Of the denoiser:",
            "mean squared error of the predicted noise, averaged since the row before it in the log.",
            "",
            "| step | loss |",
            "| --- | --- |",
            *curve,
            "",
        ]
    )

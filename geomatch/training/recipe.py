"""The whole recipe of the embedded model: images, denoiser, read-out, model card."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from numpy.typing import NDArray

from geomatch.dift import PRESETS, DIFTExtractor, ReadOut
from geomatch.dift.fit import fit_readout
from geomatch.files import replacing
from geomatch.training.crops import load_crops
from geomatch.training.denoise import DenoiseConfig, train_denoiser
from geomatch.training.pairs import image_pairs
from geomatch.training.sources import TrainingImage, fetch_packages, find_images

READOUT_DIMENSION = 128
PHOTO_VIEWS, TEXTURE_VIEWS = 16, 2
"""View pairs per photograph and per texture for the read-out: there are few photographs."""
MAX_PAIRS = 40_000
"""Corresponding keypoints that the read-out is fitted on."""


def run_recipe(
    out: Path,
    images: Path,
    steps: int = 8000,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Train ``dift-tiny`` into the folder ``out``; an interrupted run goes on from its checkpoint.

    Args:
        out: gets the model folder; ``out/work`` keeps the checkpoint.
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
    train_denoiser(config, load_crops(found, progress), work, device, progress=progress)
    unet = UNet2DModel.from_pretrained(work, low_cpu_mem_usage=False)
    unet.register_to_config(_name_or_path="dift-tiny")  # not a path of this machine
    unet.half().save_pretrained(out)
    (out / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers leaves it to the owner alone
    with replacing(out / "scheduler_config.json") as temporary:
        temporary.write_bytes((work / "scheduler_config.json").read_bytes())
    readout, pairs = fit_on_images(out, found, progress)
    readout.save(out)
    with (work / "loss.csv").open(newline="", encoding="utf-8") as file:
        losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    with replacing(out / "README.md") as temporary:
        temporary.write_text(model_card(config, found, pairs, losses), encoding="utf-8")
    return out


def fit_on_images(
    model: Path, images: Sequence[tuple[TrainingImage, Path]], progress: bool = True
) -> tuple[ReadOut, int]:
    """Fit the read-out of the model in a folder; returns it with the number of keypoint pairs used."""
    settings = replace(PRESETS["dift-tiny"], model=str(model), readout=False)
    extractor = DIFTExtractor(settings)
    photos = [path for image, path in images if image.kind == "photo"]
    textures = [path for image, path in images if image.kind == "texture"]
    first: list[NDArray[np.float32]] = []
    second: list[NDArray[np.float32]] = []
    for paths, views, seed in ((photos, PHOTO_VIEWS, 0), (textures, TEXTURE_VIEWS, 1)):
        # few points of many views: the variety of views is what counts
        for view0, view1, features0, features1 in image_pairs(paths, views, seed, progress=progress):
            keep = np.random.default_rng([seed, len(first)]).permutation(len(features0))[:40]
            first.append(_descriptors(extractor.describe(view0, features0[keep]).descriptors))
            second.append(_descriptors(extractor.describe(view1, features1[keep]).descriptors))
    a, b = np.concatenate(first)[:MAX_PAIRS], np.concatenate(second)[:MAX_PAIRS]
    return fit_readout(a, b, READOUT_DIMENSION, settings.feature_settings()), len(a)


def _descriptors(rows: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if rows is None:
        raise ValueError("features without descriptors")
    return rows


def model_card(
    config: DenoiseConfig,
    images: Sequence[tuple[TrainingImage, Path]],
    pairs: int,
    losses: Sequence[tuple[int, float]],
) -> str:
    """The model card in Markdown: data, licences, settings and loss curve."""
    groups: dict[tuple[str, str, str], int] = {}
    for image, _ in images:
        key = (image.package, image.kind, image.licence)
        groups[key] = groups.get(key, 0) + 1
    data = [f"| {p} | {kind} | {count} | {licence} |" for (p, kind, licence), count in sorted(groups.items())]
    stride = max(1, len(losses) // 20)
    chosen = [*losses[::stride], losses[-1]] if (len(losses) - 1) % stride else losses[::stride]
    curve = [f"| {step} | {loss:.4f} |" for step, loss in chosen]
    settings = json.dumps(asdict(config))
    samples = config.steps * config.batch_size
    return "\n".join(
        [
            "# dift-tiny",
            "",
            "A small denoising diffusion model in pixel space (diffusers `UNet2DModel`, 2 x 2 pixel",
            "blocks as channels, no attention), whose activations serve as descriptors, with a read-out",
            f"(mean and projection to {READOUT_DIMENSION} dimensions) fitted in closed form.",
            "",
            "Made by `geomatch train`. The weights are released under the MIT licence of the code, as far as",
            "its authors hold rights in them; they were trained on the openly licensed images below.",
            "",
            "## Training",
            "",
            f"- Settings: `{settings}`",
            f"- {samples:,} crops seen; noise prediction, linear DDPM schedule, weights averaged (EMA).",
            f"- Read-out: {pairs:,} pairs of SIFT keypoints in made views of the same images.",
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
            "## Loss",
            "",
            "Mean squared error of the predicted noise, averaged since the row before it in the log.",
            "",
            "| step | loss |",
            "| --- | --- |",
            *curve,
            "",
        ]
    )

"""The whole recipe of what is embedded: images, denoiser, projection head, detector, model cards."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from geomatch.benchmarks.training.adaptation import load_labels, make_labels
from geomatch.benchmarks.training.cards import detector_card, model_card
from geomatch.benchmarks.training.crops import load_crops
from geomatch.benchmarks.training.denoise import DenoiseConfig, train_denoiser
from geomatch.benchmarks.training.detector import CHECKPOINT, DetectorConfig, train_detector
from geomatch.benchmarks.training.sources import TrainingImage, fetch_packages, find_images
from geomatch.dift import PRESETS
from geomatch.files import replacing
from geomatch.keypoints.tiny import save_network
from geomatch.training.bank import BankImage
from geomatch.training.convolutional_head import HeadConfig, train_head

DENOISER_PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "supertuxkart-data",
    "torcs-data",
)
"""The denoiser learned from these packages; the projection head, which came later, from all."""
VIEWS = {"photo": 40, "texture": 4}
"""View pairs per image for the projection head: there are few photographs."""
DETECTOR = "detector"
"""Folder of the detector's weights and card."""
DETECTOR_VIEWS = {"photo": 8, "texture": 1}
"""Views per image for the detector."""
HEAD = HeadConfig()
"""Of the shipped projection head."""


def run_recipe(
    out: Path,
    images: Path,
    steps: int = 8000,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Train ``dift-tiny`` and the detector into the folder ``out``; an interrupted run goes on.

    Args:
        out: gets the model folder, with the detector in ``out/detector``; ``out/work`` keeps checkpoints,
            patches and labels (4 GB).
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
    settings = replace(PRESETS["dift-tiny"], model=str(out), head=False)
    head = train_head(settings, bank_images(found), work, HEAD, progress=progress).head
    head = replace(head, training={**head.training, "model": "dift-tiny"})
    head.save(out)
    with (work / "loss.csv").open(newline="", encoding="utf-8") as file:
        losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    with replacing(out / "README.md") as temporary:
        card = model_card(config, found, DENOISER_PACKAGES, head, losses)
        temporary.write_text(card, encoding="utf-8")
    _run_detector(out / DETECTOR, found, work, progress)
    return out


def _run_detector(out: Path, found: Sequence[tuple[TrainingImage, Path]], work: Path, progress: bool) -> None:
    images = bank_images(found, DETECTOR_VIEWS)
    make_labels(work / "labels", images, progress=progress)
    labels, config = load_labels(work / "labels", images), DetectorConfig()
    network = train_detector(labels, config, work, progress=progress)
    out.mkdir(exist_ok=True)
    save_network(network, out / "tiny.safetensors")
    log = torch.load(work / CHECKPOINT, weights_only=True)["log"]
    with replacing(out / "README.md") as temporary:
        temporary.write_text(detector_card(config, found, len(labels), log), encoding="utf-8")


def bank_images(
    images: Sequence[tuple[TrainingImage, Path]], views: Mapping[str, int] = VIEWS
) -> list[BankImage]:
    """How often each image is seen."""
    return [BankImage(path, image.sha256, views[image.kind]) for image, path in images]

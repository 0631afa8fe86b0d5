"""What the embedded model is compared with: hand-made and learned features, a random network, raw pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.methods.baselines import rootsift
from geomatch.benchmarks.training.denoise import DenoiseConfig, new_unet
from geomatch.benchmarks.training.recipe import HEAD, bank_images
from geomatch.benchmarks.training.sources import find_images
from geomatch.describers import Describer
from geomatch.devices import upload_pixels
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.images import Image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.patches import cut_patches, normalize_patches
from geomatch.training.convolutional_head import train_head
from geomatch.types import Features
from geomatch.weights.folders import HEAD_FILE

RAW_SIDE = 16
"""Side of raw patches, which are grey."""


@dataclass(frozen=True)
class RawPatches:
    """The pixels of oriented patches themselves, with mean 0 and unit length: no network at all."""

    patch_size: int = 32
    patch_scale: float = 11.0

    def describe(self, image: Image, features: Features) -> Features:
        """Describe keypoints with scale and orientation."""
        scales, orientations = map(torch.tensor, _scale_and_orientation(features))
        pixels, points = upload_pixels(image.pixels, "cpu"), torch.tensor(features.keypoints)
        sides, rows = scales * self.patch_scale, [np.zeros((0, RAW_SIDE**2), np.float32)]
        for patches in cut_patches(pixels, points, sides, orientations, self.patch_size):
            grey = normalize_patches(patches).mean(1, keepdim=True)
            small = functional.adaptive_avg_pool2d(grey, RAW_SIDE).flatten(1)
            rows.append(functional.normalize(small - small.mean(1, keepdim=True), dim=1).numpy())
        return replace(features, descriptors=np.concatenate(rows))


@dataclass(frozen=True)
class RootSIFT:
    """OpenCV's SIFT descriptors at keypoints of any detector, as RootSIFT."""

    def describe(self, image: Image, features: Features) -> Features:
        """Describe keypoints with scale and orientation."""
        scales, orientations = _scale_and_orientation(features)
        # OpenCV's size is 2 * 1.6 * 2^(octave + layer / 3), with layers 1 to 3
        steps = 3 * np.log2(scales / 3.2)
        octaves = np.maximum(np.floor((steps - 0.5) / 3), -1).astype(int)
        layers = np.clip(np.round(steps - 3 * octaves), 1, 3).astype(int)
        codes = (octaves & 255) | (layers << 8)
        points = [
            cv2.KeyPoint(float(x), float(y), float(size), float(np.degrees(angle)) % 360, 1.0, int(code))
            for (x, y), size, angle, code in zip(features.keypoints, scales, orientations, codes, strict=True)
        ]
        sift = cv2.SIFT_create(enable_precise_upscale=True)  # type: ignore[attr-defined]
        described, rows = sift.compute(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY), points)
        if len(described) != len(points):
            raise ValueError("OpenCV left keypoints out")
        rows = np.zeros((0, 128), np.float32) if rows is None else rows
        return replace(features, descriptors=rootsift(rows))


def _scale_and_orientation(features: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if features.scales is None or features.orientations is None:
        raise ValueError("the keypoints need scale and orientation")
    return features.scales, features.orientations


def random_network(images: Path, work: Path) -> DIFTConfig:
    """The recipe's network untrained, with a projection head trained on it as the recipe does."""
    folder, tiny = work / "random", PRESETS["dift-tiny"]
    if not (folder / HEAD_FILE).is_file():
        torch.manual_seed(0)
        new_unet(DenoiseConfig()).half().save_pretrained(folder)
        plain, found = replace(tiny, model=str(folder), head=False), bank_images(find_images(images, "train"))
        train_head(plain, found, work / "training", HEAD, work / "patches").head.save(folder)
    return replace(tiny, model=str(folder), head=str(folder))


def methods(images: Path, work: Path, keypoints: int, peers: dict[str, Path]) -> dict[str, Method]:
    """Every row of the table; ``peers`` are the weights of learned features, such as ``ALIKED-n16``."""

    def method(describer: Describer, detector: str = "sift") -> Method:
        name = f"{detector}+{type(describer).__name__}"
        return Method.of(name, create_detector(detector, keypoints), describer)

    tiny = DIFTExtractor(PRESETS["dift-tiny"])
    found = {
        "RootSIFT": create_method("rootsift", keypoints),
        f"RootSIFT, {DEFAULT_DETECTOR} keypoints": method(RootSIFT(), DEFAULT_DETECTOR),
        "dift-tiny": method(tiny),
        f"dift-tiny, {DEFAULT_DETECTOR} keypoints": method(tiny, DEFAULT_DETECTOR),
        "random weights": method(DIFTExtractor(random_network(images, work))),
        "raw pixels": method(RawPatches()),
    }
    for name, file in peers.items():
        found[name] = create_method(f"{name.split('-')[0].lower()}:{file}", keypoints)
    return found

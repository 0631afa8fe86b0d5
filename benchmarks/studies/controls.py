"""The embedded model with parts left out or replaced, so that the table says what each is worth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from geomatch.benchmarks.methods.method import Method, create_method
from geomatch.benchmarks.methods.peers import rootsift
from geomatch.benchmarks.training.denoise import DenoiseConfig, new_unet
from geomatch.benchmarks.training.recipe import HEAD, bank_images
from geomatch.benchmarks.training.sources import find_images
from geomatch.describers import DEFAULT_DETECTOR, Describer
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.dift.backends.loading import head_file
from geomatch.dift.head.projection import Head
from geomatch.images import Image
from geomatch.keypoints import create_detector
from geomatch.keypoints.tiny import weights_file
from geomatch.patches import cut_patches, normalize_patches
from geomatch.training.convolutional_head import train_head
from geomatch.training.linear_head import fit_on_images
from geomatch.types import Features
from geomatch.weights.sources import HEAD_FILE, model_folder

PIXELS = ("conv_in",)
"""The layer that is one convolution of the pixels."""
OWN = "superpoint-tiny"
"""The embedded detector alone."""
RAW_SIDE = 16
"""Side of raw patches, which are grey."""


@dataclass(frozen=True)
class RawPatches:
    """The pixels of oriented patches themselves, with mean 0 and unit length: no network at all."""

    patch_size: int = 32
    patch_scale: float = 11.0

    def describe(self, image: Image, features: Features) -> Features:
        """Describe keypoints with scale and orientation."""
        scales, orientations = _scale_and_orientation(features)
        sides, rows = scales * self.patch_scale, [np.zeros((0, RAW_SIDE**2), np.float32)]
        for patches in cut_patches(image.pixels, features.keypoints, sides, orientations, self.patch_size):
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


def method_of(descriptor: DIFTConfig | Describer, keypoints: int, detector: str = "sift") -> Method:
    """A descriptor at keypoints of a detector."""
    describer = DIFTExtractor(descriptor) if isinstance(descriptor, DIFTConfig) else descriptor
    metric = descriptor.metric if isinstance(descriptor, DIFTConfig) else "cosine"
    name = f"{detector}+{type(describer).__name__}"
    return Method(name, create_detector(detector, keypoints), describer, metric)


def controls(images: Path, work: Path, keypoints: int) -> tuple[dict[str, Method], dict[str, int]]:
    """The embedded model, RootSIFT, raw patches and every control, and the bytes of weights each needs.

    Random weights and projection heads are made in ``work`` when they are not there, with the recipe's
    settings.
    """
    tiny = PRESETS["dift-tiny"]
    plain = replace(tiny, head=False)
    random = replace(plain, model=str(random_model(work / "random")))
    found = find_images(images, "train")
    photos = [path for image, path in found if image.kind == "photo"]

    def with_head(name: str, config: DIFTConfig, make: Callable[[DIFTConfig, str], Head]) -> DIFTConfig:
        if not (work / name / HEAD_FILE).is_file():
            make(config, name).save(work / name)
        return replace(config, head=str(work / name))

    def trained(config: DIFTConfig, name: str) -> Head:
        out, patches = work / "training" / name, work / "patches"
        return train_head(config, bank_images(found), out, HEAD, patches).head

    def closed(config: DIFTConfig, name: str) -> Head:
        return fit_on_images(config, photos, work / name / "work", views=16).head

    settings = {
        "dift-tiny": tiny,
        "closed-form projection head": with_head("closed-form", plain, closed),
        "no projection head": plain,
        "no projection head, with noise": replace(plain, noise=True),
        **{f"no projection head, {layer} alone": replace(plain, layers=(layer,)) for layer in plain.layers},
        "random weights, trained projection head": with_head("random-trained", random, trained),
        "random weights, closed-form projection head": with_head("random-closed", random, closed),
        "random weights, no projection head": random,
        "pixels, trained projection head": with_head(
            "pixels-trained", replace(random, layers=PIXELS), trained
        ),
        "dift-tiny-dense": PRESETS["dift-tiny-dense"],
    }
    methods = {"RootSIFT": create_method("rootsift", keypoints)}
    methods |= {name: method_of(config, keypoints) for name, config in settings.items()}
    methods["raw patches"] = method_of(RawPatches(), keypoints)
    sizes = dict.fromkeys(methods, 0) | {name: _bytes(config) for name, config in settings.items()}
    detector_bytes = weights_file().stat().st_size
    for detector in (DEFAULT_DETECTOR, OWN):
        name = f"dift-tiny, {detector} keypoints"
        methods[name] = method_of(tiny, keypoints, detector)
        sizes[name] = _bytes(tiny) + detector_bytes
    name = f"RootSIFT, {DEFAULT_DETECTOR} keypoints"
    methods[name], sizes[name] = method_of(RootSIFT(), keypoints, DEFAULT_DETECTOR), detector_bytes
    return methods, sizes


def random_model(folder: Path) -> Path:
    """The network of the recipe, untrained."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        new_unet(DenoiseConfig()).half().save_pretrained(folder)
    return folder


def _bytes(config: DIFTConfig) -> int:
    folder, size = model_folder(config.model), 0
    if config.layers != PIXELS:  # there one small convolution is all that is used
        size = sum(file.stat().st_size for file in folder.glob("diffusion*.safetensors"))
    head = head_file(config)
    return size + (head.stat().st_size if head else 0)

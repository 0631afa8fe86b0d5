"""The embedded model with parts left out or replaced, so that the table says what each is worth."""

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
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.dift.files import head_file
from geomatch.images import Image
from geomatch.keypoints import DEFAULT_DETECTOR, create_detector
from geomatch.keypoints.tiny import weights_file
from geomatch.patches import cut_patches, normalize_patches
from geomatch.training.convolutional_head import train_head
from geomatch.training.linear_head import fit_on_images
from geomatch.types import Features
from geomatch.weights.folders import HEAD_FILE
from geomatch.weights.sources import model_folder

PIXELS = ("conv_in",)
"""The layer that is one convolution of the pixels."""
OWN = "superpoint-tiny"
"""The embedded detector alone."""
RAW_SIDE = 16
"""Raw patches are grey, of this side."""


@dataclass(frozen=True)
class RawPatches:
    """The pixels of the patch themselves, with mean 0 and unit length: no network at all."""

    patch_size: int = 32
    patch_scale: float = 11.0

    def describe(self, image: Image, features: Features) -> Features:
        """Keypoints need scale and orientation."""
        if features.scales is None or features.orientations is None:
            raise ValueError("the keypoints need scale and orientation")
        sides = features.scales * self.patch_scale
        rows: list[NDArray[np.float32]] = [np.zeros((0, RAW_SIDE**2), np.float32)]
        for patches in cut_patches(
            image.pixels, features.keypoints, sides, features.orientations, self.patch_size
        ):
            grey = normalize_patches(patches).mean(1, keepdim=True)
            small = functional.adaptive_avg_pool2d(grey, RAW_SIDE).flatten(1)
            rows.append(functional.normalize(small - small.mean(1, keepdim=True), dim=1).numpy())
        return replace(features, descriptors=np.concatenate(rows))


@dataclass(frozen=True)
class RootSIFT:
    """OpenCV's SIFT descriptors at keypoints of any detector, as RootSIFT."""

    def describe(self, image: Image, features: Features) -> Features:
        """Keypoints need scale and orientation."""
        if features.scales is None or features.orientations is None:
            raise ValueError("the keypoints need scale and orientation")
        # OpenCV's size is 2 * 1.6 * 2^(octave + layer / 3), with layers 1 to 3
        steps = 3 * np.log2(features.scales / 3.2)
        octaves = np.maximum(np.floor((steps - 0.5) / 3), -1).astype(int)
        layers = np.clip(np.round(steps - 3 * octaves), 1, 3).astype(int)
        points = [
            cv2.KeyPoint(float(x), float(y), float(size), float(np.degrees(angle)) % 360, 1.0, int(code))
            for (x, y), size, angle, code in zip(
                features.keypoints,
                features.scales,
                features.orientations,
                (octaves & 255) | (layers << 8),
                strict=True,
            )
        ]
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        sift = cv2.SIFT_create(enable_precise_upscale=True)  # type: ignore[attr-defined]
        kept, rows = sift.compute(grey, points)
        if len(kept) != len(points):
            raise ValueError("OpenCV left keypoints out")
        rows = np.zeros((0, 128), np.float32) if rows is None else rows
        return replace(features, descriptors=rootsift(rows))


def method_of(descriptor: str | DIFTConfig | Describer, keypoints: int, detector: str = "sift") -> Method:
    """A descriptor at keypoints of a detector."""
    if isinstance(descriptor, str):
        return create_method(f"{detector}+{descriptor}", keypoints)
    describer = DIFTExtractor(descriptor) if isinstance(descriptor, DIFTConfig) else descriptor
    metric = descriptor.metric if isinstance(descriptor, DIFTConfig) else "cosine"
    name = type(describer).__name__
    return Method(f"{detector}+{name}", create_detector(detector, keypoints), describer, metric)


def controls(images: Path, work: Path, keypoints: int) -> tuple[dict[str, Method], dict[str, int]]:
    """The embedded model, RootSIFT, raw patches and every control, and the bytes of weights each needs.

    Random weights and projection heads are made in ``work`` when they are not there, by the recipe's
    settings.
    """
    tiny = PRESETS["dift-tiny"]
    plain = replace(tiny, head=False)
    random = random_model(work / "random")
    pixels = replace(plain, model=str(random), layers=PIXELS)
    found = find_images(images, "train")
    photos = [path for image, path in found if image.kind == "photo"]

    def trained(name: str, config: DIFTConfig) -> DIFTConfig:
        folder = work / name
        if not (folder / HEAD_FILE).is_file():
            out, patches = work / "training" / name, work / "patches"
            train_head(config, bank_images(found), out, HEAD, patches).head.save(folder)
        return replace(config, head=str(folder))

    def fitted(name: str, config: DIFTConfig) -> DIFTConfig:
        folder = work / name
        if not (folder / HEAD_FILE).is_file():
            fit_on_images(config, photos, folder / "work", views=16).head.save(folder)
        return replace(config, head=str(folder))

    settings = {
        "dift-tiny": tiny,
        "closed-form projection head": fitted("closed-form", plain),
        "no projection head": plain,
        "no projection head, with noise": replace(plain, noise=True),
        **{f"no projection head, {layer} alone": replace(plain, layers=(layer,)) for layer in plain.layers},
        "random weights, trained projection head": trained(
            "random-trained", replace(plain, model=str(random))
        ),
        "random weights, closed-form projection head": fitted(
            "random-closed", replace(plain, model=str(random))
        ),
        "random weights, no projection head": replace(plain, model=str(random)),
        "pixels, trained projection head": trained("pixels-trained", pixels),
        "dift-tiny-dense": PRESETS["dift-tiny-dense"],
    }
    methods = {"RootSIFT": create_method("rootsift", keypoints)}
    methods |= {name: method_of(config, keypoints) for name, config in settings.items()}
    methods["raw patches"] = method_of(RawPatches(), keypoints)
    own = {f"dift-tiny, {detector} keypoints": (tiny, detector) for detector in (DEFAULT_DETECTOR, OWN)}
    methods |= {name: method_of(config, keypoints, detector) for name, (config, detector) in own.items()}
    methods[f"RootSIFT, {DEFAULT_DETECTOR} keypoints"] = method_of(RootSIFT(), keypoints, DEFAULT_DETECTOR)
    detector_bytes = weights_file().stat().st_size
    sizes = dict.fromkeys(methods, 0)
    sizes |= {name: _bytes(config) for name, config in settings.items()}
    sizes |= {name: _bytes(tiny) + detector_bytes for name in own}
    sizes[f"RootSIFT, {DEFAULT_DETECTOR} keypoints"] = detector_bytes
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

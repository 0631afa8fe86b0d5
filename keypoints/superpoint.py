"""SuperPoint (DeTone, Malisiewicz, Rabinovich, 2018) with free or original weights.

The network and its post-processing follow rpautrat/SuperPoint, whose weights ``superpoint_v6_from_tf.pth``
are under the MIT licence. The original weights of Magic Leap, under a licence for academic and non-commercial
use only, come through transformers (`MagicLeapSuperPoint`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from geomatch.devices import device_kind, device_of, find_device, upload_pixels
from geomatch.errors import WeightsError, reading, require
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.keypoints.detector import check_limit
from geomatch.keypoints.folding import folded
from geomatch.provenance import settings_key
from geomatch.tensors import FeatureTensors, detect_arrays, upload_features
from geomatch.types import Features
from geomatch.weights.checkpoint import warn_if_untrained
from geomatch.weights.download import SUPERPOINT_V6, locate_weights
from geomatch.weights.hub import transformers_fingerprint, transformers_folder
from geomatch.weights.tensors import filled, load_pickled, network_key

_DESCRIPTOR_SIZE = 256


def luma(pixels: Tensor) -> Tensor:
    """Pixels (1, 3, H, W) as grey values (1, 1, H, W) in the same range; ITU-R BT.601."""
    return 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]


@isolated()
def _detect(
    image: Image, network: nn.Module, max_side: int | None, search: Callable[[Tensor], Sequence[Tensor]]
) -> FeatureTensors:
    """Keypoints with descriptors of the grey image in [0, 1], reduced to ``max_side`` for ``search``."""
    reduced = reduce_image(image, max_side)
    pixels = upload_pixels(reduced.pixels, device_of(network))
    if min(reduced.size) < SuperPointNetwork.stride:  # no whole cell
        nothing = pixels.new_zeros(0)
        return FeatureTensors(nothing.view(0, 2), nothing, image.size)
    points, scores, descriptors = search(luma(pixels) / 255)
    return FeatureTensors(points, scores, reduced.size, descriptors=descriptors).resized(image.size)


def _convolution(channels_in: int, channels_out: int, kernel: int, relu: bool = True) -> nn.Module:
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2))
    block.add_module("activation", nn.ReLU(inplace=True) if relu else nn.Identity())
    block.add_module("bn", nn.BatchNorm2d(channels_out, eps=1e-3))
    return block


class SuperPointNetwork(nn.Module):
    """The fully convolutional network; attribute names are those of the published weights.

    Each stage but the last halves the resolution; both heads, and the descriptors, have ``head`` channels.
    """

    stride = 8

    def __init__(
        self,
        channels: Sequence[int] = (64, 64, 128, 128),
        head: int = _DESCRIPTOR_SIZE,
        describes: bool = True,
    ) -> None:
        super().__init__()
        stages, previous = [], 1
        for index, width in enumerate(channels):
            layers = [_convolution(previous, width, 3), _convolution(width, width, 3)]
            if index + 1 < len(channels):
                layers.append(nn.MaxPool2d(2))
            stages.append(nn.Sequential(*layers))
            previous = width
        self.backbone = nn.Sequential(*stages)
        cells = self.stride**2 + 1  # one class per pixel of a cell, and "no keypoint"

        def branch(width: int) -> nn.Module:
            return nn.Sequential(_convolution(previous, head, 3), _convolution(head, width, 1, relu=False))

        self.detector = branch(cells)
        if describes:
            self.descriptor = branch(head)

    def scores(self, features: Tensor) -> Tensor:
        """Scores of the pixels, (B, H, W), from what the backbone makes of grey images."""
        cells = self.detector(features).softmax(1)  # (B, 65, H/8, W/8): a cell's 64 pixels, then none
        return functional.pixel_shuffle(cells[:, :-1], self.stride)[:, 0]

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Grey images (B, 1, H, W) in [0, 1] to scores (B, H, W), unit descriptors (B, D, H // 8, W // 8)."""
        features = self.backbone(grey)
        return self.scores(features), functional.normalize(self.descriptor(features), dim=1)


def window_maximum(values: Tensor, radius: int) -> Tensor:
    """The largest of the values (..., H, W) in the square of that half side about each place."""
    values, side = functional.pad(values, (radius,) * 4, value=-torch.inf), 2 * radius + 1
    for axis in (-1, -2):
        reached = 1
        while reached < side:  # max_pool2d takes thirty times as long on the CPU
            step = min(reached, side - reached)
            rest = values.shape[axis] - step
            values = torch.maximum(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
            reached += step
    return values


def _suppress(scores: Tensor, radius: int) -> Tensor:
    """Keep local maxima of (B, H, W) scores; two more rounds revive those hidden by suppressed ones."""
    maxima = scores == window_maximum(scores, radius)
    for _ in range(2):
        hidden = window_maximum(maxima.float(), radius) > 0
        rest = scores.masked_fill(hidden, 0.0)
        maxima = maxima | ((rest == window_maximum(rest, radius)) & ~hidden)
    return scores.where(maxima, torch.zeros_like(scores))


@dataclass(frozen=True)
class SuperPointDetector:
    """Keypoints of SuperPoint with the MIT weights; its own 256-d descriptors come along."""

    weights: str | Path | None = None
    """A weights file; None looks in the cache and then downloads (see `geomatch.weights.download`)."""
    max_keypoints: int | None = 3000
    nms_radius: int = 4
    """Half side in pixels of the square in which a keypoint must be the maximum."""
    detection_threshold: float = 0.005
    """Least score; the reference's default."""
    border: int = 4
    """Pixels near the image border where no keypoint is taken."""
    max_image_side: int | None = 2048
    device: str = "auto"
    reentrant: ClassVar[bool] = True

    cache_key = network_key

    def _files(self) -> list[Path]:
        return [locate_weights(SUPERPOINT_V6, self.weights)]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)
        if self.nms_radius < 0 or self.border < 0:
            raise ValueError("nms_radius and border must be 0 or more pixels")

    @cached_property
    def network(self) -> SuperPointNetwork:
        """The network, loaded on first use."""
        network = folded(load_detector(self._files()[0], load_pickled, "SuperPoint"))
        return network.to(find_device(self.device))

    detect = detect_arrays

    def detect_tensors(self, image: Image) -> FeatureTensors:
        """The same, on the network's device."""
        return _detect(image, self.network, self.max_image_side, self.search)

    @isolated()
    def describe(self, image: Image, features: Features) -> Features:
        """Any keypoints of the image with SuperPoint's descriptors; zeros in images smaller than a cell."""
        reduced = reduce_image(image, self.max_image_side)
        found = upload_features(features, device_of(self.network))
        rows = found.keypoints.new_zeros(len(found), _DESCRIPTOR_SIZE)
        if min(reduced.size) >= SuperPointNetwork.stride and len(found):
            _, coarse = self.network(luma(upload_pixels(reduced.pixels, rows.device)) / 255)
            rows = self._sample(coarse, found.resized(reduced.size).keypoints)
        return replace(features, descriptors=rows.numpy(force=True))

    def _sample(self, coarse: Tensor, keypoints: Tensor) -> Tensor:
        """Unit descriptors (N, D) from the map (1, D, h, w) at pixels (N, 2); zeros far outside."""
        size = keypoints.new_tensor([coarse.shape[3], coarse.shape[2]]) * self.network.stride
        grid = (keypoints + 0.5) / size * 2 - 1
        sampled = functional.grid_sample(coarse, grid[None, None], align_corners=False)[0, :, 0].T
        return functional.normalize(sampled, dim=1)

    @isolated()
    def search(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From one grey image (1, 1, H, W) in [0, 1]: keypoints (N, 2), scores (N,), descriptors (N, 256).

        On the network's device, best first; ``max_keypoints`` is applied; the image is not resized.
        """
        scores, coarse = self.network(grey)
        scores = _suppress(scores, self.nms_radius)[0]
        rows, columns = (slice(self.border, max(side - self.border, 0)) for side in scores.shape)
        inside = torch.zeros_like(scores, dtype=torch.bool)
        inside[rows, columns] = True
        ys, xs = torch.where(inside & (scores > self.detection_threshold))
        found = scores[ys, xs]
        order = found.argsort(descending=True, stable=True)[: self.max_keypoints]
        keypoints = torch.stack([xs, ys], dim=1)[order].float()
        return keypoints, found[order], self._sample(coarse, keypoints)


@isolated(gradients=True)
def load_detector(
    path: Path,
    read: Callable[[Path], Mapping[str, Tensor]],
    what: str,
    make: Callable[[], SuperPointNetwork] = SuperPointNetwork,
) -> SuperPointNetwork:
    """A network with the weights that ``read`` finds in a file, ready to use."""
    with reading(path, f"file of weights of {what}", WeightsError):
        network = filled(make, read(path))
    warn_if_untrained(network, path)
    return network


@dataclass(frozen=True)
class MagicLeapSuperPoint:
    """SuperPoint with Magic Leap's weights through transformers: for academic, non-commercial use only."""

    weights: str = "magic-leap-community/superpoint"
    """Hub id or local folder."""
    max_keypoints: int | None = 3000
    max_image_side: int | None = 2048
    device: str = "auto"

    def cache_key(self) -> Any:
        """The settings, the kind of device, and the weights by their content."""
        settings = settings_key(self, leave_out=("weights", "device"))
        return [settings, device_kind(self.device), transformers_fingerprint(self.weights)]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)

    @cached_property
    @isolated(gradients=True)
    def network(self) -> Any:
        """The transformers model, loaded on first use."""
        transformers = require("transformers", "transformers", "SuperPoint of Magic Leap")
        folder = transformers_folder(self.weights)
        with reading(folder, "SuperPoint of transformers", WeightsError):
            model = transformers.SuperPointForKeypointDetection.from_pretrained(folder, dtype=torch.float32)
        return model.eval().to(find_device(self.device))

    detect = detect_arrays

    def detect_tensors(self, image: Image) -> FeatureTensors:
        """The same, on the network's device."""
        found = _detect(image, self.network, self.max_image_side, self._search)
        return found.best(self.max_keypoints)

    def _search(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (default := torch.get_default_dtype()) not in (torch.float32, torch.float64):
            raise ValueError(f"transformers' SuperPoint would round to torch's default dtype, {default}")
        found = self.network(grey.expand(-1, 3, -1, -1))
        valid = found.mask[0].bool()
        # the model returns coordinates divided by (width, height) of its input
        pixels = found.keypoints[0][valid] * found.keypoints.new_tensor([grey.shape[3], grey.shape[2]])
        return pixels, found.scores[0][valid], found.descriptors[0][valid]

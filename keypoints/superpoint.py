"""SuperPoint (DeTone, Malisiewicz, Rabinovich, 2018) with free or original weights.

The network and its post-processing follow rpautrat/SuperPoint, whose weights ``superpoint_v6_from_tf.pth``
are under the MIT licence. The original weights of Magic Leap, under a licence for academic and non-commercial
use only, come through transformers (`MagicLeapSuperPoint`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geomatch.errors import WeightsError, first_line, require
from geomatch.files import sha256_of
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.keypoints.detector import check_limit, no_keypoints, select_best
from geomatch.provenance import settings_key
from geomatch.types import Features
from geomatch.weights.checkpoint import warn_if_untrained
from geomatch.weights.download import SUPERPOINT_V6, locate_weights
from geomatch.weights.hub import transformers_fingerprint, transformers_folder
from geomatch.weights.tensors import load_pickled

_DESCRIPTOR_SIZE = 256
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as in the reference


def _grey_tensor(image: Image) -> Tensor:
    """(1, 1, H, W) in [0, 1]."""
    rgb = torch.from_numpy(image.pixels.astype(np.float32) / 255).permute(2, 0, 1)
    return (rgb * rgb.new_tensor(_GREY)[:, None, None]).sum(0)[None, None]


@isolated()
def _detect(
    image: Image, max_side: int | None, limit: int | None, search: Callable[[Tensor], Sequence[Tensor]]
) -> Features:
    """Keypoints with descriptors of the grey image, reduced to ``max_side`` for ``search``."""
    reduced = reduce_image(image, max_side)
    if min(reduced.size) < SuperPointNetwork.stride:  # no whole cell
        return no_keypoints(image)
    points, scores, descriptors = (found.cpu().numpy() for found in search(_grey_tensor(reduced)))
    moved = resize_points(points, reduced.size, image.size)
    return select_best(Features(moved, scores, image.size, descriptors=descriptors), limit)


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

    def cells(self, grey: Tensor) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1] to logits (B, 65, H/8, W/8): a cell's 64 pixels, then none."""
        found: Tensor = self.detector(self.backbone(grey))
        return found

    def scores(self, cells: Tensor) -> Tensor:
        """Scores of the pixels, (B, H, W), from logits of cells."""
        return functional.pixel_shuffle(cells.softmax(1)[:, :-1], self.stride)[:, 0]

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Grey images (B, 1, H, W) in [0, 1] to scores (B, H, W) and unit descriptors (B, D, H/8, W/8).

        Remainders of a division of H and W by 8 are cut off.
        """
        features = self.backbone(grey)
        return self.scores(self.detector(features)), functional.normalize(self.descriptor(features), dim=1)


class _Bounds(nn.Module):
    """Keeps every channel between two numbers of its own, (C, 1, 1) each."""

    def __init__(self, least: Tensor, most: Tensor) -> None:
        super().__init__()
        self.register_buffer("least", least)
        self.register_buffer("most", most)

    def forward(self, maps: Tensor) -> Tensor:
        return maps.clamp_(self.least, self.most)


@isolated(gradients=True)
def folded(network: SuperPointNetwork, device: str) -> SuperPointNetwork:
    """The network with each normalisation folded into the convolution before it, for use on a device."""
    for name, part in list(network.named_children()):
        setattr(network, name, nn.Sequential(*_folded_layers(part)))
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _folded_layers(part: nn.Module) -> list[nn.Module]:
    """a relu(z) + b is a z + b, not below b where a > 0, else not above; pooling first gives the same."""
    layers: list[nn.Module] = []
    for block in part.children():
        if isinstance(block, nn.MaxPool2d):
            layers.insert(-1, block)
        elif not hasattr(block, "bn"):
            layers += _folded_layers(block)
        else:
            layers.append(fuse_conv_bn_eval(block.conv, block.bn))
            if isinstance(block.activation, nn.ReLU):
                scale = block.bn.weight * (block.bn.running_var + block.bn.eps).rsqrt()
                shift = (block.bn.bias - block.bn.running_mean * scale).detach()
                endless = torch.full_like(shift, torch.inf)
                bounds = shift.where(scale >= 0, -endless), shift.where(scale <= 0, endless)
                layers.append(_Bounds(*(bound[:, None, None] for bound in bounds)))
    return layers


def window_maximum(values: Tensor, radius: int) -> Tensor:
    """The largest of the values (..., H, W) in the square of that half side about each place."""
    values, side = functional.pad(values, (radius,) * 4, value=-torch.inf), 2 * radius + 1
    for axis in (-1, -2):
        reached = 1
        while reached < side:  # max_pool2d takes thirty times as long on the CPU
            step, count = min(reached, side - reached), values.shape[axis]
            values = torch.maximum(
                values.narrow(axis, 0, count - step), values.narrow(axis, step, count - step)
            )
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
    device: str = "cpu"

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        weights = locate_weights(SUPERPOINT_V6, self.weights)
        return [settings_key(self, leave_out=("weights",)), sha256_of(weights)]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)
        if self.nms_radius < 0 or self.border < 0:
            raise ValueError("nms_radius and border must be 0 or more pixels")

    @cached_property
    def network(self) -> SuperPointNetwork:
        """The network, loaded on first use."""
        return load_superpoint(self.weights).to(self.device)

    def detect(self, image: Image) -> Features:
        """Detect on the grey image and sample descriptors at the keypoints."""
        return _detect(image, self.max_image_side, self.max_keypoints, self.detect_tensor)

    @isolated()
    def describe(self, image: Image, features: Features) -> Features:
        """Any keypoints of the image with SuperPoint's descriptors; zeros in images smaller than a cell."""
        reduced = reduce_image(image, self.max_image_side)
        rows = torch.zeros(len(features), _DESCRIPTOR_SIZE, dtype=torch.float32)
        if min(reduced.size) >= SuperPointNetwork.stride and len(features):
            points = resize_points(features.keypoints, image.size, reduced.size)
            _, coarse = self.network(_grey_tensor(reduced).to(self.device))
            rows = self._sample(coarse, torch.from_numpy(points).to(self.device))
        return replace(features, descriptors=rows.cpu().numpy())

    def _sample(self, coarse: Tensor, keypoints: Tensor) -> Tensor:
        """Unit descriptors (N, D) from the map (1, D, h, w) at pixels (N, 2); zeros far outside."""
        size = keypoints.new_tensor([coarse.shape[3], coarse.shape[2]]) * self.network.stride
        grid = (keypoints + 0.5) / size * 2 - 1
        sampled = functional.grid_sample(coarse, grid[None, None], align_corners=False)[0, :, 0].T
        return functional.normalize(sampled, dim=1)

    @isolated()
    def detect_tensor(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From one grey image (1, 1, H, W) in [0, 1]: keypoints (N, 2), scores (N,), descriptors (N, 256).

        Best first; ``max_keypoints`` is applied; the image is not resized.
        """
        scores, coarse = self.network(grey.to(self.device))
        scores = _suppress(scores, self.nms_radius)
        if self.border:
            inside = torch.zeros_like(scores, dtype=torch.bool)
            inside[:, self.border : -self.border, self.border : -self.border] = True
            scores = scores.where(inside, torch.full_like(scores, -1.0))
        ys, xs = torch.where(scores[0] > self.detection_threshold)
        found = scores[0, ys, xs]
        order = torch.sort(found, descending=True, stable=True).indices[: self.max_keypoints]
        keypoints = torch.stack([xs, ys], dim=1)[order].float()
        return keypoints, found[order], self._sample(coarse, keypoints)


@isolated(gradients=True)
def load_superpoint(weights: str | Path | None = None) -> SuperPointNetwork:
    """The network with the published weights, ready to use."""
    path = locate_weights(SUPERPOINT_V6, weights)
    try:
        state = load_pickled(path)
        with torch.device("meta"):
            network = SuperPointNetwork()
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    except Exception as error:  # unpickling and loading raise many types
        raise WeightsError(f"{path} does not hold SuperPoint weights ({first_line(error)})") from error
    warn_if_untrained(network, path)
    return network.eval()


@dataclass(frozen=True)
class MagicLeapSuperPoint:
    """SuperPoint with Magic Leap's weights through transformers (the extra ``transformers``).

    Their licence allows academic and non-commercial use only.
    """

    weights: str = "magic-leap-community/superpoint"
    """Hub id or local folder."""
    max_keypoints: int | None = 3000
    max_image_side: int | None = 2048
    device: str = "cpu"

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        return [settings_key(self, leave_out=("weights",)), transformers_fingerprint(self.weights)]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)

    @cached_property
    @isolated(gradients=True)
    def network(self) -> Any:
        """The transformers model, loaded on first use."""
        transformers = require("transformers", "transformers", "SuperPoint of Magic Leap")
        try:
            folder = transformers_folder(self.weights)
            model = transformers.SuperPointForKeypointDetection.from_pretrained(folder, dtype=torch.float32)
        except Exception as error:  # hub, network and format errors alike
            raise WeightsError(
                f"cannot load {self.weights} ({first_line(error)}); give a local folder with config.json and "
                "model.safetensors, or fill the Hugging Face cache while online"
            ) from error
        return model.eval().to(self.device)

    def detect(self, image: Image) -> Features:
        """Detect on the grey image; descriptors come along."""
        return _detect(image, self.max_image_side, self.max_keypoints, self._search)

    def _search(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (default := torch.get_default_dtype()) not in (torch.float32, torch.float64):
            raise ValueError(f"transformers' SuperPoint would round to torch's default dtype, {default}")
        found = self.network(grey.expand(-1, 3, -1, -1).to(self.device))
        valid = found.mask[0].bool()
        # the model returns coordinates divided by (width, height) of its input
        pixels = found.keypoints[0][valid] * found.keypoints.new_tensor([grey.shape[3], grey.shape[2]])
        return pixels, found.scores[0][valid], found.descriptors[0][valid]

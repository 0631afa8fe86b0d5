"""The embedded detector: a narrow SuperPoint on an image pyramid, with weights that come with the package."""

import importlib.resources
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from geomatch.errors import WeightsError, first_line
from geomatch.files import sha256_of
from geomatch.geometry import resize_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.keypoints.detector import check_limit, no_keypoints, select_best
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.patches import cut_patches
from geomatch.provenance import settings_key
from geomatch.types import Features
from geomatch.weights.tensors import load_tensors, save_tensors

_CHANNELS, _HEAD = (16, 32, 32, 64), 128  # a quarter to a half of SuperPoint's
_LEVELS = 9  # of the pyramid; each is smaller by the square root of 2
_LEAST_SIDE = 48  # of a level in pixels
_SCALE = 4.0  # diameter in pixels of a keypoint of the first level; at coarser levels in proportion
_DECAY = 1.5
"""A level reduced s times gets s^-1.5 of the keypoints: fine ones lie more exactly, coarse ones are found
from other distances."""
_BINS = 36  # of the histogram of gradients (Lowe, 2004, section 5)
_SIDE = 24  # of the neighbourhood that gives the orientation, in its own pixels
_REACH = 6.0  # side of that neighbourhood in units of the keypoint's scale


@dataclass(frozen=True)
class TinyDetector:
    """Keypoints of the embedded network, with scale and orientation.

    The network is SuperPoint's detector (DeTone, Malisiewicz, Rabinovich, 2018), narrower, and trained by
    homographic adaptation on openly licensed images. Every level of the pyramid is searched alone.
    """

    weights: str | Path | None = None
    """A file of `save_network`; None for the embedded one."""
    max_keypoints: int | None = 3000
    nms_radius: int = 3
    """Half side, in pixels of its level, of the square in which a keypoint must be the maximum."""
    detection_threshold: float = 0.01
    """Least score."""
    border: int = 6
    """Pixels of its level near the border where no keypoint is taken."""
    max_image_side: int | None = 2048
    device: str = "cpu"

    def cache_key(self) -> Any:
        """The settings, and the weights by their content."""
        return [settings_key(self, leave_out=("weights",)), sha256_of(weights_file(self.weights))]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)
        if self.nms_radius < 0 or self.border < 1:
            raise ValueError("nms_radius must be 0 or more pixels, border 1 or more")

    @cached_property
    def network(self) -> SuperPointNetwork:
        """The network, loaded on first use."""
        network = load_network(weights_file(self.weights))
        return network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def detect(self, image: Image) -> Features:
        """Detect on the grey image."""
        reduced = reduce_image(image, self.max_image_side)
        grey = cv2.cvtColor(reduced.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        levels = []
        for level in range(_LEVELS):
            size = [round(side / 2 ** (level / 2)) for side in reduced.size]
            if min(size) < _LEAST_SIDE and level:
                break
            small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if level else grey
            points, scores = self._search(np.asarray(small, np.float32))
            levels.append((resize_points(points, (size[0], size[1]), reduced.size), scores))
        kept = _shares([len(scores) for _, scores in levels], self.max_keypoints)
        points = np.concatenate([found[:count] for (found, _), count in zip(levels, kept, strict=True)])
        if not len(points):
            return no_keypoints(image)
        scales = (_SCALE * 2 ** (np.repeat(np.arange(len(levels)), kept) / 2)).astype(np.float32)
        features = Features(
            keypoints=resize_points(points, reduced.size, image.size),
            scores=np.concatenate([scores[:count] for (_, scores), count in zip(levels, kept, strict=True)]),
            image_size=image.size,
            scales=scales * np.float32(image.size[0] / reduced.size[0]),
            orientations=dominant_orientations(reduced.pixels, points, scales),
        )
        return select_best(features, self.max_keypoints)

    @isolated()
    def _search(self, grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points (N, 2) in pixels of one level and their scores, best first."""
        height, width = grey.shape
        edges = [-height % SuperPointNetwork.stride, -width % SuperPointNetwork.stride]
        whole = cv2.copyMakeBorder(grey, 0, edges[0], 0, edges[1], cv2.BORDER_REPLICATE)
        tensor = torch.from_numpy(whole)[None, None].to(self.device, memory_format=torch.channels_last)
        scores = self.network.scores(self.network.cells(tensor))[0].numpy(force=True)
        square = np.ones((2 * self.nms_radius + 1, 2 * self.nms_radius + 1), np.uint8)
        found = (scores == cv2.dilate(scores, square)) & (scores > self.detection_threshold)
        found[: self.border] = found[:, : self.border] = False
        found[max(0, height - self.border) :] = found[:, max(0, width - self.border) :] = False
        y, x = np.nonzero(found)
        points = np.stack([x, y], axis=1) + peak_shifts(np.log(scores + 1e-4), x, y)
        order = np.argsort(-scores[y, x], kind="stable")
        return points[order].astype(np.float32), scores[y, x][order]


def peak_shifts(
    values: NDArray[np.float32], x: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N, 2) from maxima of a map, not at its edge, to the peaks of parabolas, at most half a pixel."""
    peak = values[y, x]
    shifts = []
    for before, after in ((values[y, x - 1], values[y, x + 1]), (values[y - 1, x], values[y + 1, x])):
        bend = np.minimum(before + after - 2 * peak, -1e-6)
        shifts.append(np.clip((before - after) / (2 * bend), -0.5, 0.5))
    return np.stack(shifts, axis=1)


def _shares(found: list[int], limit: int | None) -> list[int]:
    """How many points of each level are taken; what a coarse level cannot fill goes to finer ones."""
    if limit is None:
        return found
    weights = 2.0 ** (-_DECAY / 2 * np.arange(len(found)))
    kept = [0] * len(found)
    for level in range(len(found) - 1, -1, -1):
        share = (limit - sum(kept)) * weights[level] / weights[: level + 1].sum()
        kept[level] = min(found[level], round(share))
    return kept


def dominant_orientations(
    pixels: NDArray[np.uint8], keypoints: NDArray[np.floating], scales: NDArray[np.floating]
) -> NDArray[np.float32]:
    """(N,) radians from the x axis towards the y axis, for keypoints (N, 2) and scales (N,) in pixels.

    The fullest bin of SIFT's histogram of gradients, which count by their length and by a Gaussian about the
    keypoint; the histogram is smoothed, and a parabola places its peak (Lowe, 2004, section 5).
    """
    offsets = (torch.arange(_SIDE, dtype=torch.float32, device="cpu") - (_SIDE - 1) / 2) / (_SIDE / 4)
    fall = torch.exp(-0.5 * offsets**2)
    found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
    upright = np.zeros(len(keypoints))
    for patches in cut_patches(pixels, keypoints, scales * _REACH, upright, _SIDE):
        grey = patches.mean(1)
        across = functional.pad(grey[:, :, 2:] - grey[:, :, :-2], (1, 1))
        down = functional.pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
        weight = (torch.hypot(across, down) * fall[:, None] * fall).flatten(1)
        place = (torch.atan2(down, across) / (2 * torch.pi) * _BINS).flatten(1) % _BINS
        low = place.floor()
        share = place - low
        bins = grey.new_zeros(len(grey), _BINS)
        bins.scatter_add_(1, low.long() % _BINS, weight * (1 - share))
        bins.scatter_add_(1, (low.long() + 1) % _BINS, weight * share)
        for _ in range(2):
            bins = bins.roll(1, 1) / 4 + bins / 2 + bins.roll(-1, 1) / 4
        peak = bins.argmax(1, keepdim=True)
        before, highest, after = (bins.gather(1, (peak + step) % _BINS) for step in (-1, 0, 1))
        bend = (before + after - 2 * highest).clamp(max=-1e-9)
        angle = (peak + (before - after) / (2 * bend)) / _BINS * 2 * torch.pi
        found.append(angle[:, 0].numpy().astype(np.float32))
    return np.concatenate(found)


def weights_file(weights: str | Path | None = None) -> Path:
    """The file named, or the one that comes with the package."""
    if weights is not None:
        return Path(weights)
    return Path(str(importlib.resources.files("geomatch.keypoints") / "weights" / "tiny.safetensors"))


def save_network(network: SuperPointNetwork, path: Path) -> None:
    """Write the weights; convolutions become float16."""
    state = {
        name: tensor.half().contiguous() if tensor.ndim > 1 else tensor.contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_tensors(path, state, {})


@isolated(gradients=True)
def load_network(path: Path) -> SuperPointNetwork:
    """What `save_network` wrote, ready to use."""
    with torch.device("meta"):
        network = new_network()
    try:
        state = {name: tensor.float() for name, tensor in load_tensors(path)[0].items()}
        network.load_state_dict(state, assign=True)
    except Exception as error:  # safetensors and torch raise many types
        raise WeightsError(
            f"{path} does not hold weights of the embedded detector, or is damaged ({first_line(error)})"
        ) from error
    return network.eval()


def new_network() -> SuperPointNetwork:
    """The network with untrained weights."""
    return SuperPointNetwork(_CHANNELS, _HEAD, describes=False)

"""The embedded detector: a narrow SuperPoint on an image pyramid, with weights that come with the package."""

import importlib.resources
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from geomatch.devices import device_of, find_device, upload_pixels
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.keypoints.detector import check_limit
from geomatch.keypoints.folding import folded
from geomatch.keypoints.superpoint import SuperPointNetwork, load_detector, window_maximum
from geomatch.patches import cut_patches
from geomatch.tensors import FeatureTensors, detect_arrays
from geomatch.weights.tensors import load_tensors, network_key

_CHANNELS, _HEAD = (16, 32, 32, 64), 128  # a quarter to a half of SuperPoint's
_LEVELS = 9  # of the pyramid; each is smaller by the square root of 2
_LEAST_SIDE = 48  # of a level in pixels
_SCALE = 4.0  # diameter in pixels of a keypoint of the first level; at coarser levels in proportion
_DECAY = 1.5
"""A level reduced s times gets s^-1.5 of the keypoints: fine ones lie more exactly."""
_BINS = 36  # of the histogram of gradients (Lowe, 2004, section 5)
_SIDE = 24  # of the neighbourhood that gives the orientation, in its own pixels
_REACH = 6.0  # side of that neighbourhood in units of the keypoint's scale


@dataclass(frozen=True)
class TinyDetector:
    """Keypoints of the embedded network, with scale and orientation.

    The network is SuperPoint's detector (DeTone, Malisiewicz, Rabinovich, 2018), narrower, and trained by
    homographic adaptation on openly licensed images. Every level of the pyramid is searched alone.
    """

    max_keypoints: int | None = 3000
    nms_radius: int = 3
    """Half side, in pixels of its level, of the square in which a keypoint must be the maximum."""
    detection_threshold: float = 0.01
    """Least score."""
    border: int = 6
    """Pixels of its level near the border where no keypoint is taken."""
    max_image_side: int | None = 2048
    device: str = "auto"
    reentrant: ClassVar[bool] = True

    cache_key = network_key

    def _files(self) -> list[Path]:
        return [weights_file()]

    def __post_init__(self) -> None:
        check_limit(self.max_keypoints)
        if self.nms_radius < 0 or self.border < 1:
            raise ValueError("nms_radius must be 0 or more pixels, border 1 or more")

    @cached_property
    def network(self) -> SuperPointNetwork:
        """The network, loaded on first use."""
        network = folded(load_network(weights_file()))
        return network.to(find_device(self.device))

    detect = detect_arrays

    def detect_tensors(self, image: Image) -> FeatureTensors:
        """The same, on the network's device."""
        pixels, found = self.locate(image)
        return self.orient(pixels, found).resized(image.size)

    @isolated()
    def locate(self, image: Image) -> tuple[Tensor, FeatureTensors]:
        """Pixels (1, 3, H, W) of the reduced image, and keypoints in them, best first, not oriented."""
        reduced = reduce_image(image, self.max_image_side)
        pixels = upload_pixels(reduced.pixels, device_of(self.network))
        red, green, blue = pixels[0]
        # OpenCV's grey of 8 bits, exactly
        grey = ((9798 * red + 19235 * green + 3735 * blue + 16384) / 32768).floor() / 255
        sizes = [[round(side / 2 ** (level / 2)) for side in reduced.size] for level in range(_LEVELS)]
        sizes = sizes[:1] + [size for size in sizes[1:] if min(size) >= _LEAST_SIDE]
        maps = [self._search(resize_area(grey, width, height)) for width, height in sizes]
        return pixels, self._strongest(maps, sizes, reduced.size)

    @isolated()
    def orient(self, pixels: Tensor, found: FeatureTensors) -> FeatureTensors:
        """Keypoints of `locate`, or some of them, with orientations."""
        if found.scales is None:
            raise ValueError("the keypoints need scales: detect with mixed or sift")
        return replace(found, orientations=dominant_orientations(pixels, found.keypoints, found.scales))

    def _search(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of a level (h, w), enlarged to whole cells, and where they are those of keypoints."""
        height, width = grey.shape
        edges = (0, -width % SuperPointNetwork.stride, 0, -height % SuperPointNetwork.stride)
        whole = functional.pad(grey[None, None], edges, "replicate")
        scores = self.network.scores(self.network.backbone(whole))[0]
        rows, columns = (slice(self.border, max(side - self.border, self.border)) for side in grey.shape)
        peaks = torch.zeros_like(scores, dtype=torch.bool)
        peaks[rows, columns] = (scores == window_maximum(scores, self.nms_radius))[rows, columns]
        return scores, peaks & (scores > self.detection_threshold)

    def _strongest(
        self, maps: list[tuple[Tensor, Tensor]], sizes: list[list[int]], image_size: tuple[int, int]
    ) -> FeatureTensors:
        """Keypoints, best first, of levels of those (width, height), in pixels of the image.

        All levels at once: the places of peaks and their numbers are all that is waited for.
        """
        scores = torch.cat([level.flatten() for level, _ in maps])
        index = torch.cat([peaks.flatten() for _, peaks in maps]).nonzero()[:, 0]
        starts = list(accumulate((level.numel() for level, _ in maps[:-1]), initial=0))
        widths = [level.shape[1] for level, _ in maps]
        start, width = torch.tensor([starts, widths], dtype=torch.int64, device=scores.device)
        level = torch.bucketize(index, start, right=True) - 1
        # best first in each level, from the finest on
        order = scores[index].argsort(descending=True, stable=True)
        order = order[level[order].argsort(stable=True)]
        counts = level.bincount(minlength=len(maps)).tolist()
        parts = zip(torch.split(order, counts), _shares(counts, self.max_keypoints), strict=True)
        order = torch.cat([part[:count] for part, count in parts])
        index, level = index[order], level[order]
        place, width = index - start[level], width[level]
        steps = torch.stack([torch.ones_like(width), width], dim=1)  # to the next in a row and in a column
        near = [(scores[index[:, None] + way * steps] + 1e-4).log() for way in (-1, 0, 1)]
        points = torch.stack([place % width, place // width], dim=1) + peak_shift(*near)
        ratios = [[whole / side for whole, side in zip(image_size, size, strict=True)] for size in sizes]
        factors = torch.tensor(ratios, dtype=torch.float32, device=scores.device)[level]
        points, scales = (points + 0.5) * factors - 0.5, _SCALE * 2 ** (level.to(torch.float32) / 2)
        return FeatureTensors(points, scores[index], image_size, scales).best()


def resize_area(image: Tensor, width: int, height: int) -> Tensor:
    """An image (H, W) reduced to (height, width): each pixel the mean of the area that it covers."""
    for count in (height, width):  # rows, then columns, so that it is turned twice
        image = (image if count == len(image) else _mean_rows(image, count)).T
    return image


def _mean_rows(image: Tensor, count: int) -> Tensor:
    """(H, W) to (count, W), by small products of matrices, as few rows have a part in each."""
    height, block = len(image), 16
    rows = torch.arange(-(-count // block) * block, device=image.device).view(-1, block, 1)
    first = rows[:, :1] * height // count
    taken = torch.arange(-(-block * height // count) + 1, device=image.device)
    # in units of a row, from the first one of the block; whole numbers are exact where floats are not
    low, high = (((rows + end) * height - first * count).to(torch.float32) / count for end in (0, 1))
    share = (torch.minimum(taken + 1, high) - torch.maximum(taken, low)).clamp(min=0) * (count / height)
    means = share @ image[(first[:, 0] + taken).clamp(max=height - 1)]
    return means.flatten(0, 1)[:count]


def peak_shift(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """From maxima to the peaks of parabolas through them and their neighbours, at most half a step."""
    bend = (before + after - 2 * peak).clamp(max=-1e-6)
    return ((before - after) / (2 * bend)).clamp(-0.5, 0.5)


def _shares(found: list[int], limit: int | None) -> list[int]:
    """How many points of each level are taken; what a coarse level cannot fill goes to finer ones."""
    if limit is None:
        return found
    weights = [2.0 ** (-_DECAY / 2 * level) for level in range(len(found))]
    kept = [0] * len(found)
    for level in range(len(found) - 1, -1, -1):
        share = (limit - sum(kept)) * weights[level] / sum(weights[: level + 1])
        kept[level] = min(found[level], round(share))
    return kept


def dominant_orientations(pixels: Tensor, keypoints: Tensor, scales: Tensor) -> Tensor:
    """(N,) radians from the x axis towards the y axis, for keypoints (N, 2) and scales (N,) in pixels.

    The fullest bin of SIFT's histogram of gradients in the image (1, C, H, W), which count by their length
    and by a Gaussian about the keypoint; the histogram is smoothed, and a parabola places its peak (Lowe,
    2004, section 5).
    """
    offsets = torch.arange(_SIDE, dtype=torch.float32, device=pixels.device) - (_SIDE - 1) / 2
    fall = torch.exp(-0.5 * (offsets / (_SIDE / 4)) ** 2)
    grey, upright = pixels.mean(1, keepdim=True), torch.zeros_like(scales)
    found = [torch.zeros_like(scales[:0])]
    for patches in cut_patches(grey, keypoints, scales * _REACH, upright, _SIDE):
        across = functional.pad(patches[:, 0, :, 2:] - patches[:, 0, :, :-2], (1, 1))
        down = functional.pad(patches[:, 0, 2:] - patches[:, 0, :-2], (0, 0, 1, 1))
        weight = (torch.hypot(across, down) * fall[:, None] * fall).flatten(1)
        place = (torch.atan2(down, across) / (2 * torch.pi) * _BINS).flatten(1) % _BINS
        low = place.floor()
        share = place - low
        bins = torch.zeros(len(patches), _BINS, dtype=torch.float32, device=pixels.device)
        bins.scatter_add_(1, low.long() % _BINS, weight * (1 - share))
        bins.scatter_add_(1, (low.long() + 1) % _BINS, weight * share)
        for _ in range(2):
            bins = bins.roll(1, 1) / 4 + bins / 2 + bins.roll(-1, 1) / 4
        peak = bins.argmax(1, keepdim=True)
        before, highest, after = (bins.gather(1, (peak + step) % _BINS) for step in (-1, 0, 1))
        found.append((peak + peak_shift(before, highest, after))[:, 0] / _BINS * 2 * torch.pi)
    return torch.cat(found)


def weights_file() -> Path:
    """Where the weights that come with the package are."""
    return Path(str(importlib.resources.files("geomatch.keypoints") / "weights" / "tiny.safetensors"))


def load_network(path: Path) -> SuperPointNetwork:
    """The network with the weights in a file, ready to use."""
    return load_detector(path, lambda file: load_tensors(file)[0], "the embedded detector", new_network)


new_network = partial(SuperPointNetwork, _CHANNELS, _HEAD, describes=False)
"""The network with untrained weights."""

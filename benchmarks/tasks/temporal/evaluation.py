"""One video under one protocol: labels carried from the first frame on, and what is measured of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.tasks.temporal.davis import MaskedVideo, read_mask
from geomatch.benchmarks.tasks.temporal.jhmdb import PoseVideo
from geomatch.benchmarks.tasks.temporal.measures import boundary_accuracy, region_similarity
from geomatch.benchmarks.tasks.temporal.protocols import STRIDE, TemporalProtocol
from geomatch.benchmarks.tasks.temporal.spots import draw_spots, read_spots
from geomatch.dift import FeatureMap
from geomatch.dift.inputs import dense_size
from geomatch.errors import ImageError
from geomatch.images import Image, load_image
from geomatch.video.propagation import LabelPropagator, features_on, mask_labels, mask_of

Maps = Callable[[Sequence[Image]], Iterable[dict[str, FeatureMap]]]
"""Frames to their maps by cell, as a sweep has many of."""
AT_ONCE = 4
"""Frames that go through the network together."""
BOX = 0.6
"""Share of the diagonal of the joints' box to which PCK's alpha refers (Jabri et al.)."""


def evaluate_masks(
    video: MaskedVideo, protocol: TemporalProtocol, maps: Maps, cells: Sequence[str] = ("",)
) -> list[Row]:
    """A row per object and cell, with ``cell``, ``pair``, ``split``, ``J`` and ``F`` per frame, ``reason``.

    The first frame is given and the last one left out, as davis2017-evaluation does; the objects are those
    of the first frame.
    """
    truths = [read_mask(path) for path in video.masks]
    objects = range(1, int(truths[0].max()) + 1)
    size = (truths[0].shape[1], truths[0].shape[0])
    via, grid = _sizes(size, protocol)
    labels = mask_labels(truths[0], grid, smooth=False)
    found: dict[tuple[str, int], Row] = {
        (cell, number): {
            "cell": cell, "pair": f"{video.name} object-{number}", "split": "all", "J": [], "F": [],
            "reason": None,
        }
        for cell in cells
        for number in objects
    }  # fmt: skip
    measured = truths[1:-1]
    reason = None
    try:
        for number, carried in enumerate(
            _carried(video.frames[:-1], video.name, protocol, grid, labels, maps, size)
        ):
            for cell in cells:
                mask = mask_of(carried[cell], size, via)
                for one in objects:
                    row = found[cell, one]
                    row["J"].append(round(region_similarity(mask == one, measured[number] == one), 6))
                    row["F"].append(round(boundary_accuracy(mask == one, measured[number] == one), 6))
    except ImageError as error:
        reason = str(error)
    if reason is not None:
        zeros = [0.0] * len(measured)
        return [{**row, "J": zeros, "F": zeros, "reason": reason} for row in found.values()]
    return list(found.values())


def evaluate_poses(
    video: PoseVideo, protocol: TemporalProtocol, maps: Maps, cells: Sequence[str] = ("",)
) -> list[Row]:
    """A row per cell, with ``cell``, ``pair``, ``split``, ``errors`` of each joint, ``reason``.

    Errors are in units of 0.6 diagonals of the box about the joints of the frame. As Jabri et al. do, a joint
    that has no spot in a frame is left out there, of the box too.
    """
    rows: list[Row] = [
        {"cell": cell, "pair": f"{video.name} pose", "split": video.action, "errors": [], "reason": None}
        for cell in cells
    ]
    count = video.joints.shape[1]
    errors: dict[str, list[list[float]]] = {cell: [[] for _ in range(count)] for cell in cells}
    try:
        size = load_image(video.frames[0]).size
        _, grid = _sizes(size, protocol)
        spots = draw_spots(video.joints[0], size, grid)
        labels = torch.cat([(spots.sum(0, keepdim=True) == 0).float(), spots])
        carried = _carried(video.frames, video.name, protocol, grid, labels, maps, size)
        for number, frame in enumerate(carried, 1):
            truth = video.joints[number]
            for cell in cells:
                places = read_spots(frame[cell][1:], size)
                seen = np.flatnonzero(np.isfinite(places).all(axis=1))
                box = truth[seen] if len(seen) else truth
                length = BOX * max(1e-9, float(np.linalg.norm(box.max(0) - box.min(0))))
                for joint in seen:
                    apart = float(np.linalg.norm(places[joint] - truth[joint]))
                    errors[cell][joint].append(round(apart / length, 6))
    except ImageError as error:
        every = [[None] * (len(video.joints) - 1)] * count
        return [{**row, "errors": every, "reason": str(error)} for row in rows]
    return [{**row, "errors": errors[row["cell"]]} for row in rows]


def _sizes(size: tuple[int, int], protocol: TemporalProtocol) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the network's input, and (w, h) of the grid of labels."""
    width, height = dense_size(size, protocol.size, STRIDE, "short")
    return (width, height), (width // STRIDE, height // STRIDE)


def _carried(
    frames: Sequence[Path],
    name: str,
    protocol: TemporalProtocol,
    grid: tuple[int, int],
    labels: Tensor,
    maps: Maps,
    size: tuple[int, int],
) -> Iterator[dict[str, Tensor]]:
    """Labels (L, h, w) of every frame but the first, by cell."""
    carriers: dict[str, LabelPropagator] = {}
    for start in range(0, len(frames), AT_ONCE):
        images = [load_image(path) for path in frames[start : start + AT_ONCE]]
        for image in images:
            if image.size != size:
                raise ImageError(f"{image.name}: has {image.size} pixels, the first frame {size}")
        for found in maps(images):
            features = {cell: features_on(feature_map, grid) for cell, feature_map in found.items()}
            if carriers:
                yield {cell: carriers[cell].step(own) for cell, own in features.items()}
            else:
                config = protocol.propagation(name)
                carriers = {cell: LabelPropagator(config, own, labels) for cell, own in features.items()}

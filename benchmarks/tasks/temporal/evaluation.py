"""Methods on one video: labels carried from the first frame on, and what is measured of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geomatch.benchmarks.harness.task import Entry, Row
from geomatch.benchmarks.methods.method import Method
from geomatch.benchmarks.methods.together import dense_maps
from geomatch.benchmarks.tasks.temporal.davis import MaskedVideo, read_mask
from geomatch.benchmarks.tasks.temporal.jhmdb import PoseVideo
from geomatch.benchmarks.tasks.temporal.label_maps import draw_labels, read_labels
from geomatch.benchmarks.tasks.temporal.measures import boundary_accuracy, region_similarity
from geomatch.benchmarks.tasks.temporal.protocols import STRIDE, TemporalProtocol
from geomatch.dift.inputs import dense_size
from geomatch.errors import ImageError
from geomatch.images import load_image
from geomatch.store import Store
from geomatch.video.propagation import LabelPropagator, features_on, mask_labels, mask_of

AT_ONCE = 4  # frames that go through the network together
BOX = 0.6  # share of the diagonal of the joints' box to which PCK's alpha refers (Jabri et al.)


class VideoEvaluation:
    """Methods on one video; see `geomatch.benchmarks.harness.task.Evaluation`. Features are not cached.

    The context's maps by all methods of a group are in memory at once: of DAVIS with Stable Diffusion about
    0.5 GB for each method.
    """

    def __init__(self, video: MaskedVideo | PoseVideo, entries: Sequence[Entry], store: Store | None) -> None:
        """Start on a video."""
        self.video, self.entries = video, entries

    def prepare(self, protocol: TemporalProtocol, wanted: Sequence[int]) -> None:
        """See `Evaluation.prepare`."""

    def rows(self, protocol: TemporalProtocol, wanted: Sequence[int]) -> list[list[Row]]:
        """See `Evaluation.rows`."""
        methods = [self.entries[k].method.at_size(protocol.size) for k in wanted]
        if isinstance(self.video, MaskedVideo):
            return evaluate_masks(self.video, protocol, methods)
        return [[row] for row in evaluate_poses(self.video, protocol, methods)]


def evaluate_masks(
    video: MaskedVideo, protocol: TemporalProtocol, methods: Sequence[Method]
) -> list[list[Row]]:
    """Rows per method and object, with ``J`` and ``F`` per frame.

    The first frame is given and the last one left out, as davis2017-evaluation does; the objects are those
    of the first frame.
    """
    truths = [read_mask(path) for path in video.masks]
    objects = range(1, int(truths[0].max()) + 1)
    size = (truths[0].shape[1], truths[0].shape[0])
    via, grid = _sizes(size, protocol)
    labels = mask_labels(truths[0], grid, smooth=False)
    measured = truths[1:-1]
    rows: list[list[Row]] = [
        [
            {"pair": f"{video.name} object-{one}", "split": "all", "J": [], "F": [], "reason": None}
            for one in objects
        ]
        for _ in methods
    ]
    try:
        carried = _carried(video.frames[:-1], video.name, protocol, grid, labels, methods, size)
        for truth, found in zip(measured, carried, strict=True):
            for own, frame in zip(rows, found, strict=True):
                mask = mask_of(frame, size, via)
                for one, row in zip(objects, own, strict=True):
                    row["J"].append(round(region_similarity(mask == one, truth == one), 6))
                    row["F"].append(round(boundary_accuracy(mask == one, truth == one), 6))
    except ImageError as error:
        zeros = [0.0] * len(measured)
        return [[{**row, "J": zeros, "F": zeros, "reason": str(error)} for row in own] for own in rows]
    return rows


def evaluate_poses(video: PoseVideo, protocol: TemporalProtocol, methods: Sequence[Method]) -> list[Row]:
    """A row per method, with the ``errors`` of each joint.

    Errors are in units of 0.6 diagonals of the box about the joints of the frame. As Jabri et al. do, a joint
    that has no label in a frame is left out there, of the box too.
    """
    names = {"pair": f"{video.name} pose", "split": video.action}
    count = video.joints.shape[1]
    errors: list[list[list[float]]] = [[[] for _ in range(count)] for _ in methods]
    try:
        size = load_image(video.frames[0]).size
        _, grid = _sizes(size, protocol)
        joints = draw_labels(video.joints[0], size, grid)
        labels = torch.cat([(joints.sum(0, keepdim=True) == 0).float(), joints])
        carried = _carried(video.frames, video.name, protocol, grid, labels, methods, size)
        for truth, found in zip(video.joints[1:], carried, strict=True):
            for own, frame in zip(errors, found, strict=True):
                places = read_labels(frame[1:], size)
                seen = np.flatnonzero(np.isfinite(places).all(axis=1))
                box = truth[seen] if len(seen) else truth
                length = BOX * max(1e-9, float(np.linalg.norm(box.max(0) - box.min(0))))
                for joint in seen:
                    apart = float(np.linalg.norm(places[joint] - truth[joint]))
                    own[joint].append(round(apart / length, 6))
    except ImageError as error:
        every = [[None] * (len(video.joints) - 1)] * count
        return [{**names, "errors": every, "reason": str(error)} for _ in methods]
    return [{**names, "errors": own, "reason": None} for own in errors]


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
    methods: Sequence[Method],
    size: tuple[int, int],
) -> Iterator[list[Tensor]]:
    """Labels (L, h, w) of every frame but the first, by method."""
    carriers: list[LabelPropagator] = []
    for start in range(0, len(frames), AT_ONCE):
        images = [load_image(path) for path in frames[start : start + AT_ONCE]]
        for image in images:
            if image.size != size:
                raise ImageError(f"{image.name}: has {image.size} pixels, the first frame {size}")
        for found in zip(*dense_maps(methods, images), strict=True):
            features = [features_on(feature_map, grid) for feature_map in found]
            if carriers:
                yield [carrier.step(own) for carrier, own in zip(carriers, features, strict=True)]
            else:
                config = protocol.propagation(name)
                carriers = [LabelPropagator(config, own, labels) for own in features]

"""A method on one video: labels carried from the first frame on, and what is measured of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.benchmarks.harness.task import UNREADABLE, Entry, Row
from geomatch.benchmarks.methods.method import Method
from geomatch.benchmarks.tasks.temporal.data import Video, read_mask
from geomatch.benchmarks.tasks.temporal.protocols import STRIDE, TemporalProtocol
from geomatch.dift.inputs import dense_size
from geomatch.errors import ImageError
from geomatch.images import load_image, stream_images
from geomatch.store import Store
from geomatch.video.propagation import LabelPropagator, features_on, mask_labels, mask_of

AT_ONCE = 4  # frames that go through the network together
BOX = 0.6  # share of the diagonal of the joints' box to which PCK's alpha refers (Jabri et al.)
SIGMA = 0.5  # of the Gaussians, in cells
BEST = 3  # cells whose weighted mean is the place
TOLERANCE = 0.008  # how far a boundary may be off: a share of the image's diagonal, rounded up to pixels
RECALL = 0.5  # frames above it count as found
Mask = NDArray[np.bool_]


@dataclass
class VideoEvaluation:
    """Features are not cached; the context's maps are in memory, 0.5 GB of DAVIS with Stable Diffusion."""

    video: Video
    entry: Entry
    store: Store

    def rows(self, protocol: TemporalProtocol) -> list[Row]:
        """See `Evaluation`."""
        method = self.entry.method.at_size(protocol.size)
        rows = evaluate_masks if self.video.masks else evaluate_poses
        return rows(self.video, protocol, method)


def evaluate_masks(video: Video, protocol: TemporalProtocol, method: Method) -> list[Row]:
    """A row per object of the first frame, with ``J`` and ``F`` of all frames but the first and last."""
    truths = [read_mask(path) for path in video.masks]
    objects = range(1, int(truths[0].max()) + 1)
    size = (truths[0].shape[1], truths[0].shape[0])
    via, grid = _sizes(size, protocol)
    labels = mask_labels(truths[0], grid, smooth=False)
    rows: list[Row] = [{"pair": f"{video.name} object-{n}", "split": "all", "reason": None} for n in objects]
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in objects]
    try:
        carried = _carried(video.frames[:-1], video.name, protocol, grid, labels, method, size)
        for truth, frame in zip(truths[1:-1], carried, strict=True):
            mask = mask_of(frame, size, via)
            for one, (regions, boundaries) in zip(objects, found, strict=True):
                regions.append(round(region_similarity(mask == one, truth == one), 6))
                boundaries.append(round(boundary_accuracy(mask == one, truth == one), 6))
    except ImageError as error:
        return [{**row, "reason": f"{UNREADABLE}{error}"} for row in rows]
    return [{**row, "J": own[0], "F": own[1]} for row, own in zip(rows, found, strict=True)]


def evaluate_poses(video: Video, protocol: TemporalProtocol, method: Method) -> list[Row]:
    """One row with the ``errors`` of each joint, in units of 0.6 diagonals of the box about the joints.

    As Jabri et al. do, a joint that has no label in a frame is left out there, of the box too.
    """
    row: Row = {"pair": f"{video.name} pose", "split": video.action, "reason": None}
    errors: list[list[float]] = [[] for _ in range(video.joints.shape[1])]
    try:
        size = load_image(video.frames[0]).size
        _, grid = _sizes(size, protocol)
        joints = draw_labels(video.joints[0], size, grid)
        labels = torch.cat([(joints.sum(0, keepdim=True) == 0).float(), joints])
        carried = _carried(video.frames, video.name, protocol, grid, labels, method, size)
        for truth, frame in zip(video.joints[1:], carried, strict=True):
            places = read_labels(frame[1:], size)
            seen = np.flatnonzero(np.isfinite(places).all(axis=1))
            box = truth[seen] if len(seen) else truth
            length = BOX * max(1e-9, float(np.linalg.norm(box.max(0) - box.min(0))))
            for joint in seen:
                apart = float(np.linalg.norm(places[joint] - truth[joint]))
                errors[joint].append(round(apart / length, 6))
    except ImageError as error:
        return [{**row, "reason": f"{UNREADABLE}{error}"}]
    return [{**row, "errors": errors}]


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
    method: Method,
    size: tuple[int, int],
) -> Iterator[Tensor]:
    """Labels (L, h, w) of every frame but the first."""
    carrier: LabelPropagator | None = None
    for start in range(0, len(frames), AT_ONCE):
        images = list(stream_images(frames[start : start + AT_ONCE]))
        for image in images:
            if image.size != size:
                raise ImageError(f"{image.name}: has {image.size} pixels, the first frame {size}")
        for feature_map in method.maps(images):
            features = features_on(feature_map, grid)
            if carrier:
                yield carrier.step(features)
            else:
                carrier = LabelPropagator(protocol.propagation(name), features, labels)


def draw_labels(points: NDArray[np.floating], size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """(N, h, w): a Gaussian of 4x4 cells for each point (N, 2) of a (width, height) image, height one.

    As Jabri et al. (NeurIPS 2020, ``jhmdb.py``, ``test_utils.py``) have them: Gaussians lie on whole cells,
    and cell k is read as pixel k times the cell's width, so that places are up to half a cell off even where
    nothing moves; the exact ones are in `geomatch.video.propagation`.
    """
    places = np.asarray(points, np.float64) * (np.array(cells) / np.array(size))
    first = np.trunc(places - 3 * SIGMA).astype(int)
    last = np.trunc(places + 3 * SIGMA + 1).astype(int)
    across = np.arange(int(6 * SIGMA + 1)) - 2
    blob = np.exp(-(across[:, None] ** 2 + across**2) / (2 * SIGMA**2))
    drawn = np.zeros((len(places), cells[1], cells[0]), np.float32)
    for layer, low, high in zip(drawn, first, last, strict=True):
        begin, end = np.maximum(low, 0), np.minimum(high, cells)
        if (low >= cells).any() or (high < 0).any() or (begin >= end).any():
            continue
        (x0, y0), (x1, y1) = begin - low, end - low
        layer[begin[1] : end[1], begin[0] : end[0]] = blob[y0:y1, x0:x1]
    return torch.from_numpy(drawn)


def read_labels(labels: Tensor, size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 2) pixels of a (width, height) image where labels (N, h, w) lie; NaN for one without any height."""
    rows, columns = labels.shape[1:]
    values, places = labels.flatten(1).double().cpu().topk(min(BEST, rows * columns), dim=1)
    weights = values / values.sum(1, keepdim=True)
    cells = torch.stack([(weights * (places % columns)).sum(1), (weights * (places // columns)).sum(1)], 1)
    return np.asarray(cells.numpy() * (np.array(size) / np.array((columns, rows))), np.float64)


def region_similarity(found: Mask, truth: Mask) -> float:
    """J (Perazzi et al., CVPR 2016): intersection over union of masks (H, W); 1 when both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary_accuracy(found: Mask, truth: Mask) -> float:
    """F: harmonic mean of the shares of each boundary near the other one; both empty is 1, one empty is 0."""
    height, width = truth.shape
    reach = int(np.ceil(TOLERANCE * np.hypot(height, width)))
    boundary0, boundary1 = _boundary(found), _boundary(truth)
    count0, count1 = int(boundary0.sum()), int(boundary1.sum())
    if not count0 or not count1:
        return float(count0 == count1)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= reach**2).astype(np.uint8)
    near0 = cv2.dilate(boundary0.astype(np.uint8), disk) > 0
    near1 = cv2.dilate(boundary1.astype(np.uint8), disk) > 0
    precision, recall = int((boundary0 & near1).sum()) / count0, int((boundary1 & near0).sum()) / count1
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Mask) -> Mask:
    """(H, W) pixels that differ from the next one to the right, below, or slanting: at a mask's edge."""
    # the last row and column have neighbours along themselves only
    next_to = np.pad(mask, ((0, 1), (0, 1)), "edge")
    return (mask ^ next_to[:-1, 1:]) | (mask ^ next_to[1:, :-1]) | (mask ^ next_to[1:, 1:])


def statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over frames, share above `RECALL`, first less last quarter's mean, as in davis2017-evaluation."""
    array = np.asarray(values, np.float64)
    ends = np.round(np.linspace(1, len(array), 5) + 1e-10).astype(int) - 1
    first, last = array[: ends[1] + 1], array[ends[3] :]
    return float(array.mean()), float((array > RECALL).mean()), float(first.mean() - last.mean())

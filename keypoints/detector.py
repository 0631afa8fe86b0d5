"""What a detector is, how keypoints are thinned out, and the simplest detector, a grid."""

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.types import Features


class Detector(Protocol):
    """Finds keypoints in one image.

    Ours share ``max_keypoints``, the most that are kept, the best by score (None for all), and
    ``max_image_side``, the long side in pixels to which larger images are reduced for detection. Those with a
    network have ``device``, where it runs (`geomatch.devices.find_device`), and ``detect_tensors(image)``,
    the same as `FeatureTensors` there. One that works on the CPU and has a true ``reentrant`` may be called
    by several threads at a time, ahead of a network on an accelerator. ``in_views`` is another detector for
    tilted views (`geomatch.views`), of which there are many.
    """

    def detect(self, image: Image) -> Features:
        """Keypoints with scores, best first, in pixels of the image given."""


def runs_ahead(detector: object) -> bool:
    """True if several threads may call it, and it works on the CPU, ahead of a network elsewhere."""
    from geomatch.devices import device_kind  # loads torch

    device = getattr(detector, "device", "cpu")
    return bool(getattr(detector, "reentrant", False)) and device_kind(device) == "cpu"


def no_keypoints(image: Image) -> Features:
    """The features of an image without keypoints."""
    return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), image.size)


def check_limit(max_keypoints: int | None) -> None:
    """Raise ValueError unless the number of keypoints makes sense."""
    if max_keypoints is not None and max_keypoints < 1:
        raise ValueError(f"max_keypoints must be at least 1 or None, got {max_keypoints}")


def select_best(features: Features, max_keypoints: int | None = None, min_distance: float = 0.0) -> Features:
    """Best first, equal ones in order, at most ``max_keypoints``, ``min_distance`` pixels apart at least."""
    check_limit(max_keypoints)
    order = np.argsort(-features.scores, kind="stable")
    if min_distance > 0:
        order = order[spread(features.keypoints[order], min_distance)]
    return features[order[:max_keypoints]]


def spread(points: NDArray[np.floating], distance: float) -> NDArray[np.int64]:
    """Indices of points (N, 2) taken in order, unless one taken already lies nearer than ``distance``."""
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    taken: list[int] = []
    for index, (x, y) in enumerate(points.tolist()):
        column, row = int(x // distance), int(y // distance)
        around = product((column - 1, column, column + 1), (row - 1, row, row + 1))
        near = (other for cell in around for other in cells.get(cell, ()))
        if all((x - u) ** 2 + (y - v) ** 2 >= distance**2 for u, v in near):
            cells.setdefault((column, row), []).append((x, y))
            taken.append(index)
    return np.array(taken, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class GridDetector:
    """The centres of square cells, row by row, centred on the image, with score 1; they need no texture."""

    step: int = 16
    """Side of a cell in pixels, and so the least distance between keypoints."""
    max_keypoints: int | None = None
    """The step grows until no more keypoints than this remain; None for no limit."""
    reentrant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"step must be at least 1 pixel, got {self.step}")
        check_limit(self.max_keypoints)

    def spacing(self, size: tuple[int, int]) -> int:
        """The step in pixels in a (width, height) image, grown as far as ``max_keypoints`` asks."""
        step = self.step
        while self.max_keypoints is not None and math.prod(own // step for own in size) > self.max_keypoints:
            step += 1
        return step

    def detect(self, image: Image) -> Features:
        """The grid of the image; empty when no cell fits."""
        width, height = image.size
        step = self.spacing(image.size)
        columns, rows = width // step, height // step
        xs = (width - 1) / 2 + (np.arange(columns) - (columns - 1) / 2) * step
        ys = (height - 1) / 2 + (np.arange(rows) - (rows - 1) / 2) * step
        grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        return Features(grid.astype(np.float32), np.ones(len(grid), np.float32), image.size)

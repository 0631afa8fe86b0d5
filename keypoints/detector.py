"""What a detector is, and how every detector thins out its keypoints."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.images import Image
from geomatch.types import Features


class Detector(Protocol):
    """Finds keypoints in one image."""

    def detect(self, image: Image) -> Features:
        """Keypoints with scores, best first, in pixels of the image given."""
        ...


def no_keypoints(image: Image) -> Features:
    """The features of an image without keypoints."""
    return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), image.size)


def check_limit(max_keypoints: int | None) -> None:
    """Raise ValueError unless the number of keypoints makes sense."""
    if max_keypoints is not None and max_keypoints < 1:
        raise ValueError(f"max_keypoints must be at least 1 or None, got {max_keypoints}")


def select_best(features: Features, max_keypoints: int | None = None, min_distance: float = 0.0) -> Features:
    """Best first, none nearer than ``min_distance`` pixels to a better one, at most ``max_keypoints``.

    Equal scores keep the order they came in.
    """
    check_limit(max_keypoints)
    order = np.argsort(-features.scores, kind="stable")
    if min_distance > 0:
        order = order[_spread(features.keypoints[order], min_distance, max_keypoints)]
    return features[order[:max_keypoints]]


def _spread(points: NDArray[np.float32], distance: float, limit: int | None) -> NDArray[np.int64]:
    """Indices of points taken in order, unless one taken already lies nearer than ``distance``."""
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    taken: list[int] = []
    for index, (x, y) in enumerate(points.tolist()):
        column, row = int(x // distance), int(y // distance)
        near = (
            other
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for other in cells.get((i, j), ())
        )
        if all((x - u) ** 2 + (y - v) ** 2 >= distance**2 for u, v in near):
            cells.setdefault((column, row), []).append((x, y))
            taken.append(index)
            if len(taken) == limit:
                break
    return np.array(taken, dtype=np.int64)

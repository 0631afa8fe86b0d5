"""CUB-200-2011 (Wah et al., 2011) as its archive unpacks: 11,788 birds with boxes and 15 parts.

The paper averages over 14 splits of 25 images, which are not published with its code. Ours are stated and
made from the release alone: of the test images (``train_test_split.txt``) in the order of their numbers,
350 at equal distances, from the first to the last, dealt out to 14 splits in turn (fewer of fewer
images); all ordered pairs of a split's images that share a part. Numbers therefore compare among methods, not
with the paper.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, chosen_split, read_words
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair, put_together
from geomatch.errors import GeomatchError, reading

SPLITS, IMAGES = 14, 25
WORDS = "bird"


def read_cub(folder: Path, split: str | None = None) -> DataSet[Category]:
    """The pairs by split; boxes are those of the bird in the target."""
    chosen_split("cub", split)
    data = put_together(folder, _pairs(folder), 0)
    return replace(data, complete=len(data.units) == SPLITS and not data.broken)


def _pairs(folder: Path) -> Iterator[tuple[str, str, KeypointPair]]:
    names = {key: Path("images") / str(name) for key, (name,) in _rows(folder / "images.txt", 1, str)}
    boxes = dict(_rows(folder / "bounding_boxes.txt", 4))
    training = dict(_rows(folder / "train_test_split.txt", 1))
    parts: dict[str, dict[int, NDArray[np.float64]]] = {}  # the visible ones of each image
    for key, (part, *place, visible) in _rows(folder / "parts" / "part_locs.txt", 4):
        if visible:
            parts.setdefault(key, {})[int(part)] = np.array(place)
    for key in names:
        for table, name in ((boxes, "bounding_boxes.txt"), (training, "train_test_split.txt")):
            if key not in table:
                raise GeomatchError(f"{folder / name}:1: image {key} of images.txt is missing")
    tested = [key for key in sorted(names, key=int) if training[key][0] == 0 and key in parts]
    count = min(len(tested), SPLITS * IMAGES)
    chosen = [tested[place] for place in np.linspace(0, len(tested) - 1, count).round().astype(int)]
    splits = min(SPLITS, max(1, len(chosen) // IMAGES))
    for split in range(splits):
        for key0, key1 in permutations(chosen[split::splits], 2):
            seen = [k for k in parts[key0] if k in parts[key1]]
            if not seen:
                continue
            points0, points1 = (np.array([parts[key][k] for k in seen]) for key in (key0, key1))
            side = float(max(boxes[key1][2:]))
            if not side > 0:
                where = f"{folder / 'bounding_boxes.txt'}:{list(boxes).index(key1) + 1}"
                raise GeomatchError(f"{where}: a box without extent: {boxes[key1]}")
            pair = KeypointPair(f"{key0}-{key1}", names[key0], names[key1], points0, points1, side)
            yield f"split{split + 1:02d}", WORDS, pair


def _rows(path: Path, columns: int, kind: type = float) -> Iterator[tuple[str, NDArray[Any]]]:
    """The number that a row begins with, and so many other columns."""
    for where, (key, *rest) in read_words(path):
        with reading(where, "row"):
            values: NDArray[Any] = np.array(rest, kind)
        if not key.isdigit() or len(rest) != columns or (kind is float and not np.isfinite(values).all()):
            raise GeomatchError(f"{where}: expected a number and {columns} columns, got {rest}")
        yield key, values

"""CUB-200-2011 (Wah et al., 2011) as its archive unpacks: 11,788 birds with boxes and 15 parts.

The paper averages over 14 splits of 25 images, which are not published with its code. Ours are stated and
made from the release alone: of the test images (``train_test_split.txt``) in the order of their numbers,
350 at equal distances, from the first to the last, dealt out to 14 splits in turn (fewer of fewer
images); all ordered pairs of a split's images that share a part. Numbers therefore compare among methods, not
with the paper.
"""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, read_lines
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair, put_together
from geomatch.errors import GeomatchError

SPLITS, IMAGES = 14, 25
WORDS = "bird"


def read_cub(folder: Path) -> DataSet[Category]:
    """The pairs by split; boxes are those of the bird in the target."""
    data = put_together(folder, _pairs(folder), 0)
    whole = len(data.units) == SPLITS and not data.broken
    return DataSet(folder, data.units, data.broken, whole)


def _pairs(folder: Path) -> Iterator[tuple[str, str, KeypointPair]]:
    names = {key: Path("images") / rest[0] for key, rest in _table(folder / "images.txt", 1).items()}
    boxes = _table(folder / "bounding_boxes.txt", 4)
    training = _table(folder / "train_test_split.txt", 1)
    parts = _parts(folder / "parts" / "part_locs.txt")
    for key in names:
        for table, name in ((boxes, "bounding_boxes.txt"), (training, "train_test_split.txt")):
            if key not in table:
                raise GeomatchError(f"{folder / name}:1: image {key} of images.txt is missing")
    tested = [key for key in sorted(names, key=int) if training[key][0] == "0" and key in parts]
    count = min(len(tested), SPLITS * IMAGES)
    chosen = [tested[place] for place in np.linspace(0, len(tested) - 1, count).round().astype(int)]
    splits = min(SPLITS, max(1, len(chosen) // IMAGES))
    for split in range(splits):
        for key0, key1 in permutations(chosen[split::splits], 2):
            seen = [k for k in parts[key0] if k in parts[key1]]
            if not seen:
                continue
            points0, points1 = (np.array([parts[key][k] for k in seen]) for key in (key0, key1))
            side = max(float(length) for length in boxes[key1][2:])
            if not side > 0:
                where = f"{folder / 'bounding_boxes.txt'}:{list(boxes).index(key1) + 1}"
                raise GeomatchError(f"{where}: a box without extent: {' '.join(boxes[key1])}")
            pair = KeypointPair(f"{key0}-{key1}", names[key0], names[key1], points0, points1, side)
            yield f"split{split + 1:02d}", WORDS, pair


def _table(path: Path, columns: int) -> dict[str, list[str]]:
    """Rows of a number and so many columns, by the number."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), 1):
        key, *rest = line.split(maxsplit=columns) if line.strip() else ("",)
        if not key:
            continue
        if not key.isdigit() or len(rest) != columns or (columns > 1 and not _finite(rest)):
            raise GeomatchError(f"{path}:{number}: expected a number and {columns} columns, got {line!r}")
        found[key] = rest
    return found


def _parts(path: Path) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Visible parts of each image."""
    found: dict[str, dict[int, NDArray[np.float64]]] = {}
    for number, line in enumerate(read_lines(path), 1):
        row = line.split()
        if not row:
            continue
        if len(row) != 5 or not row[0].isdigit() or not row[1].isdigit() or not _finite(row[2:]):
            raise GeomatchError(f"{path}:{number}: expected image, part, x, y, visible, got {line!r}")
        if float(row[4]):
            found.setdefault(row[0], {})[int(row[1])] = np.array([float(row[2]), float(row[3])])
    return found


def _finite(words: list[str]) -> bool:
    try:
        return bool(np.isfinite([float(word) for word in words]).all())
    except ValueError:
        return False

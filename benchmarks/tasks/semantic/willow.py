"""PF-WILLOW (Ham et al., CVPR 2016) with the pair list that the field uses (Rocco et al., CVPR 2017).

The folder ``PF-dataset`` has a folder per class (``car(G)``, ``duck(S)``, ...) and ``test_pairs_pf.csv``:
two image names, then ten x and ten y of the first image, then of the second; 900 pairs.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geomatch.benchmarks.harness.data import DataSet, chosen_split, read_lines
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair, checked_points, put_together
from geomatch.errors import GeomatchError, reading

PAIRS = 900
POINTS = 10
_WORDS = {"winebottle": "wine bottle"}


def read_willow(folder: Path, split: str | None = None) -> DataSet[Category]:
    """The pairs by class; the box is that of the target's points, as in Rocco's and Min's code."""
    chosen_split("willow", split)
    return put_together(folder, _pairs(folder), PAIRS)


def _pairs(folder: Path) -> Iterator[tuple[str, str, KeypointPair]]:
    path = folder / "test_pairs_pf.csv"
    with reading(path, "list of pairs"):
        rows = csv.reader(read_lines(path))
        numbered = [(rows.line_num, row) for row in rows]
    for number, row in numbered:
        where = f"{path}:{number}"
        if number == 1 or not row:
            continue
        if len(row) != 2 + 4 * POINTS:
            raise GeomatchError(f"{where}: expected {2 + 4 * POINTS} columns, got {len(row)}")
        numbers = np.array([row[2 + POINTS * k : 2 + POINTS * (k + 1)] for k in range(4)])
        points0 = checked_points(where, numbers[:2].T)
        points1 = checked_points(where, numbers[2:].T)
        # the list was written beside the folder PF-dataset
        images = [Path(*Path(name).parts[-2:]) for name in row[:2]]
        if any(len(path.parts) != 2 or ".." in path.parts for path in images):
            raise GeomatchError(f"{where}: expected images as CLASS/NAME, got {row[0]} and {row[1]}")
        name = images[0].parts[0]
        side = float((points1.max(0) - points1.min(0)).max())
        if not side > 0:
            raise GeomatchError(f"{where}: all points of the target are one")
        word = name.partition("(")[0].lower()
        pair = f"{images[0].stem}-{images[1].stem}"
        yield name, _WORDS.get(word, word), KeypointPair(pair, images[0], images[1], points0, points1, side)

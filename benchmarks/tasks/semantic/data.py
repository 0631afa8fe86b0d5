"""Pairs of images of one category with corresponding points: SPair-71k, PF-WILLOW and CUB-200-2011."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.data import DataSet, absent, chosen_split, read_lines, read_words, sums_of
from geomatch.errors import GeomatchError, reading
from geomatch.files import digest_of, read_json

Listed = Iterator[tuple[str, str, "KeypointPair"]]
"""Pairs with the name of their category, and what a prompt calls it."""
SPAIR_PAIRS = {"test": 12_234, "val": 5_384, "trn": 53_340}
WILLOW_PAIRS, POINTS = 900, 10
CUB_SPLITS, CUB_IMAGES = 14, 25
_WORDS = {"winebottle": "wine bottle"}


@dataclass(frozen=True, eq=False)
class KeypointPair:
    """Two images that show things of one category."""

    name: str  # without spaces, of its own within the category
    image0: Path  # the source, relative to the folder of the data set
    image1: Path  # the target, relative to the folder of the data set
    points0: NDArray[np.float64]  # (N, 2) pixels of the source
    points1: NDArray[np.float64]  # (N, 2) the same parts in the target
    box_side: float
    """The longer side of the target's box in pixels; see each loader for what the box is about."""


@dataclass(frozen=True, eq=False)
class Category:
    """All pairs of one category; what is evaluated alone."""

    folder: Path  # the data set's
    name: str  # without spaces
    words: str  # what a prompt calls it
    pairs: tuple[KeypointPair, ...]

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """The images of all pairs, each once, relative to the folder."""
        return tuple(dict.fromkeys(path for pair in self.pairs for path in (pair.image0, pair.image1)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over annotations and images; a missing image counts as missing."""
        sums = sums_of(self.folder / path for path in self.images)
        points = [
            [pair.name, str(pair.image0), str(pair.image1), pair.points0.tolist(), pair.points1.tolist(),
             pair.box_side]
            for pair in self.pairs
        ]  # fmt: skip
        return digest_of([self.name, self.words, points, sums])


def read_semantic(name: str, folder: Path, split: str | None = None) -> DataSet[Category]:
    """The pairs of ``spair``, ``willow`` or ``cub`` by category; missing images are listed as broken."""
    split = chosen_split(name, split, SPAIR_PAIRS if name == "spair" else ())
    listed = {"spair": _spair, "willow": _willow, "cub": _cub}[name]
    grouped: dict[tuple[str, str], list[KeypointPair]] = {}
    for category, words, pair in listed(folder, split):
        grouped.setdefault((category, words), []).append(pair)
    if not grouped:
        raise GeomatchError(f"{folder}: no annotated pair there")
    for (category, _), own in grouped.items():
        twice = [pair for pair, count in Counter(pair.name for pair in own).items() if count > 1]
        if twice:
            raise GeomatchError(f"{folder}: the pair {twice[0]} of {category} is listed twice")
    categories = [Category(folder, one, words, tuple(own)) for (one, words), own in sorted(grouped.items())]
    images = dict.fromkeys(folder / path for category in categories for path in category.images)
    missing = absent(folder, images, "no such image")
    found = len(categories) if name == "cub" else sum(len(category.pairs) for category in categories)
    whole = {"cub": CUB_SPLITS, "willow": WILLOW_PAIRS}.get(name) or SPAIR_PAIRS[split]
    return DataSet(folder, categories, missing, found == whole and not missing, split or None)


def _spair(folder: Path, split: str) -> Listed:
    """SPair-71k (Min et al., 2019) as its archive unpacks; boxes are those of the object in the target.

    ``Layout/large/<split>.txt`` lists the pairs, ``PairAnnotation/<split>/<pair>.json`` has their points and
    boxes, ``JPEGImages/<category>/`` the photographs. The paper evaluates the split ``test``.
    """
    layout = folder / "Layout" / "large" / f"{split}.txt"
    for where, words in read_words(layout):
        name = " ".join(words)
        path = folder / "PairAnnotation" / split / f"{name}.json"
        if not path.is_file():
            raise GeomatchError(f"{where}: {path} is missing")
        content = read_json(path, "annotation")
        with reading(path, "annotation"):
            category, (left, top, right, bottom) = content["category"], content["trg_bndbox"]
            side = float(max(right - left, bottom - top))
            source, target = content["src_kps"], content["trg_kps"]
            files = content["src_imname"], content["trg_imname"]
        if not isinstance(category, str) or not re.fullmatch(r"[^/\s]+", category):
            raise GeomatchError(f"{path}:1: category must be a word, got {category!r}")
        points0 = checked_points(f"{path}:1: src_kps", source)
        points1 = checked_points(f"{path}:1: trg_kps", target, len(points0))
        if not side > 0:
            raise GeomatchError(f"{path}:1: trg_bndbox has no extent: {content['trg_bndbox']}")
        images = [Path("JPEGImages") / category / str(file) for file in files]
        pair_name = "-".join(name.partition(":")[0].split("-")[1:]) or name
        yield category, category, KeypointPair(pair_name, images[0], images[1], points0, points1, side)


def _willow(folder: Path, _: str) -> Listed:
    """PF-WILLOW (Ham et al., CVPR 2016) with the pair list that the field uses (Rocco et al., CVPR 2017).

    The folder ``PF-dataset`` has a folder per class (``car(G)``, ``duck(S)``, ...) and ``test_pairs_pf.csv``:
    two image names, then ten x and ten y of the first image, then of the second. The box is that of the
    target's points, as in Rocco's and Min's code.
    """
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


def _cub(folder: Path, _: str) -> Listed:
    """CUB-200-2011 (Wah et al., 2011) as its archive unpacks, with boxes of the birds and 15 parts.

    The paper averages over 14 splits of 25 images, which are not published with its code. Ours are stated and
    made from the release alone: of the test images (``train_test_split.txt``) in the order of their numbers,
    350 at equal distances, from the first to the last, dealt out to 14 splits in turn (fewer of fewer
    images); all ordered pairs of a split's images that share a part. Numbers therefore compare among methods,
    not with the paper.
    """
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
    count = min(len(tested), CUB_SPLITS * CUB_IMAGES)
    chosen = [tested[place] for place in np.linspace(0, len(tested) - 1, count).round().astype(int)]
    splits = min(CUB_SPLITS, max(1, len(chosen) // CUB_IMAGES))
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
            yield f"split{split + 1:02d}", "bird", pair


def _rows(path: Path, columns: int, kind: type = float) -> Iterator[tuple[str, NDArray[Any]]]:
    """The number that a row begins with, and so many other columns."""
    for where, (key, *rest) in read_words(path):
        with reading(where, "row"):
            values: NDArray[Any] = np.array(rest, kind)
        if not key.isdigit() or len(rest) != columns or (kind is float and not np.isfinite(values).all()):
            raise GeomatchError(f"{where}: expected a number and {columns} columns, got {rest}")
        yield key, values


def checked_points(where: str, points: object, count: int | None = None) -> NDArray[np.float64]:
    """(N, 2) finite numbers, at least one point."""
    with reading(where, "list of points"):
        array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or not np.isfinite(array).all():
        raise GeomatchError(f"{where}: expected points as (N, 2) finite numbers, got shape {array.shape}")
    if count is not None and len(array) != count:
        raise GeomatchError(f"{where}: {len(array)} points, but {count} in the other image")
    return array

"""SPair-71k (Min et al., 2019) as its archive unpacks.

``Layout/large/<split>.txt`` lists the pairs, ``PairAnnotation/<split>/<pair>.json`` has their points and
boxes, ``JPEGImages/<category>/`` the photographs. The paper evaluates the split ``test``, 12,234 pairs.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from geomatch.benchmarks.harness.data import DataSet, chosen_split, read_words
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair, checked_points, put_together
from geomatch.errors import GeomatchError, reading
from geomatch.files import read_json

SPLITS = {"test": 12_234, "val": 5_384, "trn": 53_340}  # numbers of pairs


def read_spair(folder: Path, split: str | None = None) -> DataSet[Category]:
    """The pairs of a split, by category; boxes are those of the object in the target."""
    split = chosen_split("spair", split, SPLITS)
    return put_together(folder, _pairs(folder, split), SPLITS[split], split)


def _pairs(folder: Path, split: str) -> Iterator[tuple[str, str, KeypointPair]]:
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

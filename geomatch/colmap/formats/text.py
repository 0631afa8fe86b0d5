"""COLMAP's text files: features of one image per file, and a list of matches.

``feature_importer`` accepts 128 descriptor columns only, so each keypoint gets as many zeros.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.colmap.conventions import from_colmap, to_colmap
from geomatch.errors import FeaturesError, reading
from geomatch.images import raw_size
from geomatch.types import Features, Matches

_COLUMNS = 128
_ZEROS = " 0" * _COLUMNS + "\n"


def write(correspondences: Correspondences, folder: Path) -> None:
    """Write ``features/<name>.txt`` and ``matches.txt``."""
    for name, features in correspondences.features.items():
        path = folder / "features" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = to_colmap(features.keypoints)
        scales = np.ones(len(rows)) if features.scales is None else features.scales
        angles = np.zeros(len(rows)) if features.orientations is None else features.orientations
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{len(rows)} {_COLUMNS}\n")
            for (x, y), scale, angle in zip(rows.tolist(), scales.tolist(), angles.tolist(), strict=True):
                file.write(f"{x:.9g} {y:.9g} {scale:.6g} {angle:.6g}{_ZEROS}")
    with (folder / "matches.txt").open("w", encoding="utf-8") as file:
        for pair in correspondences.pairs:
            file.write(f"{pair.name0} {pair.name1}\n")
            np.savetxt(file, pair.matches.indices, fmt="%d")
            file.write("\n")


def read(folder: Path, images: Path) -> Correspondences:
    """Read what `write` wrote, or another program for COLMAP's importers; descriptors are left."""
    root = folder / "features" if (folder / "features").is_dir() else folder
    files = {path.relative_to(root).as_posix()[:-4]: path for path in sorted(root.rglob("*.txt"))}
    if root == folder:
        files.pop("matches", None)

    def load(name: str) -> Features:
        path = files[name]
        with reading(path, "file of features in COLMAP's text", FeaturesError):
            with path.open(encoding="utf-8") as file:
                count = int(file.readline().split()[0])
                rows = [line.split(maxsplit=4)[:4] for line in file if line.strip()]
            if len(rows) != count:
                raise ValueError(f"{len(rows)} rows, {count} are announced")
            table = np.array(rows, np.float64).reshape(-1, 4)
            # the scale of the text file has another meaning than ours, and may be anything
            points, scores = from_colmap(table[:, :2]), np.ones(count, np.float32)
            return Features(points, scores, raw_size(images / name))

    return Correspondences(LazyFeatures(list(files), load), LazyPairs(lambda: _pairs(folder / "matches.txt")))


def _pairs(path: Path) -> Iterator[MatchedPair]:
    with reading(path, "list of matches", FeaturesError), path.open(encoding="utf-8") as file:
        for blank, lines in groupby(enumerate(file, 1), lambda entry: not entry[1].strip()):
            if blank:
                continue
            found = [(f"{path}:{number}", line.split()) for number, line in lines]
            for place, parts in found:
                if len(parts) != 2:
                    raise FeaturesError(f"{place}: expected two names or numbers, got {' '.join(parts)!r}")
            rows = []
            for place, parts in found[1:]:
                with reading(place, "match", FeaturesError):
                    rows.append([int(part) for part in parts])
            (name0, name1), indices = found[0][1], np.array(rows, np.int64).reshape(-1, 2)
            yield MatchedPair(name0, name1, Matches(indices, np.ones(len(rows), np.float32)))

"""Correspondences in other formats than the database, written and read."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair, checked
from geomatch.colmap import sqlite
from geomatch.colmap.cameras import CAMERAS, image_sizes
from geomatch.colmap.conventions import DIAMETER, from_colmap, to_colmap
from geomatch.colmap.formats import hloc
from geomatch.errors import FeaturesError, reading
from geomatch.files import new_folder, read_json
from geomatch.images import raw_size
from geomatch.types import Features, Matches

Format = Literal["text", "hloc", "npz"]
_COLUMNS = 128
"""COLMAP's ``feature_importer`` accepts so many of a descriptor only: each keypoint gets as many zeros."""
_ZEROS = " 0" * _COLUMNS + "\n"
UNREADABLE = "images that cannot be read"
"""Counted by `write_correspondences`."""


def write_correspondences(
    correspondences: Correspondences, folder: Path, form: Format, images: Path
) -> dict[str, int]:
    """Write to a new folder, whole or not at all; return what was left out, counted.

    - ``text``: ``features/<name>.txt`` and ``matches.txt``, for COLMAP's ``feature_importer`` and
      ``matches_importer --match_type raw``; half a pixel is added, descriptors are zeros;
    - ``hloc``: ``features.h5``, ``matches.h5`` and ``pairs.txt`` of the Hierarchical-Localization toolbox;
    - ``npz``: ours, ``features/<name>.npz`` and ``matches/<number>.npz`` as `Features.save` and
      `Matches.save` write them, and ``pairs.json``.

    Raises FeaturesError for keypoints or matches that cannot be right, or that the format cannot hold,
    FileExistsError when there is something at ``folder``, MissingDependencyError without h5py.
    """
    check_names(correspondences.features, form)
    writers = {"text": _write_text, "hloc": hloc.write, "npz": _write_npz}
    sizes, unreadable = image_sizes(images, correspondences.features, CAMERAS)
    skipped = Counter({UNREADABLE: len(unreadable)} if unreadable else {})
    with new_folder(folder) as temporary:
        writers[form](checked(correspondences, sizes, skipped), temporary)
    return dict(skipped)


def check_names(names: Iterable[str], form: Format) -> None:
    """Raise `FeaturesError` unless the format can hold the images' names."""
    spaced = [name for name in names if len(name.split()) != 1]
    if spaced and form != "npz":
        raise FeaturesError(f"{spaced[0]!r}: lists of pairs cannot hold spaces; rename {len(spaced)} images")


def is_database(path: Path | None) -> bool:
    """True for a file of SQLite, as COLMAP's databases are."""
    if path is None or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(sqlite.HEADER)) == sqlite.HEADER


def read_correspondences(
    path: Path, images: Path, features: Path | None = None, matches: Path | None = None
) -> Correspondences:
    """Read what another program, or `write_correspondences`, wrote.

    Args:
        path: a COLMAP database, or a folder with the files of `write_correspondences`, or an h5 file of
            hloc's or deep-image-matching's features with ``matches.h5`` (or the only other
            ``*matches*.h5``) beside it.
        images: the folder of images, whose sizes text files do not hold.
        features: h5 file of features of another name than ``features.h5``; may be relative to ``path``.
        matches: that of matches.

    Raises FeaturesError when there is no such format, or the files make no sense.
    """
    if is_database(path) and not (features or matches):
        return sqlite.read(path)
    features, matches = (
        one and (one if one.is_file() or not path.is_dir() else path / one) for one in (features, matches)
    )
    features = features or (path / "features.h5" if path.is_dir() else path)
    if matches or (features.is_file() and features.suffix in (".h5", ".hdf5")):
        return hloc.read(features, images, matches)
    if (path / "pairs.json").is_file():
        return _read_npz(path)
    if (path / "matches.txt").is_file():
        return _read_text(path, images)
    known = "a COLMAP database, an h5 file, or a folder with features.h5, pairs.json or matches.txt"
    raise FeaturesError(f"{path}: expected {known}; h5 files of other names: --features and --matches")


def _write_npz(correspondences: Correspondences, folder: Path) -> None:
    for name, features in correspondences.features.items():
        path = folder / "features" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        features.save(path)
    (folder / "matches").mkdir()
    names = []
    for number, pair in enumerate(correspondences.pairs):
        pair.matches.save(folder / "matches" / f"{number:06d}.npz")
        names.append([pair.name0, pair.name1])
    content = {"images": list(correspondences.features), "pairs": names}
    (folder / "pairs.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_npz(folder: Path) -> Correspondences:
    path = folder / "pairs.json"
    what = "list of images and pairs"
    content = read_json(path, what, FeaturesError)
    with reading(path, what, FeaturesError):
        images = [str(name) for name in content["images"]]
        pairs = [(str(a), str(b)) for a, b in content["pairs"]]

    def matches() -> Iterator[MatchedPair]:
        for number, (a, b) in enumerate(pairs):
            yield MatchedPair(a, b, Matches.load(folder / "matches" / f"{number:06d}.npz"))

    features = LazyFeatures(images, lambda name: Features.load(folder / "features" / f"{name}.npz"))
    return Correspondences(features, LazyPairs(matches, len(pairs)))


def _write_text(correspondences: Correspondences, folder: Path) -> None:
    for name, features in correspondences.features.items():
        path = folder / "features" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = to_colmap(features.keypoints)
        scales = np.ones(len(rows)) if features.scales is None else features.scales / DIAMETER
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


def _read_text(folder: Path, images: Path) -> Correspondences:
    """Read what `_write_text` wrote, or another program for COLMAP's importers; descriptors are left."""
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

    pairs = LazyPairs(lambda: _listed(folder / "matches.txt"))
    return Correspondences(LazyFeatures(list(files), load), pairs)


def _listed(path: Path) -> Iterator[MatchedPair]:
    with reading(path, "list of matches", FeaturesError), path.open(encoding="utf-8") as file:
        for blank, lines in groupby(enumerate(file, 1), lambda entry: not entry[1].strip()):
            if blank:
                continue
            names, rows = list[str](), list[tuple[int, int]]()
            for number, line in lines:
                with reading(f"{path}:{number}", "line of two names or numbers", FeaturesError):
                    first, second = line.split()
                    if names:
                        rows.append((int(first), int(second)))
                    else:
                        names = [first, second]
            indices = np.array(rows, np.int64).reshape(-1, 2)
            yield MatchedPair(names[0], names[1], Matches(indices, np.ones(len(rows), np.float32)))

"""Correspondences in other formats than the database, written and read."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair, checked
from geomatch.colmap import sqlite
from geomatch.colmap.cameras import image_sizes
from geomatch.colmap.formats import hloc, text
from geomatch.errors import FeaturesError, reading
from geomatch.files import new_folder, read_json
from geomatch.types import Features, Matches

Format = Literal["text", "hloc", "npz"]
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

    Raises:
        FeaturesError: for keypoints or matches that cannot be right, or that the format cannot hold.
        FileExistsError: when there is something at ``folder``.
        MissingDependencyError: when h5py is not installed.
    """
    writers = {"text": text.write, "hloc": hloc.write, "npz": _write_npz}
    sizes, unreadable = image_sizes(images, correspondences.features, "auto")
    skipped = Counter({UNREADABLE: len(unreadable)} if unreadable else {})
    spaced = [name for name in sizes if len(name.split()) != 1]
    if spaced and form != "npz":
        raise FeaturesError(f"{spaced[0]!r}: lists of pairs cannot hold spaces; rename {len(spaced)} images")
    with new_folder(folder) as temporary:
        writers[form](checked(correspondences, sizes, skipped), temporary)
    return dict(skipped)


def read_correspondences(path: Path, images: Path) -> Correspondences:
    """Read what another program, or `write_correspondences`, wrote.

    Args:
        path: a COLMAP database, or a folder with the files of `write_correspondences`, or an h5 file of
            hloc's features with ``matches.h5`` (or the only other ``*matches*.h5``) beside it.
        images: the folder of images, whose sizes text files do not hold.

    Raises:
        FeaturesError: when there is no such format, or the files make no sense.
    """
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(len(sqlite.HEADER)) == sqlite.HEADER:
                return sqlite.read(path)
    features = path / "features.h5" if path.is_dir() else path
    if features.is_file() and features.suffix in (".h5", ".hdf5"):
        return hloc.read(features, images)
    if (path / "pairs.json").is_file():
        return _read_npz(path)
    if (path / "matches.txt").is_file():
        return text.read(path, images)
    known = "a COLMAP database, an h5 file, or a folder with features.h5, pairs.json or matches.txt"
    raise FeaturesError(f"{path}: expected {known}")


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

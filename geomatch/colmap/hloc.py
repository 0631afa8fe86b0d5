"""The h5 files of hloc (Hierarchical-Localization): features, matches and a list of pairs.

Pixel centres are whole numbers in them, as with us; hloc adds the half itself
when it writes a database. Coordinates are written as float32, indices as
int32. The matches' groups are named by image names with ``/`` replaced by
``-``, which may collide; then nothing is written.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.collection.folder import raw_size
from geomatch.errors import FeaturesError
from geomatch.optional import require
from geomatch.types import Features, Matches


def _h5py() -> Any:
    return require("h5py", "hloc", "reading and writing files of hloc")


def write(correspondences: Correspondences, folder: Path) -> None:
    """Write ``features.h5``, ``matches.h5`` and ``pairs.txt``.

    Raises:
        FeaturesError: when two names are equal after ``/`` is replaced, or hold spaces.
    """
    names = list(correspondences.features)
    keys = _keys(names)
    spaced = [name for name in names if len(name.split()) != 1]
    if spaced:
        raise FeaturesError(f"{spaced[0]!r}: hloc's list of pairs cannot hold spaces; rename the image")
    h5py = _h5py()
    lengths = {}
    with h5py.File(folder / "features.h5", "w") as file:
        for name, features in correspondences.features.items():
            lengths[name] = len(features)
            group = file.create_group(name)
            group["keypoints"] = features.keypoints
            group["keypoints"].attrs["uncertainty"] = 1.0
            group["scores"] = features.scores
            group["image_size"] = np.array(features.image_size)
            if features.descriptors is not None:
                group["descriptors"] = features.descriptors.T
    back = {name: key for key, name in keys.items()}
    lines = []
    with h5py.File(folder / "matches.h5", "w") as file:
        for pair in correspondences.pairs:
            matches0 = np.full(lengths[pair.name0], -1, np.int32)
            scores0 = np.zeros(lengths[pair.name0], np.float32)
            i, j = pair.matches.indices.T
            if len(np.unique(i)) < len(i):
                raise FeaturesError(
                    f"{pair.name0} - {pair.name1}: a keypoint has several matches, which hloc cannot hold"
                )
            matches0[i], scores0[i] = j, pair.matches.similarity
            group = file.create_group(f"{back[pair.name0]}/{back[pair.name1]}")
            group["matches0"] = matches0
            group["matching_scores0"] = scores0
            lines.append(f"{pair.name0} {pair.name1}\n")
    (folder / "pairs.txt").write_text("".join(lines), encoding="utf-8")


def _keys(names: list[str]) -> dict[str, str]:
    """Image names by the names that hloc gives them in the matches file."""
    keys: dict[str, str] = {}
    for name in names:
        other = keys.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise FeaturesError(
                f"{other!r} and {name!r} have one name in hloc's files, which replace '/' by '-'; rename one"
            )
    return keys


def matches_beside(features: Path) -> Path:
    """The file of matches in the folder of a file of features.

    Raises:
        FeaturesError: when there is none, or more than one.
    """
    usual = features.with_name("matches.h5")
    found = [usual] if usual.is_file() else sorted(features.parent.glob("*matches*.h5"))
    if len(found) != 1:
        raise FeaturesError(f"{features.parent}: expected one file matches.h5 there, found {len(found)}")
    return found[0]


def read(features: Path, matches: Path, images: Path) -> Correspondences:
    """Features and matches of hloc, read as they are asked for.

    Args:
        features: h5 file with a group per image.
        matches: h5 file with a group per pair.
        images: the folder, for sizes that the features do not hold.

    Raises:
        FeaturesError: when a file makes no sense.
    """
    h5py = _h5py()
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and "keypoints" in item:
            names.append(name)

    try:
        with h5py.File(features, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise FeaturesError(f"{features}: no readable h5 file ({error})") from error
    if not names:
        raise FeaturesError(f"{features}: holds keypoints of no image")

    def load(name: str) -> Features:
        with h5py.File(features, "r") as file:
            arrays = {key: np.asarray(value) for key, value in file[name].items()}
        try:
            points = arrays["keypoints"]
            if points.dtype == np.float16:
                raise FeaturesError(
                    f"{features}: the keypoints of {name} are of 16 bits, which moves points beyond 1024 "
                    "by up to half a pixel; extract again with hloc's as_half=False"
                )
            size = arrays["image_size"].tolist() if "image_size" in arrays else raw_size(images / name)
            scores = arrays.get("scores", np.ones(len(points)))
            descriptors = arrays["descriptors"].T if "descriptors" in arrays else None
            return Features(points[:, :2], scores, (int(size[0]), int(size[1])), descriptors=descriptors)
        except (KeyError, IndexError, ValueError) as error:
            raise FeaturesError(f"{features}: the features of {name} make no sense ({error})") from error

    keys = _keys(names)
    return Correspondences(LazyFeatures(names, load), LazyPairs(lambda: _pairs(matches, keys)))


def _pairs(path: Path, keys: dict[str, str]) -> Iterator[MatchedPair]:
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        for key0 in file:
            for key1 in file[key0]:
                if key0 not in keys or key1 not in keys:
                    raise FeaturesError(f"{path}: {key0}/{key1} names an image that has no features")
                group = file[key0][key1]
                try:
                    partner = np.asarray(group["matches0"]).astype(np.int64)
                    scores = np.asarray(group["matching_scores0"], np.float32)
                except KeyError as error:
                    raise FeaturesError(f"{path}: {key0}/{key1} lacks {error}") from error
                if (partner < -1).any():
                    raise FeaturesError(
                        f"{path}: {key0}/{key1} has matches below -1: indices that did not fit into 16 bits"
                    )
                rows = np.flatnonzero(partner >= 0)
                indices = np.stack([rows, partner[rows]], axis=1)
                yield MatchedPair(keys[key0], keys[key1], Matches(indices, scores[rows]))

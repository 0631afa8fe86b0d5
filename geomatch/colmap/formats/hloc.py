"""The h5 files of hloc (Hierarchical-Localization): features, matches and a list of pairs.

Pixel centres are whole numbers in them, as with us; hloc adds the half itself when it writes a database.
Links and what lies in other files are refused. Those of deep-image-matching differ: matches are a dataset
(M, 2) of a pair, and image sizes are height and width, in 16 bits, so that they are read from the images.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.errors import FeaturesError, reading, require
from geomatch.files import MAX_UNPACKED
from geomatch.images import raw_size
from geomatch.types import Features, Matches

_log = logging.getLogger(__name__)


def write(correspondences: Correspondences, folder: Path) -> None:
    """Write ``features.h5``, ``matches.h5`` and ``pairs.txt``."""
    names = list(correspondences.features)
    keys = {name: key for key, name in _names_by_key(names).items()}
    h5py = require("h5py", "hloc", "writing files of hloc")
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
    with (
        h5py.File(folder / "matches.h5", "w") as file,
        (folder / "pairs.txt").open("w", encoding="utf-8") as listed,
    ):
        for pair in correspondences.pairs:
            matches0 = np.full(lengths[pair.name0], -1, np.int32)
            scores0 = np.zeros(lengths[pair.name0], np.float32)
            i, j = pair.matches.indices.T
            if len(np.unique(i)) < len(i):
                label = f"{pair.name0} - {pair.name1}"
                raise FeaturesError(f"{label}: a keypoint has several matches, which hloc cannot hold")
            matches0[i], scores0[i] = j, pair.matches.similarity
            group = file.create_group(f"{keys[pair.name0]}/{keys[pair.name1]}")
            group["matches0"] = matches0
            group["matching_scores0"] = scores0
            listed.write(f"{pair.name0} {pair.name1}\n")


def _names_by_key(names: list[str]) -> dict[str, str]:
    """Image names by hloc's names of the matches' groups."""
    keys: dict[str, str] = {}
    for name in names:
        other = keys.setdefault(name.replace("/", "-"), name)
        if other != name:
            text = f"{other!r} and {name!r} have one name in hloc's files"
            raise FeaturesError(text + ", which replace '/' by '-'; rename one")
    return keys


def _matches_beside(features: Path) -> Path:
    """The file of matches beside a file of features; there must be exactly one."""
    usual = features.with_name("matches.h5")
    found = [usual] if usual.is_file() else sorted(features.parent.glob("*matches*.h5"))
    if len(found) != 1:
        text = f"{features.parent}: expected one file matches.h5 there, found {len(found)}"
        raise FeaturesError(f"{text}; name it (--matches)")
    return found[0]


def read(features: Path, images: Path, matches: Path | None = None) -> Correspondences:
    """Read a file of features, and ``matches`` or the file beside it; ``images`` tell sizes that it lacks."""
    matches = matches or _matches_beside(features)
    lengths: dict[str, int] = {}
    half: list[str] = []

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "keys") and "keypoints" in item:
            points = _member(item, "keypoints")
            lengths[name] = next(iter(points.shape), 0)
            if points.dtype == np.float16:
                half.append(name)

    with _opened(features) as file:
        file.visititems(visit)
    if not lengths:
        raise FeaturesError(f"{features}: holds keypoints of no image; give the file of local features")
    if half:
        text = "beyond 1024 they are rounded to whole pixels, beyond 2048 to 2 (hloc: as_half=False)"
        _log.warning("%s: keypoints of %d images have 16 bits: %s", features, len(half), text)

    def load(name: str) -> Features:
        with image_arrays(features, name) as arrays:
            points = arrays["keypoints"]
            if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "fiu":
                text = f"must be numbers of shape (N, 2), got {points.dtype} of shape {points.shape}"
                raise FeaturesError(f"{features}: the keypoints of {name} {text}")
            size = arrays.get("image_size", np.zeros(0))
            size = size if size.dtype.kind in "iu" else np.array(raw_size(images / name))
            if points.dtype == np.float16:  # rounding may have moved points out of the image
                step, points = np.spacing(np.abs(points[:, :2])), points[:, :2].astype(np.float32)
                points -= np.clip(points - (size - 0.5), 0, step)
            scores = arrays.get("scores", np.ones(len(points))).reshape(-1)
            rows = arrays.get("descriptors")
            descriptors = rows.T if rows is not None and rows.shape[-1] == len(points) else rows
            return Features(points[:, :2], scores, (int(size[0]), int(size[1])), descriptors=descriptors)

    names = list(lengths)
    keys = _names_by_key(names)
    return Correspondences(LazyFeatures(names, load), LazyPairs(lambda: _pairs(matches, keys, lengths)))


def _pairs(path: Path, keys: dict[str, str], lengths: dict[str, int]) -> Iterator[MatchedPair]:
    with _opened(path) as file:
        for key0, key1 in [(first, second) for first in file for second in _member(file, first)]:
            label = f"{path}: {key0}/{key1}"
            if key0 not in keys or key1 not in keys:
                raise FeaturesError(f"{label} names an image that has no features")
            name0, name1 = keys[key0], keys[key1]
            if not hasattr(_member(file, f"{key0}/{key1}"), "keys"):
                indices = _arrays(_member(file, key0), key1)[key1]
                if indices.shape[1:] != (2,) or indices.dtype.kind not in "iu":
                    text = f"must be whole numbers of shape (M, 2), got {indices.dtype} {indices.shape}"
                    raise FeaturesError(f"{label} {text}")
                yield MatchedPair(name0, name1, Matches(indices, np.ones(len(indices), np.float32)))
                continue
            arrays = _arrays(_member(file, f"{key0}/{key1}"), "matches0", "matching_scores0")
            if "matches0" not in arrays:
                raise FeaturesError(f"{label} lacks matches0")
            stored = arrays["matches0"]
            if stored.shape != (lengths[name0],) or stored.dtype.kind not in "iu":
                text = f"matches0 must hold a whole number for each of {lengths[name0]} keypoints, got"
                given = f"{stored.dtype} {stored.shape}"
                raise FeaturesError(f"{label}: {text} {given}; are both files of one run?")
            partner, most = stored.astype(np.int64), np.iinfo(stored.dtype).max
            # what lies beyond twice the range wraps to positive numbers again
            if (partner < -1).any() or lengths[name1] > 2 * (most + 1):
                text = f"indices went through {stored.dtype} and wrapped: more than {most} keypoints"
                raise FeaturesError(f"{label}: {text}; match again with fewer per image, or in 32 bits")
            scores = np.asarray(arrays.get("matching_scores0", np.ones(len(partner))), np.float32)
            if scores.shape != partner.shape:
                raise FeaturesError(f"{label}: {len(partner)} matches have scores of shape {scores.shape}")
            rows = np.flatnonzero(partner >= 0)
            indices = np.stack([rows, partner[rows]], axis=1)
            yield MatchedPair(name0, name1, Matches(indices, scores[rows]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file to read; what goes wrong in the block is a `FeaturesError` that names it."""
    h5py = require("h5py", "hloc", "reading files of hloc")
    with reading(path, "h5 file of hloc", FeaturesError), h5py.File(path, "r") as file:
        yield file


def _member(group: Any, name: str) -> Any:
    """A group or dataset below a group; raises `ValueError` for links, which may lead into another file."""
    for part in name.split("/"):
        if type(group.get(part, getlink=True)).__name__ in ("SoftLink", "ExternalLink"):
            raise ValueError(f"{part} is a link; write the data itself")
        if part not in group:
            raise KeyError(part)
        group = group[part]
    return group


@contextmanager
def image_arrays(path: Path, name: str) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of an image's group; what goes wrong in the block is a `FeaturesError` that names both."""
    with _opened(path) as file, reading(f"{path}: {name}", "group of features", FeaturesError):
        yield _arrays(_member(file, name), "keypoints", "scores", "descriptors", "image_size")


def _arrays(group: Any, *names: str) -> dict[str, NDArray[Any]]:
    """Those datasets of a group that are there; ValueError for one in another file, or too large."""
    found = {}
    for name in names:
        if name in group:
            data = _member(group, name)
            if data.external or data.is_virtual:
                raise ValueError(f"{name} lies in another file; write the data itself")
            if data.dtype.hasobject or data.size * data.dtype.itemsize > MAX_UNPACKED:
                raise ValueError(f"{name} holds no numbers, or more than {MAX_UNPACKED} bytes of them")
            found[name] = np.asarray(data)
    return found

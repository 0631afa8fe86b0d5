"""Sub-pixel refinement: each matched keypoint moves to where its features agree best with its track's.

A keypoint has one place, whatever the number of pairs it is matched in, so that
tracks stay tracks. It is for grids: keypoints of a detector lie more exactly than feature maps can
tell (SIFT went from 0.1 to 0.8 px on known homographies).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.collection.correspondences import Correspondences, LazyFeatures, MatchedPair
from geomatch.collection.features import KeptFeatures, read_features
from geomatch.collection.folder import ImageFolder
from geomatch.describers import DenseDescriber
from geomatch.dift import FeatureMap
from geomatch.dift.maps import refine as search
from geomatch.files import digest_of
from geomatch.images import load_image
from geomatch.provenance import cache_key, versions
from geomatch.types import Features

KIND = "refined"
SEARCH = ("soft-argmax", search.REACH, search.COARSE, search.FINE, search.WINDOW, search.TEMPERATURE)
"""All that decides where a keypoint goes; kept results are bound to it."""
CHUNK = 256
"""Keypoints whose references' features are in memory at a time."""


def keep_refined(
    found: Correspondences,
    kept: KeptFeatures,
    folder: ImageFolder,
    extractor: DenseDescriber,
    matching: str,
    progress: bool = True,
) -> tuple[Correspondences, dict[str, str]]:
    """As `refine_keypoints`, kept in the store; descriptors are left out. With the keys by image.

    Args:
        found: keypoints and matches.
        kept: the features that the keypoints are from.
        folder: the images.
        extractor: of whole maps.
        matching: a word that tells the pairs and the matching's settings apart.
        progress: show a bar.
    """
    settings = [list(kept.keys.items()), matching, cache_key(extractor), list(SEARCH), versions()]
    whole = digest_of(settings)
    # two images may be one file, and yet be matched differently
    keys = {name: digest_of([whole, name]) for name in folder.names}
    there = kept.store.sizes(KIND)
    todo = [name for name, key in keys.items() if key not in there]
    if todo:
        for name, features in refine_keypoints(found, folder, extractor, progress, names=todo):
            kept.store.write(KIND, keys[name], features.to_bytes())
    load = LazyFeatures(list(keys), lambda name: read_features(kept.store, keys[name], KIND))
    return Correspondences(load, found.pairs), keys


def refine_keypoints(
    found: Correspondences,
    folder: ImageFolder,
    extractor: DenseDescriber,
    progress: bool = True,
    radius: float | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[str, Features]]:
    """Keypoints moved to the best agreement with their track's reference.

    The reference of a track is its keypoint with most matches; it stays where it is. Every other one
    looks about itself for the place whose features agree best with the reference's, see
    `geomatch.dift.maps.refine`.

    Args:
        found: keypoints and matches.
        folder: the images.
        extractor: of whole maps.
        progress: show a bar.
        radius: of the search in pixels of the image; None takes `geomatch.dift.maps.refine.search_radius`.
        names: of the images wanted; None takes all.

    Yields:
        Image name and keypoints, same order and number, without descriptors.
    """
    disable = None if progress else True
    sizes = {name: len(found.features[name]) for name in folder.names}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    references = track_references(found.pairs, starts, sum(sizes.values()))
    wanted_names = folder.names if names is None else names
    used = np.unique(
        np.concatenate([references[starts[name] : starts[name] + sizes[name]] for name in wanted_names])
    )
    used = used[used >= 0]
    row_of = np.full(len(references), -1)
    row_of[used] = np.arange(len(used))
    with tempfile.TemporaryFile() as file:  # descriptors of all references may be more than memory holds
        table: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
        for name in tqdm(folder.names, desc="references", unit="image", disable=disable):
            own = np.arange(starts[name], starts[name] + sizes[name])
            wanted = own[row_of[own] >= 0]
            if not len(wanted):
                continue
            features = found.features[name]
            rows = _dense(folder, name, extractor).sample(features.keypoints[wanted - starts[name]])
            if table is None:
                table = np.memmap(file, np.float32, "w+", shape=(len(used), rows.shape[1]))
            table[row_of[wanted]] = rows
        for name in tqdm(wanted_names, desc="refinement", unit="image", disable=disable):
            features = found.features[name]
            own = np.arange(starts[name], starts[name] + sizes[name])
            moving = np.flatnonzero((references[own] >= 0) & (references[own] != own))
            points = features.keypoints.copy()
            if table is not None and len(moving):
                dense = _dense(folder, name, extractor)
                reach = radius if radius is not None else search.search_radius(dense)
                for start in range(0, len(moving), CHUNK):
                    part = moving[start : start + CHUNK]
                    targets = np.asarray(table[row_of[references[own[part]]]])
                    points[part] = search.refine_points(dense, features.keypoints[part], targets, reach)
            yield name, replace(features, keypoints=points, descriptors=None)
        del table


def track_references(
    pairs: Iterable[MatchedPair], starts: Mapping[str, int], total: int
) -> NDArray[np.int64]:
    """(total,) the keypoint with most matches of each one's track, of equals the first; -1 if unmatched.

    Args:
        pairs: matches; pairs of images that are not in ``starts`` are passed over.
        starts: number of an image's first keypoint when all are counted through.
        total: of keypoints.
    """
    parent = np.arange(total)
    degree = np.zeros(total, np.int64)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for pair in pairs:
        if pair.name0 not in starts or pair.name1 not in starts:
            continue
        rows = pair.matches.indices + np.array([starts[pair.name0], starts[pair.name1]])
        np.add.at(degree, rows.ravel(), 1)
        for i, j in rows.tolist():
            a, b = root(i), root(j)
            parent[max(a, b)] = min(a, b)
    roots = np.array([root(i) for i in range(total)], np.int64)
    order = np.lexsort((np.arange(total), -degree))
    references = np.full(total, -1)
    first, where = np.unique(roots[order], return_index=True)
    references[first] = order[where]
    return np.where(degree > 0, references[roots], -1)


def _dense(folder: ImageFolder, name: str, extractor: DenseDescriber) -> FeatureMap:
    return extractor.dense(load_image(folder.path(name), apply_exif=False))

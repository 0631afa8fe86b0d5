"""Sub-pixel refinement: each matched keypoint moves to where its features agree best with its track's.

A keypoint has one place, whatever the number of pairs it is matched in, so that tracks stay tracks. It is
for grids: keypoints of a detector lie more exactly than feature maps can tell (SIFT went from 0.1 to
0.8 px on known homographies).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.collection.components import components
from geomatch.collection.correspondences import Correspondences, MatchedPair
from geomatch.collection.features import StoredFeatures
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
"""All that decides where a keypoint goes; part of the keys of cached results."""
CHUNK = 256  # keypoints whose references' features are in memory at a time


def refine_stored(
    found: Correspondences,
    stored: StoredFeatures,
    folder: ImageFolder,
    extractor: DenseDescriber,
    matching: str,
    progress: bool = True,
) -> tuple[Correspondences, tuple[str, ...]]:
    """Refine the keypoints that are not cached, and return them without descriptors, and the objects' keys.

    ``matching`` is a checksum of the pairs and all that decides their matches.
    """
    whole = digest_of([list(stored.keys.items()), matching, cache_key(extractor), list(SEARCH), versions()])
    # two images may be one file, and yet be matched differently
    keys = {name: digest_of([whole, name]) for name in folder.names}
    todo = [name for name, key in keys.items() if stored.store.found(KIND, key, Features.from_bytes) is None]
    if todo:
        for name, features in _refined(found, folder, extractor, progress, todo):
            stored.store.write(KIND, keys[name], features.to_bytes())
    refined = StoredFeatures(stored.store, keys).load(KIND)
    return Correspondences(refined, found.pairs), tuple(keys.values())


def _refined(
    found: Correspondences,
    folder: ImageFolder,
    extractor: DenseDescriber,
    progress: bool,
    wanted: Sequence[str],
) -> Iterator[tuple[str, Features]]:
    """Move the keypoints of the wanted images to the best agreement with their track's reference.

    The reference of a track is its keypoint with most matches; it stays where it is. Every other one
    searches around itself for the place whose features agree best with the reference's, see
    `geomatch.dift.maps.refine`.
    """
    disable = None if progress else True
    sizes = {name: len(found.features[name]) for name in folder.names}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    references = track_references(found.pairs, starts, sum(sizes.values()))
    own = {name: slice(starts[name], starts[name] + sizes[name]) for name in sizes}
    used = np.unique(np.concatenate([references[own[name]] for name in wanted]))
    used = used[used >= 0]
    row_of = np.full(len(references), -1)
    row_of[used] = np.arange(len(used))
    with tempfile.TemporaryFile() as file:  # descriptors of all references may be more than memory holds
        table: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
        for name in tqdm(folder.names, desc="references", unit="image", disable=disable):
            chosen = np.flatnonzero(row_of[own[name]] >= 0)
            if not len(chosen):
                continue
            rows = _map(folder, name, extractor).sample(found.features[name].keypoints[chosen])
            if table is None:
                table = np.memmap(file, np.float32, "w+", shape=(len(used), rows.shape[1]))
            table[row_of[own[name]][chosen]] = rows
        for name in tqdm(wanted, desc="refinement", unit="image", disable=disable):
            features = found.features[name]
            targets = references[own[name]]
            moving = np.flatnonzero((targets >= 0) & (targets != np.arange(own[name].start, own[name].stop)))
            points = features.keypoints.copy()
            if table is not None and len(moving):
                dense = _map(folder, name, extractor)
                reach = search.search_radius(dense)
                for start in range(0, len(moving), CHUNK):
                    part = moving[start : start + CHUNK]
                    rows = np.asarray(table[row_of[targets[part]]])
                    points[part] = search.refine_points(dense, features.keypoints[part], rows, reach)
            yield name, replace(features, keypoints=points, descriptors=None)
        del table


def track_references(
    pairs: Iterable[MatchedPair], starts: Mapping[str, int], total: int
) -> NDArray[np.int64]:
    """(total,) the keypoint with most matches of each one's track, of equals the first; -1 if unmatched.

    ``starts`` are indices of the images' first keypoints among all; pairs of other images are ignored.
    """
    degree = np.zeros(total, np.int64)

    def edges() -> Iterator[NDArray[np.int64]]:
        for pair in pairs:
            if pair.name0 in starts and pair.name1 in starts:
                rows = pair.matches.indices + np.array([starts[pair.name0], starts[pair.name1]])
                np.add.at(degree, rows.ravel(), 1)
                yield rows

    tracks = components(total, edges())
    order = np.lexsort((np.arange(total), -degree))
    references = np.full(total, -1)
    first, where = np.unique(tracks[order], return_index=True)
    references[first] = order[where]
    return np.where(degree > 0, references[tracks], -1)


def _map(folder: ImageFolder, name: str, extractor: DenseDescriber) -> FeatureMap:
    return extractor.dense(load_image(folder.path(name), apply_exif=False))

"""The matches of many pairs: blocks that load few images, a pack of results per block."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.correspondences import LazyPairs, MatchedPair
from geomatch.collection.features import KIND as FEATURES
from geomatch.collection.features import SCHEMA, StoredFeatures
from geomatch.collection.options import Matching
from geomatch.collection.pairs import Pair
from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import LazyBlock
from geomatch.errors import FeaturesError
from geomatch.estimators import estimate_two_view
from geomatch.estimators.two_view import THRESHOLD, transfer_errors
from geomatch.files import digest_of
from geomatch.matchers import create_matcher, match_features
from geomatch.matching import as_rows, match_many
from geomatch.provenance import cache_key, versions
from geomatch.store import Store
from geomatch.store.packs import PackIndex, stored_results, write_pack
from geomatch.types import Features, Matches

BLOCK_IMAGES = 32  # most images of a block: their features are what a worker holds in memory
BLOCK_PAIRS = (16, 256)
"""Fewest and most pairs of a block; between them a sixty-fourth of all, so that few are shared out, too."""


class _PairKeys(NamedTuple):
    name: str  # for the user
    features: tuple[str, str]  # keys of both images' features
    key: bytes  # key of the matches: raw SHA-256 of all that decides them
    place: int  # index of the pair in the list of all


def pair_keys(
    stored: StoredFeatures, pairs: Sequence[Pair], matching: Matching, device: str = "cpu"
) -> NDArray[np.uint8]:
    """(P, 32) keys of the pairs' matches: SHA-256 of features' keys, options, kind of device and versions."""
    options = digest_of([SCHEMA, cache_key(matching), device.split(":")[0], versions()])
    keys = [hashlib.sha256((options + stored.keys[a] + stored.keys[b]).encode()).digest() for a, b in pairs]
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


def match_pairs(
    stored: StoredFeatures,
    pairs: Sequence[Pair],
    keys: NDArray[np.uint8],
    matching: Matching,
    work: Work,
    device: str = "cpu",
) -> tuple[LazyPairs, dict[str, str], int]:
    """Match the pairs that the store lacks; the matches of all, why others failed, and how many were made."""
    store = stored.store
    index = PackIndex.read(store, mend=True)
    places = index.find(keys)
    todo: list[int] = np.flatnonzero(places[:, 0] < 0).tolist()
    packs = {name: number for number, name in enumerate(index.names)}

    def item(place: int) -> _PairKeys:
        a, b = pairs[place]
        return _PairKeys(f"{a} - {b}", (stored.keys[a], stored.keys[b]), keys[place].tobytes(), place)

    blocks = [LazyBlock([todo[p] for p in block], item) for block in pair_blocks([pairs[p] for p in todo])]
    failed = {}
    task = BlockTask(partial(_match, store, matching, device), "processor" if device == "cpu" else "network")
    for pair, result in work.results(task, blocks, "pairs", "pair", len(pairs) - len(todo)):
        if isinstance(result, FailedItem):
            failed[pair.name] = result.reason
        else:
            places[pair.place] = packs.setdefault(result[0], len(packs)), result[1]

    def read() -> Iterator[MatchedPair]:
        for pair, _, part, arrays in stored_results(store, tuple(packs), places):
            matches = Matches(arrays["indices"][part].astype(np.int64), arrays["similarity"][part])
            yield MatchedPair(*pairs[pair], matches)

    found = LazyPairs(read, int((places[:, 0] >= 0).sum()))
    return found, failed, len(todo) - len(failed)


def _match(
    store: Store, matching: Matching, device: str, block: Sequence[_PairKeys]
) -> list[tuple[str, int] | FailedItem]:
    """Match the pairs of a block, and write a pack; results are its name and the pair's row."""
    places = {key: n for n, key in enumerate(dict.fromkeys(key for pair in block for key in pair.features))}
    pairs = [(places[first], places[second]) for first, second in (pair.features for pair in block)]
    images = (store.needed(FEATURES, key, Features.from_bytes) for key in places)
    found = match_block(images, pairs, matching, device)
    arrays = {
        "counts": np.array([len(matches) for matches in found]),
        "indices": np.concatenate([matches.indices for matches in found]).astype(np.uint32),
        "similarity": np.concatenate([matches.similarity for matches in found]),
    }
    name = write_pack(store, [pair.key for pair in block], arrays)
    return [(name, row) for row in range(len(block))]


def pair_blocks(pairs: Sequence[Pair]) -> list[list[int]]:
    """Indices of the pairs, block by block; the blocks depend on nothing but the pairs.

    Images are put in an order in which partners are near each other, and pairs sorted by the groups of both,
    so large that a block is of two groups: few images are loaded for many pairs.
    """
    size = min(max(len(pairs) // 64, BLOCK_PAIRS[0]), BLOCK_PAIRS[1])
    group = math.isqrt(size)
    order = {name: place for place, name in enumerate(_near_each_other(pairs))}
    ends = np.array([[order[a], order[b]] for a, b in pairs], np.int32).reshape(-1, 2)
    first, second = ends.min(axis=1), ends.max(axis=1)
    blocks: list[list[int]] = []
    images: set[int] = set()
    for p in np.lexsort((second, first, second // group, first // group)).tolist():
        images |= set(ends[p].tolist())
        if not blocks or len(blocks[-1]) == size or len(images) > BLOCK_IMAGES:
            blocks.append([])
            images = set(ends[p].tolist())
        blocks[-1].append(p)
    return blocks


def _near_each_other(pairs: Sequence[Pair]) -> list[str]:
    """The images in breadth-first order over the pairs."""
    partners: dict[str, list[str]] = {}
    for a, b in pairs:
        partners.setdefault(a, []).append(b)
        partners.setdefault(b, []).append(a)
    order: dict[str, None] = {}
    for first in sorted(partners):
        waiting = [first]
        for name in waiting:
            if name not in order:
                order[name] = None
                waiting += [other for other in sorted(partners[name]) if other not in order]
    return list(order)


def match_block(
    images: Iterable[Features], pairs: Sequence[tuple[int, int]], matching: Matching, device: str = "cpu"
) -> list[Matches]:
    """Match pairs of images, guided if wanted; none without keypoints."""
    features, rows = [], []
    least, matcher = matching.min_similarity, create_matcher(matching.matcher, device)
    for image in images:
        own = image.descriptors if len(image) else np.zeros((0, 0), np.float32)
        if own is None:
            raise FeaturesError("the detector brings no descriptors: name a descriptor, such as dift-tiny")
        if matcher is None:
            rows.append(as_rows(own).to(device))
            image = replace(image, descriptors=None)  # here they are needed no more
        features.append(image)
    if matcher is None:
        found = match_many(rows, pairs, matching.metric or "cosine", least, matching.max_ratio)
    else:
        every = [match_features(matcher, features[one], features[two], least) for one, two in pairs]
        found = [(matches, np.ones(len(matches), np.bool_)) for matches in every]
    if not matching.guided:
        return [every[distinct] for every, distinct in found]

    def verified(place: int) -> Matches:
        (first, second), (every, distinct) = pairs[place], found[place]
        return _match_guided(features[first], features[second], every[distinct], every)

    # an accelerator's worker is the only one; of a CPU's there is one per core
    with ThreadPoolExecutor(1 if device == "cpu" else os.cpu_count()) as threads:
        return list(threads.map(verified, range(len(pairs))))


def _match_guided(features0: Features, features1: Features, distinct: Matches, every: Matches) -> Matches:
    """Those of ``every`` that agree with the two-view geometry of the ``distinct`` ones; none without one.

    The ratio test leaves matches among which a solver finds the geometry, and drops many right ones, which
    come back here. See `geomatch.estimators.estimate_two_view`. Of a planar pair only matches on the plane
    do: the epipolar lines of its fundamental matrix let repeated windows in, with which models of
    photographs fell apart.
    """
    i, j = distinct.indices.T
    points0, points1 = features0.keypoints[i], features1.keypoints[j]
    found = estimate_two_view(points0, points1, features0.image_size, features1.image_size)
    if not found:
        return distinct[:0]
    i, j = every.indices.T
    return every[transfer_errors(found, features0.keypoints[i], features1.keypoints[j]) <= THRESHOLD]

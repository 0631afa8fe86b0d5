"""Pairs that plain matching does not relate, matched again in tilted views where that may join images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.components import components
from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.collection.features import KIND as FEATURES
from geomatch.collection.features import SCHEMA, StoredFeatures, need_of
from geomatch.collection.folder import ImageFiles
from geomatch.collection.options import Matching
from geomatch.collection.pairs import Nearest, Pair
from geomatch.describers import Describer
from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import in_blocks
from geomatch.errors import ImageError, first_line
from geomatch.estimators import Gate, estimate_two_view
from geomatch.estimators.gate import ENOUGH
from geomatch.estimators.two_view import THRESHOLD
from geomatch.files import digest_of
from geomatch.images import Image
from geomatch.keypoints import Detector
from geomatch.provenance import cache_key, versions
from geomatch.store import Store
from geomatch.tensors import upload_features
from geomatch.types import Features, Geometry, Matches
from geomatch.views.features import FramedFeatures, features_of, view_features
from geomatch.views.matching import nearest_elsewhere
from geomatch.views.search import APART, has_views, relate_plane, search_views, seen_together, stages_of
from geomatch.views.simulation import View

KIND = "hard_pairs"
BLOCK = 8  # pairs of a block, which shares the views of their images
PARTNERS = 3  # most alike images of other components that ``normal`` tries for each image
Parts = tuple[Detector, Describer]
Found = tuple[Features, Features]
"""Matched keypoints of both images of a pair, row by row; none where nothing relates them."""


class _Item(NamedTuple):
    name: str  # for the user
    names: tuple[str, str]
    features: tuple[str, str]  # keys of both images' features
    keys: tuple[str, str]  # of the result's sides


def hard_pairs(
    names: Sequence[str], pairs: Sequence[Pair], matched: LazyPairs, parts: Parts, matching: Matching,
    nearest: Nearest,
) -> list[Pair]:  # fmt: skip
    """The pairs without matches that should be tried again.

    ``high`` tries all; ``normal``, where the pairs with enough matches leave several components of images,
    those between components whose images are among the most alike; ``fast`` none. Learned matchers
    and matches that are not verified stay as they are, as does what `has_views` is false for.
    """
    plain = matching.matcher is not None or not matching.guided
    if plain or not has_views(*parts, matching.effort):
        return []
    counts = {(pair.name0, pair.name1): len(pair.matches) for pair in matched}
    if matching.effort == "high":
        return [pair for pair in pairs if not counts.get(pair)]
    place = {name: number for number, name in enumerate(names)}
    joined = [(place[a], place[b]) for (a, b), count in counts.items() if count >= ENOUGH]
    component = components(len(names), [np.array(joined, np.int64).reshape(-1, 2)])
    if len(np.unique(component)) == 1:
        return []
    wanted: set[frozenset[str]] = set()
    for number, alike in enumerate(nearest(min(len(names) - 1, 4 * PARTNERS))):
        others = [other for other in alike.tolist() if component[other] != component[number]]
        wanted |= {frozenset((names[number], names[other])) for other in others[:PARTNERS]}
    return [pair for pair in pairs if frozenset(pair) in wanted and not counts.get(pair)]


def side_keys(
    stored: StoredFeatures, pairs: Sequence[Pair], parts: Parts, matching: Matching
) -> dict[Pair, tuple[str, str]]:
    """Keys of what is found in both images of each pair: checksums of all that decides it."""
    given = digest_of([SCHEMA, KIND, *map(cache_key, (*parts, matching)), matching.effort, versions()])
    features = {pair: (stored.keys[pair[0]], stored.keys[pair[1]]) for pair in pairs}
    return {p: (digest_of([given, *own, 0]), digest_of([given, *own, 1])) for p, own in features.items()}


def search_pairs(
    files: ImageFiles, stored: StoredFeatures, keys: Mapping[Pair, tuple[str, str]], parts: Parts,
    matching: Matching, work: Work,
) -> tuple[dict[Pair, Found], dict[str, str]]:  # fmt: skip
    """Match the pairs of `side_keys` in views, unless the store has them: what was found, and failures."""
    store = stored.store
    found = dict[Pair, Found]()
    items, failed = list[_Item](), dict[str, str]()
    for pair, own in keys.items():
        first, second = (store.found(KIND, key, Features.from_bytes) for key in own)
        if first is None or second is None:
            features = stored.keys[pair[0]], stored.keys[pair[1]]
            items.append(_Item(" - ".join(pair), pair, features, own))
        else:
            found[pair] = first, second
    task = BlockTask(partial(_search, files, store, parts, matching), need_of(parts[1]))
    answers = work.results(task, in_blocks(items, BLOCK), "views", "pair", len(keys) - len(items))
    for item, result in answers:
        if isinstance(result, FailedItem):
            failed[item.name] = result.reason
        else:
            first, second = (store.needed(KIND, key, Features.from_bytes) for key in item.keys)
            found[item.names] = first, second
    return {pair: found[pair] for pair in keys if pair in found and len(found[pair][0])}, failed


def joined_with(plain: Correspondences, found: Mapping[Pair, Found]) -> Correspondences:
    """The correspondences with the pairs that were found in views, whose keypoints follow the plain ones.

    A keypoint that lies within a pixel of a plain one is that one, so that tracks go on.
    """
    added: dict[str, list[Features]] = {}
    indices: dict[Pair, list[NDArray[np.int64]]] = {}
    known = {name: plain.features[name].keypoints for pair in found for name in pair}
    for pair, both in found.items():
        for name, own in zip(pair, both, strict=True):
            places = known[name]
            which = np.empty(len(own), np.int64)
            for row, point in enumerate(own.keypoints):
                distance = np.linalg.norm(places - point, axis=1)
                which[row] = distance.argmin() if len(places) and distance.min() <= APART / 2 else -1
            fresh = np.flatnonzero(which < 0)
            which[fresh] = len(places) + np.arange(len(fresh))
            known[name] = np.concatenate([places, own.keypoints[fresh]])
            added.setdefault(name, []).append(own[fresh])
            indices.setdefault(pair, []).append(which)

    def load(name: str) -> Features:
        return features_of([plain.features[name], *added.get(name, [])])

    def read() -> Iterator[MatchedPair]:
        yield from (pair for pair in plain.pairs if (pair.name0, pair.name1) not in found)
        for pair, sides in indices.items():
            rows, similarity = np.stack(sides, axis=1), found[pair][0].scores
            for side in (0, 1):  # two keypoints of a view may be one plain one
                kept = np.sort(np.unique(rows[:, side], return_index=True)[1])
                rows, similarity = rows[kept], similarity[kept]
            yield MatchedPair(*pair, Matches(rows, similarity))

    return Correspondences(LazyFeatures(list(plain.features), load), LazyPairs(read))


def _search(
    files: ImageFiles, store: Store, parts: Parts, matching: Matching, block: Sequence[_Item]
) -> list[str | FailedItem]:
    done: list[str | FailedItem] = []
    seen: dict[Any, list[FramedFeatures]] = {}
    for item in block:
        try:
            images = [files[name].load() for name in item.names]
        except (ImageError, OSError) as error:
            done.append(FailedItem(first_line(error)))
            continue
        plain = [store.needed(FEATURES, key, Features.from_bytes) for key in item.features]
        sizes = images[0].size, images[1].size
        plane = relate_plane(Gate(), THRESHOLD, sizes[0])

        def relate(matches: Matches, framed0: FramedFeatures, framed1: FramedFeatures) -> Geometry:
            i, j = matches.indices.T
            scene = estimate_two_view(framed0.points[i], framed1.points[j], *sizes)  # noqa: B023
            return scene or plane(matches, framed0, framed1)  # noqa: B023

        known = dict(zip((image.name for image in images), item.features, strict=True))

        def see(image: Image, views: Sequence[View], count: int) -> list[FramedFeatures]:
            key = known[image.name], tuple(views), count  # noqa: B023
            if key not in seen:
                seen[key] = view_features(image, views, count, *parts)
            return seen[key]

        tensors = [upload_features(features, "cpu") for features in plain]
        least, ratio = matching.min_similarity, matching.max_ratio
        tentative = nearest_elsewhere(matching.metric or "cosine", least, ratio)
        stages, together = stages_of(matching.effort, parts[1], False), seen_together(*parts)
        result = search_views(images, tensors, see, tentative, stages, relate, together)
        both = plain[0][:0], plain[1][:0]
        if result is not None and result.geometry:
            kept = np.flatnonzero(result.geometry.inliers)
            first, second = (own[kept] for own in result.features)
            both = replace(first, scores=result.matches.similarity[kept]), second
        for key, own in zip(item.keys, both, strict=True):
            store.write(KIND, key, own.to_bytes())
        done.append(item.keys[0])
    return done

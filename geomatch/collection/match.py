"""Matching a collection: features once per image, pairs in parallel, everything kept on disk."""

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from geomatch.collection.correspondences import Correspondences, LazyPairs, MatchedPair
from geomatch.collection.features import SCHEMA, KeptFeatures, keep_features
from geomatch.collection.folder import ImageFolder
from geomatch.collection.pairs import Pair, PairReport, check_rules, select_pairs
from geomatch.collection.retrieval import comparable, global_descriptors
from geomatch.collection.store import MatchStore
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.errors import FeaturesError
from geomatch.estimators import estimate_two_view
from geomatch.estimators.two_view import THRESHOLD, transfer_errors
from geomatch.files import digest_of
from geomatch.identity import identity_of
from geomatch.keypoints import Detector
from geomatch.matching import Metric, check_options, match_mutual
from geomatch.parts import Describer, extraction_parts
from geomatch.provenance import record, versions
from geomatch.types import Features, Matches

CACHE_BYTES = 512 * 2**20
"""Of features held in memory while pairs are matched."""
BLOCK = 16
"""Pairs are taken in blocks of so many by so many images, so that few features are loaded twice."""
MAX_RATIO = 0.8
"""Of the ratio test before the geometry is estimated. Of 29 photographs along a street 0.9, 0.85 and 0.8
registered 12, 19 and 21 with the trained read-out of ``dift-tiny``."""
COMMIT_SECONDS = 2.0
"""Matches are written at least so often."""


class MatchOptions(NamedTuple):
    """How two sets of features are matched; see `match_collection`."""

    metric: Metric = "cosine"
    min_similarity: float | None = None
    max_ratio: float | None = None
    guided: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class CollectionResult:
    """What `match_collection` found."""

    correspondences: Correspondences
    pairs: PairReport
    skipped: dict[str, str]
    """Images that were left out, and why."""
    computed: tuple[int, int]
    """Images and pairs that were not kept before."""
    settings: dict[str, Any]
    """As JSON can hold them."""


def match_collection(
    folder: ImageFolder,
    cache: Path,
    *,
    rules: Sequence[str] = (),
    max_pairs: int | None = None,
    detector: str | Detector = "sift-large",
    descriptor: str | DIFTConfig | Describer | None = None,
    metric: Metric | None = None,
    min_similarity: float | None = None,
    max_ratio: float | None = None,
    max_keypoints: int = 3000,
    guided: bool = True,
    refine: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> CollectionResult:
    """Features of all images, the pairs that the rules choose, and their matches.

    What is in ``cache`` is not made again. Names of kept results are checksums of
    pixels, weights, settings and versions, so that nothing old is taken for
    something new. EXIF orientation is not applied, since COLMAP reads raw pixels.

    Args:
        folder: see `geomatch.collection.find_images`.
        cache: a folder, made when missing.
        rules: see `select_pairs`.
        max_pairs: no image is in more pairs.
        detector: as `geomatch.match`, and all that is not named here. Large keypoints of SIFT by default:
            on photographs of one place they gave larger models than those of best response.
        descriptor: likewise.
        metric: likewise.
        min_similarity: likewise.
        max_ratio: likewise; by default 0.8 where keypoints have scale and orientation, and none elsewhere.
        max_keypoints: likewise.
        guided: keep only matches that agree with one geometry of the pair, see `match_guided`.
        refine: move matched keypoints to where the feature maps agree best, see
            `geomatch.collection.refine.refine_keypoints`.
        workers: pairs matched at a time; None takes one per core.
        progress: show bars with rate and time left.

    Raises:
        ImageError: when no image can be read.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense.
    """
    check_rules(rules)
    check_options(metric or "cosine", min_similarity, max_ratio)
    detect, describer, own_metric = extraction_parts(detector, descriptor, max_keypoints)
    metric = metric or own_metric
    if max_ratio is None and guided and isinstance(describer, DIFTExtractor):
        max_ratio = MAX_RATIO if describer.config.sampling == "patch" else None
    identity = {"detector": identity_of(detect), "descriptor": identity_of(describer)}
    kept = keep_features(folder, detect, describer, identity, cache / "features", progress)
    usable = replace(folder, names=tuple(kept.files))
    dense = dense_twin(describer)
    report = select_pairs(
        usable,
        rules,
        max_pairs,
        lambda: comparable(global_descriptors(usable, dense, cache / "global", progress)),
    )
    options = MatchOptions(metric, min_similarity, max_ratio, guided)
    pairs, computed = match_pairs(kept, report.pairs, options, cache, workers, progress)
    found = Correspondences(kept.load(), pairs)
    if refine:
        from geomatch.collection.refine import keep_refined

        found = keep_refined(
            found, kept, usable, dense, cache / "refined", digest_of(list(options)), progress
        )
    settings = {
        "detector": record(detect),
        "descriptor": record(describer),
        "matching": options._asdict(),
        "pairs": dict(report.given),
        "refine": refine,
    }
    return CollectionResult(found, report, dict(kept.skipped), (kept.computed, computed), settings)


def dense_twin(describer: Describer) -> DIFTExtractor:
    """An extractor of whole maps: the descriptor itself, or the embedded model's dense mode."""
    if isinstance(describer, DIFTExtractor) and describer.config.sampling == "dense":
        return describer
    device = describer.config.device if isinstance(describer, DIFTExtractor) else "auto"
    return DIFTExtractor(replace(PRESETS["dift-tiny-dense"], device=device))


def match_pairs(
    kept: KeptFeatures,
    pairs: Sequence[Pair],
    options: MatchOptions,
    cache: Path,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[LazyPairs, int]:
    """The matches of each pair, read back when gone through; and how many pairs were new."""
    cache.mkdir(parents=True, exist_ok=True)
    store = MatchStore(cache / "matches.db")
    keys = [digest_of([SCHEMA, kept.key(a), kept.key(b), list(options), versions()]) for a, b in pairs]
    todo = _in_blocks(store.missing(keys), pairs)
    workers = workers or os.cpu_count() or 1
    loaded = _Loaded(kept)

    def work(place: int) -> tuple[str, Matches]:
        features0, features1 = (loaded[name] for name in pairs[place])
        return keys[place], match_features(features0, features1, options)

    with tqdm(
        total=len(pairs),
        initial=len(pairs) - len(todo),
        desc="pairs",
        unit="pair",
        disable=None if progress else True,
    ) as bar:
        fresh: list[tuple[str, Matches]] = []
        last = time.monotonic()
        try:
            for done in _in_threads(work, todo, workers):
                fresh.append(done)
                bar.update()
                if time.monotonic() - last > COMMIT_SECONDS:
                    store.add(fresh)
                    fresh, last = [], time.monotonic()
        finally:  # an interruption keeps what is done
            store.add(fresh)

    def read() -> Iterator[MatchedPair]:
        for (a, b), matches in zip(pairs, store.read(keys), strict=True):
            yield MatchedPair(a, b, matches)

    return LazyPairs(read, len(pairs)), len(todo)


def match_features(features0: Features, features1: Features, options: MatchOptions) -> Matches:
    """Mutual nearest neighbours, guided if wanted; nothing matches an image without keypoints.

    Raises:
        FeaturesError: when there are no descriptors.
    """
    if not len(features0) or not len(features1):
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    a, b = features0.descriptors, features1.descriptors
    if a is None or b is None:
        raise FeaturesError("the features have no descriptors, and the detector brings none")
    sure = match_mutual(a, b, options.metric, options.min_similarity, options.max_ratio)
    if not options.guided:
        return sure
    every = sure if options.max_ratio is None else match_mutual(a, b, options.metric, options.min_similarity)
    return match_guided(features0, features1, sure, every)


def match_guided(features0: Features, features1: Features, sure: Matches, every: Matches) -> Matches:
    """Those of ``every`` that agree with the two-view geometry of the ``sure`` ones; none without geometry.

    The ratio test leaves matches among which a solver finds the geometry, and drops many right
    ones; these come back here. See `geomatch.estimators.estimate_two_view`. Of a planar pair only those
    on the plane do: the epipolar lines of its fundamental matrix let repeated windows in, with which
    models of photographs fell apart.
    """
    i, j = sure.indices.T
    points0, points1 = features0.keypoints[i], features1.keypoints[j]
    found = estimate_two_view(points0, points1, features0.image_size, features1.image_size)
    if not found:
        return sure[:0]
    i, j = every.indices.T
    return every[transfer_errors(found, features0.keypoints[i], features1.keypoints[j]) <= THRESHOLD]


def _in_blocks(places: Iterable[int], pairs: Sequence[Pair]) -> list[int]:
    order = {name: index for index, name in enumerate(sorted({name for pair in pairs for name in pair}))}

    def block(place: int) -> tuple[int, ...]:
        i, j = (order[name] for name in pairs[place])
        return i // BLOCK, j // BLOCK, i, j

    return sorted(places, key=block)


def _in_threads(work: Any, places: Sequence[int], workers: int) -> Iterator[Any]:
    """Results as they come; only a few are under way at a time, so that memory is bounded."""
    waiting = iter(places)
    # threads suffice: torch computes outside the interpreter's lock
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[Any]] = set()
        try:
            while True:
                while len(running) < 2 * workers and (place := next(waiting, None)) is not None:
                    running.add(pool.submit(work, place))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


class _Loaded:
    """Features in memory, those not used for longest forgotten first."""

    def __init__(self, kept: KeptFeatures) -> None:
        self._features = kept.load()
        self._held: OrderedDict[str, tuple[Features, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __getitem__(self, name: str) -> Features:
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name][0]
        features = self._features[name]
        parts = (features.keypoints, features.scores, features.scales, features.orientations)
        size = sum(part.nbytes for part in (*parts, features.descriptors) if part is not None)
        with self._lock:
            if name not in self._held:
                self._held[name] = features, size
                self._bytes += size
            while self._bytes > CACHE_BYTES and len(self._held) > 2:
                _, (_, freed) = self._held.popitem(last=False)
                self._bytes -= freed
        return features

"""Matching a collection: images examined, described, paired and matched, everything cached."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.correspondences import Correspondences
from geomatch.collection.features import KIND as FEATURES
from geomatch.collection.features import StoredFeatures, extract_again, extract_features, feature_key
from geomatch.collection.folder import ImageFiles, ImageFolder, Photograph, examine
from geomatch.collection.options import EXTRACTION, MATCHING, PAIRS, Extraction, Matching, PairSelection
from geomatch.collection.pair_matches import match_pairs, pair_keys
from geomatch.collection.pairs import PairReport, needs_retrieval, select_pairs
from geomatch.collection.retrieval import KIND as GLOBAL
from geomatch.collection.retrieval import global_keys, nearest_images, pool_images
from geomatch.describers import DenseDescriber, Describer, as_dense, traits_of
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.engine import FailedItem, RunContext
from geomatch.engine.context import CONTEXT
from geomatch.engine.run import grouped
from geomatch.errors import GeomatchError, ImageError
from geomatch.files import digest_of
from geomatch.provenance import cache_key, record
from geomatch.store import Manifest

_log = logging.getLogger(__name__)
ROUNDS = 3  # times that features are extracted, if they turn out damaged while pairs are matched


@dataclass(frozen=True, eq=False, slots=True)
class CollectionResult:
    """Result of `match_collection`."""

    correspondences: Correspondences
    pairs: PairReport
    skipped: dict[str, str]
    """Images that were left out, and why."""
    failed_pairs: dict[str, str]
    """Pairs that could not be matched, and why."""
    computed: tuple[int, int]
    """Numbers of images and pairs that were not cached."""
    retries: int
    """Blocks of work that were tried again."""
    remade: list[str]
    """Images whose features were damaged in the store and made again; grows while features are read."""
    settings: dict[str, Any]
    """As JSON can hold them."""


def match_collection(
    folder: ImageFolder,
    *,
    extraction: Extraction = EXTRACTION,
    pairs: PairSelection = PAIRS,
    matching: Matching = MATCHING,
    context: RunContext = CONTEXT,
) -> CollectionResult:
    """Extract features of all images, choose pairs and match them.

    What is in the store, ``geomatch-store`` in the working directory unless ``context`` has another, is not
    made again: it is found by a checksum of pixels, weights, settings and versions. EXIF orientation is not
    applied, since COLMAP reads raw pixels. The folder must be visible to every worker under the same path.

    Raises ImageError when no image can be read, StoreError when the store cannot be written or read (what was
    done stays), WeightsError when a model cannot be loaded, ValueError for options that make no sense, and
    objects that have no cache key.
    """
    parts = detector, describer = extraction.parts(context.device, matching.matcher)
    matching = matching.settled(traits_of(describer), context.device)
    store = context.store_at(Path("geomatch-store"))
    dense = dense_twin(describer)
    settings = {
        "detector": record(detector),
        "descriptor": record(describer),
        "matching": record(matching),
        "rules": list(pairs.rules),
        "max_pairs": pairs.max_pairs,
        "masks": record(extraction.masks),
    }
    extraction.masks.check(folder.names, folder.root)
    files = ImageFiles(folder.root.absolute(), extraction.masks)
    cache_key(matching)  # weights that are missing are an error now, not after the features
    parts_key = [cache_key(detector), cache_key(describer)]
    with context.started() as run:
        work = run.work()
        device = work.engine.device(context.device)
        skipped = dict(folder.skipped)
        photos: list[Photograph] = []
        for name, found in examine(files, folder.names, work, pairs.uses("gps")):
            if isinstance(found, FailedItem):
                skipped[name] = found.reason
            else:
                photos.append(found)
        photos.sort(key=lambda photo: photo.name)
        keys = {photo.name: feature_key(photo.sha256, parts_key) for photo in photos}
        content = digest_of([[photo.name, photo.sha256] for photo in photos])
        manifest = Manifest.start(store, "collection", str(folder.root.absolute()), settings, content)

        objects = {FEATURES: tuple(dict.fromkeys(keys.values()))}
        if needs_retrieval(pairs, len(photos)):
            objects[GLOBAL] = tuple(dict.fromkeys(global_keys(photos, dense).values()))
        manifest = manifest.saved(store, objects=objects, failed=skipped)

        def nearest(count: int) -> NDArray[np.int64]:
            for left in reversed(range(ROUNDS)):
                pooled = pool_images(files, photos, dense, store, work)
                try:
                    return nearest_images(store, pooled, count)
                except GeomatchError:  # of a damaged object, which was removed, or of something else
                    if not left or store.sizes(GLOBAL).keys() >= set(pooled):
                        raise
            raise AssertionError

        by_name = {photo.name: photo for photo in photos}
        remade: list[str] = []

        def remake(name: str) -> None:
            remade.append(name)
            _log.warning("%s: features were damaged in the store, and are made again", name)
            extract_again(files, by_name[name], keys[name], parts, store)

        computed_images = computed_pairs = 0
        for _ in range(ROUNDS):
            made, failed = extract_features(files, photos, keys, parts, store, work)
            computed_images += made
            skipped |= failed
            photos = [photo for photo in photos if photo.name not in failed]
            if not photos:
                reasons = "; ".join(grouped(skipped)[:3])
                raise ImageError(f"{folder.root}: no image could be read ({reasons})")
            usable = replace(folder, names=tuple(photo.name for photo in photos))
            stored = StoredFeatures(store, {name: keys[name] for name in usable.names})
            positions = {photo.name: photo.position for photo in photos if photo.position is not None}
            report = select_pairs(usable, pairs, nearest, positions)
            wanted = pair_keys(stored, report.pairs, matching, device)
            told = {"names": usable.names, "failed": skipped, "retries": work.retries}
            manifest = manifest.saved(store, pair_keys=wanted, **told)
            matched, failed_pairs, made = match_pairs(stored, report.pairs, wanted, matching, work, device)
            computed_pairs += made
            if not failed_pairs or store.sizes(FEATURES).keys() >= set(stored.keys.values()):
                break
        result = Correspondences(stored.load(remake), matched)
    told = {"failed": skipped | failed_pairs, "retries": work.retries}
    manifest.saved(store, **told, complete=True)
    computed, settings = (computed_images, computed_pairs), settings | {"pairs": dict(report.given)}
    return CollectionResult(result, report, skipped, failed_pairs, computed, work.retries, remade, settings)


def dense_twin(describer: Describer) -> DenseDescriber:
    """The describer itself if it makes whole maps, or the embedded model's dense mode."""
    dense = as_dense(describer)
    if dense is not None:
        return dense
    return DIFTExtractor(replace(PRESETS["dift-tiny-dense"], device=traits_of(describer).device))

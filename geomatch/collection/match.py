"""Matching a collection: images examined, described, paired and matched, stage by stage, everything kept."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.correspondences import Correspondences
from geomatch.collection.features import KIND as FEATURES
from geomatch.collection.features import KeptFeatures, feature_key, keep_features
from geomatch.collection.folder import ImageFolder
from geomatch.collection.pair_matches import KeptMatches, MatchOptions, match_pairs, pair_keys
from geomatch.collection.pairs import PairReport, check_rules, needs_appearance, select_pairs
from geomatch.collection.photographs import Photograph, examine
from geomatch.collection.retrieval import KIND as GLOBAL
from geomatch.collection.retrieval import global_key, keep_descriptors
from geomatch.describers import DenseDescriber, Describer, as_dense, extraction_parts, traits_of
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.engine import Engine, LocalEngine, Lost, Work
from geomatch.errors import ImageError
from geomatch.files import digest_of
from geomatch.keypoints import Detector
from geomatch.matching import check_options
from geomatch.provenance import cache_key, record
from geomatch.store import Manifest, Store
from geomatch.types import Metric

ROUNDS = 3
"""Features that turn out damaged while pairs are matched are made again so often, less one."""


@dataclass(frozen=True, eq=False, slots=True)
class CollectionResult:
    """What `match_collection` found."""

    correspondences: Correspondences
    pairs: PairReport
    skipped: dict[str, str]
    """Images that were left out, and why."""
    lost_pairs: dict[str, str]
    """Pairs that could not be matched, and why."""
    computed: tuple[int, int]
    """Images and pairs that were not kept before."""
    retries: int
    """Blocks of work that were handed out again."""
    settings: dict[str, Any]
    """As JSON can hold them."""


def match_collection(
    folder: ImageFolder,
    store: Store | str | os.PathLike[str],
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
    refine_keypoints: bool = False,
    engine: Engine | None = None,
    progress: bool = True,
) -> CollectionResult:
    """Features of all images, the pairs that the rules choose, and their matches.

    What is in the store is not made again. Names of kept results are checksums of
    pixels, weights, settings and versions, so that nothing old is taken for
    something new. EXIF orientation is not applied, since COLMAP reads raw pixels.

    Args:
        folder: see `geomatch.collection.find_images`; visible to every worker under the same path.
        store: a folder, made when missing, or a URL of fsspec.
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
        refine_keypoints: move matched keypoints to where the feature maps agree best, see
            `geomatch.collection.refine.refine_keypoints`.
        engine: who does the work, within its ``with`` statement; None takes the cores of this machine, which
            a script must do under ``if __name__ == "__main__":``, as all that starts processes.
        progress: show bars with rate and time left.

    Raises:
        ImageError: when no image can be read.
        StoreError: when the store cannot be written or read; what was done is kept.
        WeightsError: when a model cannot be loaded.
        ValueError: for options that make no sense.
    """
    if engine is None:
        with LocalEngine() as own:
            return match_collection(
                folder, store, rules=rules, max_pairs=max_pairs, detector=detector, descriptor=descriptor,
                metric=metric, min_similarity=min_similarity, max_ratio=max_ratio,
                max_keypoints=max_keypoints, guided=guided, refine_keypoints=refine_keypoints,
                engine=own, progress=progress,
            )  # fmt: skip
    check_rules(rules)
    check_options(metric or "cosine", min_similarity, max_ratio)
    detect, describer, own_metric = extraction_parts(detector, descriptor, max_keypoints)
    metric = metric or own_metric
    if max_ratio is None and guided:
        max_ratio = traits_of(describer).max_ratio
    options = MatchOptions(metric, min_similarity, max_ratio, guided)
    settings = {
        "detector": record(detect),
        "descriptor": record(describer),
        "matching": options._asdict(),
        "rules": list(rules),
        "max_pairs": max_pairs,
        "refine_keypoints": refine_keypoints,
    }
    identity = {"detector": cache_key(detect), "descriptor": cache_key(describer)}
    where = store if isinstance(store, Store) else Store.at(store)
    work = Work(engine, progress)
    skipped = dict(folder.skipped)
    photos: list[Photograph] = []
    for name, found in examine(folder, work, any(rule.partition(":")[0] == "gps" for rule in rules)):
        if isinstance(found, Lost):
            skipped[name] = found.reason
        else:
            photos.append(found)
    photos.sort(key=lambda photo: photo.name)
    keys = {photo.name: feature_key(photo.sha256, identity) for photo in photos}
    content = digest_of([[photo.name, photo.sha256] for photo in photos])
    manifest = Manifest.start(where, "collection", str(folder.root.absolute()), settings, content)
    dense = dense_twin(describer)
    needed = {FEATURES: tuple(dict.fromkeys(keys.values()))}
    if needs_appearance(rules, len(photos)):
        needed[GLOBAL] = tuple(dict.fromkeys(global_key(photo.sha256, dense) for photo in photos))
    manifest = manifest.saved(where, objects=manifest.objects | needed, lost=skipped)
    computed_images = computed_pairs = 0
    for _ in range(ROUNDS):
        computed, lost = keep_features(folder.root, photos, keys, detect, describer, where, work)
        computed_images += computed
        skipped |= lost
        photos = [photo for photo in photos if photo.name not in lost]
        if not photos:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise ImageError(f"{folder.root}: no image could be read ({reasons})")
        usable = replace(folder, names=tuple(photo.name for photo in photos))
        kept = KeptFeatures(where, {name: keys[name] for name in usable.names}, skipped, computed_images)
        objects = {FEATURES: tuple(dict.fromkeys(kept.keys.values()))}
        report, described = _choose_pairs(usable, photos, rules, max_pairs, dense, where, work)
        objects = manifest.objects | objects | ({GLOBAL: described} if described else {})
        place = {name: index for index, name in enumerate(usable.names)}
        wanted = pair_keys(kept, report.pairs, options)
        manifest = manifest.saved(
            where,
            names=usable.names,
            objects=objects,
            pairs=np.array([[place[a], place[b]] for a, b in report.pairs], np.int32).reshape(-1, 2),
            pair_keys=wanted,
            lost=skipped,
            retries=work.retries,
        )
        matched = match_pairs(kept, report.pairs, wanted, options, work)
        computed_pairs += matched.computed
        if not matched.lost or where.sizes(FEATURES).keys() >= set(kept.keys.values()):
            break
    correspondences = Correspondences(kept.load(), matched.load())
    if refine_keypoints:
        correspondences, refined = _refined(correspondences, kept, matched, usable, dense, progress)
        manifest = replace(manifest, objects=manifest.objects | {"refined": refined})
    manifest.saved(where, lost=skipped | dict(matched.lost), retries=work.retries, complete=True)
    return CollectionResult(
        correspondences,
        report,
        skipped,
        dict(matched.lost),
        (computed_images, computed_pairs),
        work.retries,
        settings | {"pairs": dict(report.given)},
    )


def _choose_pairs(
    folder: ImageFolder,
    photos: Sequence[Photograph],
    rules: Sequence[str],
    max_pairs: int | None,
    dense: DenseDescriber,
    store: Store,
    work: Work,
) -> tuple[PairReport, tuple[str, ...]]:
    """The pairs, and the keys of the pooled features if these were needed."""
    keys: dict[str, None] = {}

    def nearest(count: int, order: NDArray[np.int64] | None) -> NDArray[np.int64]:
        described = keep_descriptors(folder.root, photos, dense, store, work)
        keys.update(dict.fromkeys(described.keys))
        return described.nearest(count, order, work)

    positions = {photo.name: photo.position for photo in photos if photo.position is not None}
    return select_pairs(folder, rules, max_pairs, nearest, positions), tuple(keys)


def dense_twin(describer: Describer) -> DenseDescriber:
    """An extractor of whole maps: the descriptor itself, or the embedded model's dense mode."""
    dense = as_dense(describer)
    if dense is not None:
        return dense
    return DIFTExtractor(replace(PRESETS["dift-tiny-dense"], device=traits_of(describer).device))


def _refined(
    found: Correspondences,
    kept: KeptFeatures,
    matched: KeptMatches,
    folder: ImageFolder,
    dense: DenseDescriber,
    progress: bool,
) -> tuple[Correspondences, tuple[str, ...]]:
    from geomatch.collection.refine import keep_refined

    matching = digest_of([matched.keys.tobytes().hex()])
    refined, keys = keep_refined(found, kept, folder, dense, matching, progress)
    return refined, tuple(keys.values())

"""Images and pairs per second by engine and number of workers, and what scheduling costs."""

import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

import geomatch
from geomatch.benchmarks.studies.record import Row, median_seconds, seconds_of, timing_row
from geomatch.collection import Extraction, Matching, PairSelection, find_images
from geomatch.collection.features import StoredFeatures, extract_features, feature_key
from geomatch.collection.folder import Photograph, examine
from geomatch.collection.match import dense_twin
from geomatch.collection.pair_matches import match_pairs, pair_keys
from geomatch.collection.pairs import best_partners, select_pairs
from geomatch.collection.retrieval import CHUNK, pool_images, read_array
from geomatch.describers import traits_of
from geomatch.engine import Engine, LocalEngine, Work, create_engine
from geomatch.engine.task import BlockTask
from geomatch.engine.worker import threads
from geomatch.images import load_image
from geomatch.provenance import cache_key
from geomatch.store import Store

IMAGES, KEYPOINTS, NEIGHBOURS = 24, 1000, 12
SIZE = (640, 480)
BLOCKS = 400
"""Blocks of a task that does nothing."""
ENGINES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))


def engine_rows() -> list[Row]:
    """24 views of the bundled photograph, 640x480, 1000 keypoints, 222 pairs; workers are warm."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_photographs(folder / "images")
        for engine, workers in ENGINES if find_spec("ray") else ENGINES[:2]:
            label = f"{engine}, {workers} worker{'s' if workers > 1 else ''}"
            start = time.perf_counter()
            with create_engine(engine, workers) as made:  # type: ignore[arg-type]
                _schedule(made, workers)
                rows.append(timing_row(f"start of the engine, {label}", time.perf_counter() - start, "s"))
                rows += _stages(made, folder, label)
        rows += _retrieval_rows(folder)
    return rows


def _make_photographs(folder: Path) -> None:
    """Views of the bundled photograph as PNG files."""
    folder.mkdir()
    photo = cv2.resize(load_image(geomatch.bundled_pair().image0).pixels[..., ::-1], SIZE)
    corners = np.array([[0, 0], [SIZE[0], 0], SIZE, [0, SIZE[1]]], np.float32)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        moved = corners + rng.uniform(-40, 40, (4, 2)).astype(np.float32)
        view = cv2.warpPerspective(photo, cv2.getPerspectiveTransform(corners, moved), SIZE)
        (folder / f"{number:03}.png").write_bytes(cv2.imencode(".png", view)[1].tobytes())


def _stages(engine: Engine, folder: Path, label: str) -> list[Row]:
    work = Work(engine, progress=False)
    store = Store.at(folder / label.replace(", ", "-").replace(" ", "-"))
    images = find_images(folder / "images")
    parts = Extraction(max_keypoints=KEYPOINTS).parts()
    photos = [photo for _, photo in examine(images, work, False) if isinstance(photo, Photograph)]
    photos.sort(key=lambda photo: photo.name)
    key = [cache_key(part) for part in parts]
    keys = {photo.name: feature_key(photo.sha256, key) for photo in photos}
    warm = photos[: 2 * engine.workers]  # every worker loads its model first
    extract_features(images.root, warm, keys, parts, Store.at(f"{store.url}-warm"), work)
    spent = seconds_of(lambda: extract_features(images.root, photos, keys, parts, store, work))
    rows = [timing_row(f"features, {label}", IMAGES / spent, "images/s")]
    kept = StoredFeatures(store, keys)
    pairs = select_pairs(images, PairSelection([f"sequential:{NEIGHBOURS}"])).pairs
    options = Matching(max_ratio=0.8).settled(traits_of(parts[1]))
    spent = seconds_of(lambda: match_pairs(kept, pairs, pair_keys(kept, pairs, options), options, work))
    rows.append(timing_row(f"pairs, {label}", len(pairs) / spent, "pairs/s"))
    if label == "local, 1 worker":
        features, matches = (store.sizes(kind).values() for kind in ("features", "matches"))
        rows.append(
            timing_row("store, bytes per image with 1000 keypoints", statistics.mean(features), "bytes")
        )
        rows.append(timing_row("store, bytes per pair", sum(matches) / len(pairs), "bytes"))
    blocks = max(1, BLOCKS // engine.workers) * engine.workers
    each = seconds_of(lambda: _schedule(engine, blocks)) / blocks * 1000
    rows.append(timing_row(f"handing out a block, {label}", each, "ms"))
    return rows


def _schedule(engine: Engine, blocks: int) -> None:
    task = BlockTask[int, int](list)  # takes no time: what is left is scheduling
    for _ in Work(engine, progress=False).results(task, [[n] for n in range(blocks)], "", "block"):
        pass


def _retrieval_rows(folder: Path) -> list[Row]:
    work = Work(LocalEngine(1), progress=False)
    images = find_images(folder / "images")
    photos = [photo for _, photo in examine(images, work, False) if isinstance(photo, Photograph)]
    extractor = dense_twin(Extraction(max_keypoints=KEYPOINTS).parts()[1])
    pool_images(images.root, photos[:1], extractor, Store.at(folder / "warm"), work)
    start = time.perf_counter()
    store = Store.at(folder / "pooled")
    keys = pool_images(images.root, photos, extractor, store, work)
    spent = time.perf_counter() - start
    width = len(read_array(store, "global", keys[0], "row"))
    unit = np.random.default_rng(0).normal(size=(CHUNK, width)).astype(np.float32)
    with threads(1):
        whole = slice(0, CHUNK)
        seconds = median_seconds(
            lambda: best_partners(lambda a, b: unit[a] @ unit[b].T, whole, CHUNK, 20, CHUNK), 5
        )
    return [
        timing_row("pooled features of whole images, 1 worker", IMAGES / spent, "images/s"),
        timing_row("pooled features, numbers per image", width, "numbers"),
        timing_row("comparisons of pooled features, 1 worker", CHUNK**2 / seconds / 1e6, "million/s"),
    ]

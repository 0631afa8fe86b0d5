"""Images and pairs per second by engine and number of workers, and what handing out and storing cost."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import geomatch
from geomatch.benchmarks.studies.timing import Row, timing_row
from geomatch.collection import Extraction, ImageFolder, Matching, PairSelection, find_images
from geomatch.collection.features import StoredFeatures, extract_features, feature_key, read_features
from geomatch.collection.folder import Photograph, examine
from geomatch.collection.match import dense_twin
from geomatch.collection.pair_matches import match_pairs, pair_blocks, pair_keys
from geomatch.collection.pairs import best_partners, select_pairs
from geomatch.collection.retrieval import CHUNK, pool_images
from geomatch.describers import traits_of
from geomatch.engine import Engine, FailedBlock, LocalEngine, Task, Work, create_engine
from geomatch.engine.task import Need
from geomatch.engine.worker import threads
from geomatch.errors import MissingDependencyError, require
from geomatch.images import load_image
from geomatch.provenance import cache_key
from geomatch.store import Store
from geomatch.store.packs import pack_name

IMAGES, KEYPOINTS, NEIGHBOURS = 24, 1000, 12
SIZE = (640, 480)
BLOCKS = 400
"""Of a task that does nothing."""
ENGINES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))


@dataclass(frozen=True, slots=True)
class Nothing:
    """A task that takes no time: what is left is the handing out."""

    need: Need = "processor"

    def start(self) -> Callable[[Sequence[int]], list[int]]:
        """See `geomatch.engine.Task.start`."""
        return list


def engine_rows() -> list[Row]:
    """24 views of the bundled photograph, 640x480, 1000 keypoints, 222 pairs; workers are warm."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photographs(folder / "images")
        plain = _plain_loop(folder / "images")
        rows.append(_rate("features, plain loop without engine or store", IMAGES / plain, "images/s"))
        for engine, workers in ENGINES:
            label = f"{engine}, {workers} worker{'s' if workers > 1 else ''}"
            try:
                require("ray", "cluster", "this engine")
            except MissingDependencyError:
                if engine == "ray":
                    continue
            with ExitStack() as stack:
                start = time.perf_counter()
                made = stack.enter_context(create_engine(engine, workers))  # type: ignore[arg-type]
                _hand_out(made, workers)
                rows.append(timing_row(f"start of the engine, {label}", time.perf_counter() - start, "s"))
                rows += _stages(made, folder, label, plain)
        rows += _store_rows(folder)
        rows += _retrieval_rows(folder)
    done = subprocess.run([sys.executable, "-m", __spec__.name], capture_output=True, text=True, check=True)
    rows += [_rate(*entry) for entry in json.loads(done.stdout)]
    return rows


def _photographs(folder: Path) -> None:
    folder.mkdir()
    photo = load_image(geomatch.bundled_pair().image0).pixels[..., ::-1]
    width, height = SIZE
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        moved = corners + rng.uniform(-40, 40, (4, 2)).astype(np.float32)
        view = cv2.warpPerspective(photo, cv2.getPerspectiveTransform(corners, moved), SIZE)
        (folder / f"{number:03}.png").write_bytes(cv2.imencode(".png", view)[1].tobytes())


def _plain_loop(folder: Path) -> float:
    detector, describer = Extraction(max_keypoints=KEYPOINTS).parts()
    paths = sorted(folder.iterdir())

    def one(path: Path) -> None:
        image = load_image(path, apply_exif=False)
        describer.describe(image, detector.detect(image))

    with threads(1):
        one(paths[0])
        start = time.perf_counter()
        for path in paths:
            one(path)
        return time.perf_counter() - start


def _stages(engine: Engine, folder: Path, label: str, plain: float) -> list[Row]:
    work = Work(engine, progress=False)
    store = Store.at(folder / label.replace(", ", "-").replace(" ", "-"))
    images = find_images(folder / "images")
    parts = Extraction(max_keypoints=KEYPOINTS).parts()
    photos = [photo for _, photo in examine(images, work, False) if isinstance(photo, Photograph)]
    photos.sort(key=lambda photo: photo.name)
    key = [cache_key(part) for part in parts]
    keys = {photo.name: feature_key(photo.sha256, key) for photo in photos}
    # every worker loads its model first
    warm = photos[: 2 * engine.workers]
    extract_features(images.root, warm, keys, parts, Store.at(f"{store.url}-warm"), work)
    start = time.perf_counter()
    extract_features(images.root, photos, keys, parts, store, work)
    spent = time.perf_counter() - start
    rows = [_rate(f"features, {label}", IMAGES / spent, "images/s")]
    rows[0]["over_plain_loop"] = round(plain / spent, 3)
    kept = StoredFeatures(store, keys)
    pairs = select_pairs(images, PairSelection([f"sequential:{NEIGHBOURS}"])).pairs
    options = Matching(max_ratio=0.8).settled(traits_of(parts[1]))
    start = time.perf_counter()
    match_pairs(kept, pairs, pair_keys(kept, pairs, options), options, work)
    rows.append(_rate(f"pairs, {label}", len(pairs) / (time.perf_counter() - start), "pairs/s"))
    blocks = max(1, BLOCKS // engine.workers) * engine.workers
    start = time.perf_counter()
    _hand_out(engine, blocks)
    each = (time.perf_counter() - start) / blocks * 1000
    rows.append(_rate(f"handing out a block, {label}", each, "ms"))
    return rows


def _hand_out(engine: Engine, blocks: int) -> None:
    for _ in Work(engine, progress=False).results(Nothing(), [[n] for n in range(blocks)], "", "block"):
        pass


def _store_rows(folder: Path) -> list[Row]:
    """Beside NumPy's own file without checksum, name of its own or renaming."""
    store = Store.at(folder / "local-1-worker")
    keys = sorted(store.sizes("features"))
    found = [read_features(store, key) for key in keys]
    other = Store.at(folder / "other")
    (folder / "plain").mkdir()
    files = [folder / "plain" / f"{number}.npz" for number in range(len(keys))]

    def write() -> None:
        for key, features in zip(keys, found, strict=True):
            other.write("features", key, features.to_bytes())

    def write_plain() -> None:
        for file, features in zip(files, found, strict=True):
            np.savez(file, keypoints=features.keypoints, descriptors=features.descriptors)  # type: ignore[arg-type]

    def read() -> None:
        for key in keys:
            read_features(other, key)

    def read_plain() -> None:
        for file in files:
            with np.load(file) as arrays:
                for name in arrays.files:
                    arrays[name]

    rows = []
    for what, ours, theirs in (("write", write, write_plain), ("read", read, read_plain)):
        seconds = [_median(call) / len(keys) * 1000 for call in (ours, theirs)]
        rows.append(timing_row(f"store, {what} features of an image", seconds[0], "ms", "numpy", seconds[1]))
    size = statistics.mean(store.sizes("features").values())
    rows.append(_rate("store, bytes per image with 1000 keypoints", size, "bytes"))
    selection = PairSelection([f"sequential:{NEIGHBOURS}"])
    pairs = len(select_pairs(find_images(folder / "images"), selection).pairs)
    rows.append(_rate("store, bytes per pair", sum(store.sizes("matches").values()) / pairs, "bytes"))
    return rows


def _retrieval_rows(folder: Path) -> list[Row]:
    work = Work(LocalEngine(1), progress=False)
    images = find_images(folder / "images")
    photos = [photo for _, photo in examine(images, work, False) if isinstance(photo, Photograph)]
    extractor = dense_twin(Extraction(max_keypoints=KEYPOINTS).parts()[1])
    pool_images(images.root, photos[:1], extractor, Store.at(folder / "warm"), work)
    start = time.perf_counter()
    kept = pool_images(images.root, photos, extractor, Store.at(folder / "pooled"), work)
    spent = time.perf_counter() - start
    width = kept.rows().shape[1]
    unit = np.random.default_rng(0).normal(size=(CHUNK, width)).astype(np.float32)
    with threads(1):
        whole = slice(0, CHUNK)
        seconds = _median(lambda: best_partners(lambda a, b: unit[a] @ unit[b].T, whole, CHUNK, 20, CHUNK))
    return [
        _rate("pooled features of whole images, 1 worker", IMAGES / spent, "images/s"),
        _rate("pooled features, numbers per image", width, "numbers"),
        _rate("comparisons of pooled features, 1 worker", CHUNK**2 / seconds / 1e6, "million/s"),
    ]


@dataclass
class Pretending:
    """An engine that does nothing and says that all is done, to see what the machine that asks must hold."""

    workers: int = 1

    def map(
        self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]
    ) -> Generator[tuple[int, Sequence[Any] | FailedBlock], None, None]:
        """See `geomatch.engine.Engine.map`."""
        for index, block in enumerate(blocks):
            name = pack_name([item.key for item in block])
            yield index, [(name, row) for row in range(len(block))]

    def device(self, name: str) -> str:
        """See `geomatch.engine.Engine.device`."""
        return name

    def __enter__(self) -> "Pretending":
        return self

    def __exit__(self, *error: object) -> None: ...


def _asking() -> list[tuple[str, float, str]]:
    """Memory of the machine that gives the command, and features read per pair: 20 nearest on a plane."""
    images = 20_000
    places = np.random.default_rng(0).uniform(size=(images, 2)).astype(np.float32)
    order = np.argsort(np.floor(places[:, 0] * 140) + places[:, 1])  # names follow the place, roughly
    places = places[order]
    # in small portions, whose memory is not to be counted
    chosen = [
        best_partners(
            lambda a, b: -((places[a, None] - places[None, b]) ** 2).sum(-1),
            slice(k, k + 50), images, 20, 2000,
        )
        for k in range(0, images, 50)
    ]  # fmt: skip
    before = _resident()
    names = [f"folder/photograph-{number:08}.jpg" for number in range(images)]
    photos = [Photograph(name, f"{number:064x}", SIZE) for number, name in enumerate(names)]
    keys = {photo.name: feature_key(photo.sha256, {}) for photo in photos}
    per_image = (_resident() - before) / images
    ranked = np.concatenate(chosen)
    folder = ImageFolder(Path("/none"), tuple(names), {})
    report = select_pairs(folder, PairSelection(["retrieval:20"]), nearest=lambda count, order: ranked)
    with tempfile.TemporaryDirectory() as place:
        kept = StoredFeatures(Store.at(place), keys)
        wanted = pair_keys(kept, report.pairs, Matching())
        match_pairs(kept, report.pairs, wanted, Matching(), Work(Pretending(), progress=False))
    per_pair = (_resident("VmHWM") - before) / len(report.pairs)
    blocks = pair_blocks(report.pairs)
    loads = sum(len({name for p in block for name in report.pairs[p]}) for block in blocks)
    return [
        ("memory where the command is given, per image", per_image, "bytes"),
        (
            "memory where the command is given, per pair",
            per_pair - per_image * images / len(report.pairs),
            "bytes",
        ),
        ("pairs per image, 20 nearest on a plane", len(report.pairs) / images, "pairs"),
        ("features read per pair, 20 nearest on a plane", loads / len(report.pairs), "images"),
    ]


def _resident(what: str = "VmRSS") -> float:
    """Bytes; ``VmHWM`` is the most so far, of this program alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _median(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _rate(name: str, value: float, unit: str) -> Row:
    return {"name": name, "value": round(value, 3), "unit": unit}


if __name__ == "__main__":
    print(json.dumps(_asking()))

"""Which images show the same place: one descriptor per image, pooled from the diffusion features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.features import SCHEMA, batch_of, by_size, load_photograph, need_of
from geomatch.collection.nearest import best_partners
from geomatch.collection.pairs import LOOP_GAP
from geomatch.collection.photographs import Photograph
from geomatch.describers import DenseDescriber
from geomatch.dift import FeatureMap
from geomatch.engine import FailedItem, Work
from geomatch.engine.run import grouped, in_blocks
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, GeomatchError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import cache_key, versions
from geomatch.store import Store

KIND, CHUNKS = "global", "chunks"
CHUNK = 4096
"""Images whose descriptors lie in one object, and are compared with as many at a time."""
CONSTANT = 1e-6
"""A channel whose deviation is this share of its mean is left out."""


def pool(feature_map: FeatureMap) -> NDArray[np.float32]:
    """(D,) mean and standard deviation of each channel over the normalised cells of each layer."""
    parts = []
    for layer in feature_map.maps:
        # NumPy's sums, unlike torch's, do not depend on the number of threads
        cells = layer.flatten(1).float().cpu().numpy().astype(np.float64)
        cells /= np.maximum(np.linalg.norm(cells, axis=0), 1e-12)
        parts += [cells.mean(axis=1), cells.std(axis=1)]
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Pooling:
    """Task: pools the features of images, and writes an object for each; results are the keys."""

    root: Path
    extractor: DenseDescriber
    store: Store
    need: Need

    def start(self) -> Callable[[Sequence[tuple[Photograph, str]]], list[str | FailedItem]]:
        """Return the function that does a block."""
        return self._pool

    def _pool(self, block: Sequence[tuple[Photograph, str]]) -> list[str | FailedItem]:
        loaded = [load_photograph(self.root, photo) for photo, _ in block]
        images = [image for image in loaded if not isinstance(image, FailedItem)]
        maps = iter(self.extractor.dense_many(images))
        results: list[str | FailedItem] = []
        for (_, key), image in zip(block, loaded, strict=True):
            if not isinstance(image, FailedItem):
                self.store.write(KIND, key, pack_arrays(KIND, {"row": pool(next(maps))}))
            results.append(image if isinstance(image, FailedItem) else key)
        return results


@dataclass(frozen=True, slots=True)
class Gathering:
    """Task: gathers the rows of a chunk of images, given by their keys, in one object.

    Results are (2, D) sums of the rows and of their squares.
    """

    store: Store
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[tuple[str, ...]]], list[NDArray[np.float64]]]:
        """Return the function that does a block."""
        return lambda block: [self._gather(keys) for keys in block]

    def _gather(self, keys: Sequence[str]) -> NDArray[np.float64]:
        rows = np.stack([_read(self.store, KIND, key, "row") for key in keys])
        self.store.write(CHUNKS, digest_of(list(keys)), pack_arrays(CHUNKS, {"rows": rows}))
        wide = rows.astype(np.float64)
        return np.stack([wide.sum(axis=0), (wide**2).sum(axis=0)])


@dataclass(frozen=True, eq=False, slots=True)
class Ranking:
    """Task: finds the best partners of the images of a chunk, given by its number, among all."""

    store: Store
    chunks: tuple[str, ...]
    total: int
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    count: int
    order: NDArray[np.int64] | None
    """Places of the images of a loop, see `geomatch.collection.pairs.Nearest`."""
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[int]], list[NDArray[np.int32]]]:
        """Return the function that does a block."""
        return lambda block: [self._rank(number) for number in block]

    def _rank(self, number: int) -> NDArray[np.int32]:
        own = self._rows(number)
        first = number * CHUNK

        def alike(part: slice, others: slice) -> NDArray[np.floating]:
            rows = own if others.start == first else self._rows(others.start // CHUNK)
            scores = own @ rows.T
            if self.order is not None:
                near = np.abs(self.order[part, None] - self.order[None, others]) <= LOOP_GAP
                scores[near] = -np.inf
            return scores

        part = slice(first, first + len(own))
        return best_partners(alike, part, self.total, self.count, CHUNK).astype(np.int32)

    def _rows(self, number: int) -> NDArray[np.float32]:
        rows = _read(self.store, CHUNKS, self.chunks[number], "rows")
        return comparable(rows, self.mean, self.deviation)


@dataclass(frozen=True, eq=False, slots=True)
class StoredDescriptors:
    """Pooled features of a collection in a store."""

    store: Store
    keys: tuple[str, ...]
    """One per image, in order."""
    failed: dict[str, str]
    """Images without, and why."""

    def rows(self) -> NDArray[np.float32]:
        """(N, D) all of them."""
        return np.stack([_read(self.store, KIND, key, "row") for key in self.keys])

    def nearest(self, count: int, order: NDArray[np.int64] | None, work: Work) -> NDArray[np.int64]:
        """Find the images that look most alike, see `geomatch.collection.pairs.Nearest`."""
        if self.failed:
            raise GeomatchError("images cannot be compared: " + "; ".join(grouped(self.failed)))
        chunks = [tuple(chunk) for chunk in in_blocks(self.keys, CHUNK)]
        total = len(self.keys)
        gathered = work.results(Gathering(self.store), [[c] for c in chunks], "descriptors", "chunk")
        mean, squares = np.sum(list(_all(gathered, chunks)), axis=0) / total
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))
        names = tuple(digest_of(list(chunk)) for chunk in chunks)
        task = Ranking(self.store, names, total, mean, deviation, count, order)
        numbers = list(range(len(chunks)))
        ranked = _all(work.results(task, [[n] for n in numbers], "retrieval", "chunk"), numbers)
        return np.concatenate(list(ranked)).astype(np.int64)


def _all(results: Iterator[tuple[Any, Any]], items: Sequence[Any]) -> Iterator[Any]:
    """The results in the order of the items."""
    found = dict(results)
    for item in items:
        if isinstance(found[item], FailedItem):
            raise GeomatchError(f"the images cannot be compared: {found[item].reason}")
        yield found[item]


def global_key(sha256: str, extractor: DenseDescriber) -> str:
    """Key of an image's pooled features; ``sha256`` is the file's."""
    return digest_of([SCHEMA, sha256, "pooled", cache_key(extractor), versions()])


def pool_images(
    root: Path, photos: Sequence[Photograph], extractor: DenseDescriber, store: Store, work: Work
) -> StoredDescriptors:
    """Pool the features of the images that the store does not hold yet.

    Args:
        root: the folder of images.
        photos: the images.
        extractor: makes whole maps.
        store: where pooled features are cached.
        work: does it.
    """
    keys = {photo.name: global_key(photo.sha256, extractor) for photo in photos}
    there = store.sizes(KIND)
    todo = {keys[photo.name]: photo for photo in photos if keys[photo.name] not in there}
    task = Pooling(root.absolute(), extractor, store, need_of(extractor))
    blocks = by_size([(photo, key) for key, photo in todo.items()], batch_of(extractor, work.engine))
    results = work.results(task, blocks, "appearance", "image", len(photos) - len(todo))
    reasons = {key: result.reason for (_, key), result in results if isinstance(result, FailedItem)}
    failed = {name: reasons[key] for name, key in keys.items() if key in reasons}
    return StoredDescriptors(store, tuple(keys.values()), failed)


def comparable(
    rows: NDArray[np.floating], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(N, D) unit rows whose products say how alike images are.

    Channels are centred and divided by their deviation over the collection: features that all
    photographs share say nothing about which belong together.
    """
    centred = rows.astype(np.float64) - mean
    centred *= np.where(deviation > CONSTANT * np.abs(mean), 1 / np.maximum(deviation, 1e-12), 0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (centred / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _read(store: Store, kind: str, key: str, array: str) -> NDArray[np.float32]:
    label = store.label(kind, key)
    try:
        return unpack_arrays(store.read(kind, key), label, kind, (array,))[array]
    except KeyError as error:
        raise GeomatchError(f"{label} is missing; give the same command again") from error
    except DamagedError:
        store.remove(kind, key)  # made again by the next run
        raise

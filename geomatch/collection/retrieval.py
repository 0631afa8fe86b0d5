"""Which images show the same place: one descriptor per image, pooled from the diffusion features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.features import SCHEMA, batch_of, by_size, load_photograph, need_of
from geomatch.collection.nearest import best_partners
from geomatch.collection.pairs import LOOP_GAP
from geomatch.collection.photographs import Photograph
from geomatch.describers import DenseDescriber
from geomatch.dift import FeatureMap
from geomatch.engine import Lost, Work
from geomatch.engine.run import grouped, in_blocks
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, GeomatchError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import cache_key, versions
from geomatch.store import Store

KIND, CHUNKS = "global", "chunks"
CHUNK = 4096
"""Images whose descriptors lie in one object; so many are compared with so many at a time."""
CONSTANT = 1e-6
"""A channel whose deviation is this share of its mean says nothing."""


def pool(feature_map: FeatureMap) -> NDArray[np.float32]:
    """(D,) of a whole image: mean and standard deviation of each channel over the cells.

    Every layer's cells are normalised first.
    """
    parts = []
    for layer in feature_map.maps:
        # NumPy's sums, unlike torch's, do not depend on the number of threads
        cells = layer.flatten(1).float().cpu().numpy().astype(np.float64)
        cells /= np.maximum(np.linalg.norm(cells, axis=0), 1e-12)
        parts += [cells.mean(axis=1), cells.std(axis=1)]
    return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Pooling:
    """The task: pooled features, an object per image."""

    root: Path
    extractor: DenseDescriber
    store: Store
    need: Need

    def start(self) -> Callable[[Sequence[tuple[Photograph, str]]], list[str | Lost]]:
        """See `Task.start`; items are images and keys, results the keys."""
        return self._pool

    def _pool(self, block: Sequence[tuple[Photograph, str]]) -> list[str | Lost]:
        loaded = [load_photograph(self.root, photo) for photo, _ in block]
        images = [image for image in loaded if not isinstance(image, Lost)]
        maps = iter(self.extractor.dense_many(images))
        results: list[str | Lost] = []
        for (_, key), image in zip(block, loaded, strict=True):
            if not isinstance(image, Lost):
                self.store.write(KIND, key, pack_arrays(KIND, {"row": pool(next(maps))}))
            results.append(image if isinstance(image, Lost) else key)
        return results


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Of the rows of a chunk."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gathering:
    """The task: rows of many images into one object."""

    store: Store
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[tuple[str, ...]]], list[Moments]]:
        """See `Task.start`; items are the keys of a chunk."""
        return lambda block: [self._gather(keys) for keys in block]

    def _gather(self, keys: Sequence[str]) -> Moments:
        rows = np.stack([_read(self.store, KIND, key, "row") for key in keys])
        self.store.write(CHUNKS, digest_of(list(keys)), pack_arrays(CHUNKS, {"rows": rows}))
        wide = rows.astype(np.float64)
        return Moments(len(rows), wide.sum(axis=0), (wide**2).sum(axis=0))


@dataclass(frozen=True, eq=False, slots=True)
class Ranking:
    """The task: the best partners of the images of a chunk among all."""

    store: Store
    chunks: tuple[str, ...]
    total: int
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    count: int
    order: NDArray[np.int64] | None
    """Of a loop, see `geomatch.collection.pairs.Nearest`."""
    need: Need = field(default="processor")

    def start(self) -> Callable[[Sequence[int]], list[NDArray[np.int32]]]:
        """See `Task.start`; items are numbers of chunks."""
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
class KeptDescriptors:
    """Pooled features of a collection in the store."""

    store: Store
    keys: tuple[str, ...]
    """One per image, in order."""
    lost: dict[str, str]
    """Images without, and why."""

    def rows(self) -> NDArray[np.float32]:
        """(N, D) all of them."""
        return np.stack([_read(self.store, KIND, key, "row") for key in self.keys])

    def nearest(self, count: int, order: NDArray[np.int64] | None, work: Work) -> NDArray[np.int64]:
        """See `geomatch.collection.pairs.Nearest`."""
        if self.lost:
            raise GeomatchError("images cannot be compared: " + "; ".join(grouped(self.lost)))
        chunks = [tuple(chunk) for chunk in in_blocks(self.keys, CHUNK)]
        moments = dict(work.results(Gathering(self.store), [[c] for c in chunks], "descriptors", "chunk"))
        sums = [moments[chunk] for chunk in chunks]
        total = len(self.keys)
        failed = [part for part in sums if isinstance(part, Lost)]
        if failed:
            raise GeomatchError(f"the images cannot be compared: {failed[0].reason}")
        good = [part for part in sums if not isinstance(part, Lost)]
        mean = np.sum([part.total for part in good], axis=0) / total
        variance = np.sum([part.squares for part in good], axis=0) / total - mean**2
        task = Ranking(
            self.store,
            tuple(digest_of(list(chunk)) for chunk in chunks),
            total,
            mean,
            np.sqrt(np.maximum(variance, 0)),
            count,
            order,
        )
        parts = dict(work.results(task, [[n] for n in range(len(chunks))], "retrieval", "chunk"))
        ranked = [parts[number] for number in range(len(chunks))]
        for part in ranked:
            if isinstance(part, Lost):
                raise GeomatchError(f"the images cannot be compared: {part.reason}")
        return np.concatenate([part for part in ranked if not isinstance(part, Lost)]).astype(np.int64)


def global_key(sha256: str, extractor: DenseDescriber) -> str:
    """Of an image's pooled features; ``sha256`` is the file's."""
    return digest_of([SCHEMA, sha256, "pooled", cache_key(extractor), versions()])


def keep_descriptors(
    root: Path, photos: Sequence[Photograph], extractor: DenseDescriber, store: Store, work: Work
) -> KeptDescriptors:
    """Pooled features of the images, each made once.

    Args:
        root: of the folder of images.
        photos: the images.
        extractor: of whole maps.
        store: where they are kept.
        work: on an engine.
    """
    keys = {photo.name: global_key(photo.sha256, extractor) for photo in photos}
    there = store.sizes(KIND)
    todo = {keys[photo.name]: photo for photo in photos if keys[photo.name] not in there}
    task = Pooling(root.absolute(), extractor, store, need_of(extractor))
    blocks = by_size([(photo, key) for key, photo in todo.items()], batch_of(extractor, work.engine))
    gone = {}
    for (_, key), result in work.results(task, blocks, "appearance", "image", len(photos) - len(todo)):
        if isinstance(result, Lost):
            gone[key] = result.reason
    lost = {name: gone[key] for name, key in keys.items() if key in gone}
    return KeptDescriptors(store, tuple(keys.values()), lost)


def comparable(
    rows: NDArray[np.floating], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(N, D) unit rows whose products say how alike images are, after what all share is taken away.

    Channels are centred and divided by their deviation over the collection: features that all
    photographs have say nothing about which belong together.
    """
    centred = rows.astype(np.float64) - mean
    centred *= np.where(deviation > CONSTANT * np.abs(mean), 1 / np.maximum(deviation, 1e-12), 0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (centred / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _read(store: Store, kind: str, key: str, array: str) -> NDArray[np.float32]:
    label = f"{store.url}: {store.name(kind, key)}"
    try:
        return unpack_arrays(store.read(kind, key), label, kind, (array,))[array]
    except KeyError as error:
        raise GeomatchError(f"{label} is gone; give the same command again") from error
    except DamagedError:
        store.remove(kind, key)  # made again by the next run
        raise

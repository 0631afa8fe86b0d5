"""Which images show the same place: one descriptor per image, pooled from the diffusion features."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.features import SCHEMA, Steps, StoredFeatures, make_missing
from geomatch.collection.folder import ImageFiles, Photograph
from geomatch.collection.pairs import best_partners
from geomatch.describers import DenseDescriber
from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import grouped, in_blocks
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.images import Image
from geomatch.provenance import cache_key, versions
from geomatch.store import Store

KIND, CHUNKS = "global", "chunks"
CHUNK = 4096  # images whose descriptors lie in one object, and are compared with as many at a time
_Row = NDArray[np.float64]
CONSTANT = 1e-6  # a channel whose deviation is this share of its mean is left out


def global_keys(photos: Sequence[Photograph], extractor: DenseDescriber) -> dict[str, str]:
    """Keys of the images' pooled features, by name."""
    parts = "pooled", cache_key(extractor), versions()
    return {photo.name: digest_of([SCHEMA, photo.sha256, *parts]) for photo in photos}


def pool_images(
    files: ImageFiles, photos: Sequence[Photograph], extractor: DenseDescriber, store: Store, work: Work
) -> tuple[str, ...]:
    """Pool the features of the images that the store does not hold yet; return all keys, one per image.

    Raises `GeomatchError` for images that cannot be read.
    """
    stored = StoredFeatures(store, global_keys(photos, extractor))
    steps = Steps(KIND, (), partial(_maps, extractor), _pooled)
    _, failed = make_missing(files, photos, stored, steps, extractor, work, "appearance")
    if failed:
        raise GeomatchError("images cannot be compared: " + "; ".join(grouped(failed)))
    return tuple(stored.keys.values())


def pooled_row(extractor: DenseDescriber, image: Image) -> NDArray[np.float32]:
    """(D,) pooled features of an image."""
    return _row(_maps(extractor, [image])[0])


def _maps(extractor: DenseDescriber, images: Sequence[Image]) -> list[list[NDArray[np.float32]]]:
    """The layers (D, h, w) of each image's map, in this machine's memory."""
    return [[layer.float().numpy(force=True) for layer in own.maps] for own in extractor.dense_many(images)]


def _pooled(layers: Sequence[NDArray[np.float32]]) -> bytes:
    return pack_arrays(KIND, {"row": _row(layers)})


def _row(layers: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(D,) mean and standard deviation of each channel over the normalised cells of each layer."""
    parts = []
    for layer in layers:
        # NumPy's sums, unlike torch's, do not depend on the number of threads
        cells = layer.reshape(len(layer), -1).astype(np.float64)
        cells /= np.maximum(np.linalg.norm(cells, axis=0), 1e-12)
        parts += [cells.mean(axis=1), cells.std(axis=1)]
    return np.concatenate(parts).astype(np.float32)


def nearest_images(store: Store, keys: Sequence[str], count: int, work: Work) -> NDArray[np.int64]:
    """Find the images that look most alike by pooled features, see `geomatch.collection.pairs.Nearest`."""
    chunks = [tuple(chunk) for chunk in in_blocks(keys, CHUNK)]
    gathered = _in_order(partial(_gather, store), chunks, "descriptors", work)
    mean, squares = np.sum(list(gathered), axis=0) / len(keys)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    names = tuple(digest_of(list(chunk)) for chunk in chunks)
    rank = partial(_rank, partial(_unit_rows, store, names, mean, deviation), len(keys), count)
    ranked = _in_order(rank, range(len(chunks)), "retrieval", work)
    return np.concatenate(list(ranked)).astype(np.int64)


def _in_order(function: Any, items: Sequence[Any], what: str, work: Work) -> Iterator[Any]:
    """The function's results for each item, in order."""
    found = dict(work.results(BlockTask(partial(_each, function)), [[i] for i in items], what, "chunk"))
    for item in items:
        if isinstance(found[item], FailedItem):
            raise GeomatchError(f"the images cannot be compared: {found[item].reason}")
        yield found[item]


def _each(function: Any, block: Sequence[Any]) -> list[Any]:
    return [function(item) for item in block]


def _gather(store: Store, keys: Sequence[str]) -> NDArray[np.float64]:
    """Gather the rows of a chunk in one object; (2, D) sums of the rows and of their squares."""
    rows = np.stack([read_array(store, KIND, key, "row") for key in keys])
    store.write(CHUNKS, digest_of(list(keys)), pack_arrays(CHUNKS, {"rows": rows}))
    wide = rows.astype(np.float64)
    return np.stack([wide.sum(axis=0), (wide**2).sum(axis=0)])


def _rank(
    read: Callable[[int], NDArray[np.float32]], total: int, count: int, number: int
) -> NDArray[np.int32]:
    """The best partners, among all images, of those of a chunk, whose rows are read by its number."""
    own, first = read(number), number * CHUNK

    def alike(part: slice, others: slice) -> NDArray[np.floating]:
        return own @ (own if others.start == first else read(others.start // CHUNK)).T

    return best_partners(alike, slice(first, first + len(own)), total, count, CHUNK).astype(np.int32)


def _unit_rows(
    store: Store, chunks: Sequence[str], mean: _Row, deviation: _Row, number: int
) -> NDArray[np.float32]:
    return unit_rows(read_array(store, CHUNKS, chunks[number], "rows"), mean, deviation)


def unit_rows(rows: NDArray[np.float32], mean: _Row, deviation: _Row) -> NDArray[np.float32]:
    """(N, D) unit rows, whose products say how alike images are.

    Channels are centred and divided by their deviation over the collection: features that all photographs
    share say nothing about which belong together.
    """
    wide = rows.astype(np.float64) - mean
    wide *= np.where(deviation > CONSTANT * np.abs(mean), 1 / np.maximum(deviation, 1e-12), 0)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), np.float32)


def read_array(store: Store, kind: str, key: str, array: str) -> NDArray[np.float32]:
    """An array of an object; raises `FeaturesError` if it is missing or damaged."""
    return store.needed(kind, key, lambda data, label: unpack_arrays(data, label, kind, (array,)))[array]

"""Which images show the same place: one descriptor per image, pooled from the diffusion features."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.features import SCHEMA, Steps, StoredFeatures, make_missing
from geomatch.collection.folder import ImageFiles, Photograph
from geomatch.collection.pairs import best_partners
from geomatch.describers import DenseDescriber
from geomatch.engine import Work
from geomatch.engine.run import grouped
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.images import Image
from geomatch.provenance import cache_key, versions
from geomatch.store import Store

KIND = "global"
CHUNK = 4096  # images that are compared with as many at a time
_READERS = 16  # objects read at a time
_Row = NDArray[np.float64]
CONSTANT = 1e-6  # a channel whose deviation is this share of its mean is left out


def global_keys(photos: Sequence[Photograph], extractor: DenseDescriber) -> dict[str, str]:
    """Keys of the images' pooled features, by name."""
    parts = "pooled", cache_key(extractor), versions()
    return {photo.name: digest_of([SCHEMA, photo.sha256, *parts]) for photo in photos}


def pool_images(
    files: ImageFiles, photos: Sequence[Photograph], extractor: DenseDescriber, store: Store, work: Work
) -> tuple[str, ...]:
    """Pool features that the store lacks; all keys, one per image. `GeomatchError` for unreadable ones."""
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


def nearest_images(store: Store, keys: Sequence[str], count: int) -> NDArray[np.int64]:
    """Find the images that look most alike by pooled features, see `geomatch.collection.pairs.Nearest`."""
    with ThreadPoolExecutor(_READERS) as threads:  # of object storage, which takes its time for each
        rows = np.stack(list(threads.map(lambda key: read_row(store, key), keys)))
    parts = [slice(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK)]
    wide = (rows[part].astype(np.float64) for part in parts)
    mean, squares = np.sum([[own.sum(axis=0), (own**2).sum(axis=0)] for own in wide], axis=0) / len(rows)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    for part in parts:
        rows[part] = unit_rows(rows[part], mean, deviation)

    def alike(part: slice, others: slice) -> NDArray[np.floating]:
        return rows[part] @ rows[others].T

    return best_partners(alike, len(rows), count, CHUNK, CHUNK)


def unit_rows(rows: NDArray[np.float32], mean: _Row, deviation: _Row) -> NDArray[np.float32]:
    """(N, D) unit rows, whose products say how alike images are.

    Channels are centred and divided by their deviation over the collection: features that all photographs
    share say nothing about which belong together.
    """
    wide = rows.astype(np.float64) - mean
    wide *= np.where(deviation > CONSTANT * np.abs(mean), 1 / np.maximum(deviation, 1e-12), 0)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), np.float32)


def read_row(store: Store, key: str) -> NDArray[np.float32]:
    """(D,) pooled features; raises `FeaturesError` if they are missing or damaged."""
    return store.needed(KIND, key, lambda data, label: unpack_arrays(data, label, KIND, ("row",)))["row"]

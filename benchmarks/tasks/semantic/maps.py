"""Feature maps of one category's images, made once and cached by content."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from geomatch.benchmarks.harness.cache import key_of, make_ahead, read_or_make
from geomatch.benchmarks.harness.task import Entry
from geomatch.benchmarks.methods.method import feature_key
from geomatch.benchmarks.methods.together import dense_maps
from geomatch.dift import FeatureMap
from geomatch.errors import ImageError
from geomatch.files import pack_arrays, sha256_of, unpack_arrays
from geomatch.images import load_image
from geomatch.store import Store

KIND = "maps"  # kind of the maps in the store
_LAYERS = tuple(f"layer{index}" for index in range(64))


@dataclass
class CachedMaps:
    """Maps of one category's images by the methods of one group."""

    folder: Path  # the data set's
    entries: Sequence[Entry]
    store: Store | None  # where they are cached
    _sums: dict[Path, str] = field(default_factory=dict)

    def prepare(self, paths: Sequence[Path], prompt: str, wanted: Sequence[int]) -> None:
        """Make and cache the maps of images by the methods at these places."""
        if self.store:
            make_ahead(
                self.store, KIND, paths, lambda path: [self._key(path, prompt, k) for k in wanted],
                lambda path: load_image(self.folder / path),
                partial(dense_maps, [self.entries[k].method for k in wanted], prompt=prompt), pack_map,
            )  # fmt: skip

    def of(self, path: Path, prompt: str, wanted: Sequence[int]) -> list[FeatureMap]:
        """The maps of an image by the methods at these places."""

        def make(places: list[int]) -> list[FeatureMap]:
            methods = [self.entries[wanted[place]].method for place in places]
            return [own for (own,) in dense_maps(methods, [load_image(self.folder / path)], prompt)]

        keys = [self._key(path, prompt, k) for k in wanted]
        return read_or_make(self.store, KIND, keys, make, pack_map, unpack_map)

    def _key(self, path: Path, prompt: str, place: int) -> str:
        if path not in self._sums:
            full = self.folder / path
            if not full.is_file():
                raise ImageError(f"{path}: no such file")
            self._sums[path] = sha256_of(full)
        entry = self.entries[place]
        return key_of(self._sums[path], feature_key(entry.key), prompt if entry.method.takes_text else None)


def pack_map(feature_map: FeatureMap) -> bytes:
    """A map for the store."""
    names = _LAYERS[: len(feature_map.maps)]
    layers = {name: layer.cpu().numpy() for name, layer in zip(names, feature_map.maps, strict=True)}
    return pack_arrays("FeatureMap", {"image_size": np.array(feature_map.image_size), **layers})


def unpack_map(data: bytes, label: str) -> FeatureMap:
    """A map from what `pack_map` gave."""
    arrays = unpack_arrays(data, label, "FeatureMap", ("image_size", _LAYERS[0]), _LAYERS[1:])
    width, height = arrays.pop("image_size")
    layers = tuple(torch.from_numpy(arrays[name]) for name in _LAYERS if name in arrays)
    return FeatureMap(layers, (int(width), int(height)))

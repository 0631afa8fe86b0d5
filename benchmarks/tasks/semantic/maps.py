"""Feature maps of images, made once and kept in a store by the content of image, weights and settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomatch.benchmarks.harness.keys import SCHEMA
from geomatch.benchmarks.methods.dense import DenseMethod
from geomatch.dift import FeatureMap
from geomatch.errors import DamagedError, ImageError
from geomatch.files import digest_of, pack_arrays, sha256_of, unpack_arrays
from geomatch.images import load_image
from geomatch.provenance import versions
from geomatch.store import Store

KIND = "maps"
"""Of the maps in the store."""
AT_ONCE = 8
"""Images that go through the network together."""
_LAYERS = tuple(f"layer{index}" for index in range(64))


@dataclass
class KeptMaps:
    """Maps of one category's images."""

    folder: Path
    """Of the data set."""
    method: DenseMethod
    identity: dict[str, Any]
    """`DenseMethod.identity`."""
    store: Store
    _prompted: dict[str, DenseMethod] = field(default_factory=dict)
    _sums: dict[Path, str] = field(default_factory=dict)

    def extract(self, paths: Sequence[Path], prompt: str) -> None:
        """Make all that are not kept yet, several at a time; images that cannot be read are left out."""
        wanted = []
        for path in paths:
            try:
                key = self._key(path, prompt)
                if not self.store.has(KIND, key):
                    wanted.append((key, load_image(self.folder / path)))
            except ImageError:
                continue
            if len(wanted) == AT_ONCE:
                self._make(wanted, prompt)
                wanted = []
        self._make(wanted, prompt)

    def of(self, path: Path, prompt: str) -> Iterator[tuple[str, FeatureMap]]:
        """The map of an image, under the name of the only cell.

        Raises:
            ImageError: when the image cannot be read.
        """
        key = self._key(path, prompt)
        found = self._stored(key)
        if found is None:
            (found,) = self._make([(key, load_image(self.folder / path))], prompt)
        yield "", found

    def kept(self, path: Path, prompt: str) -> FeatureMap | None:
        """The map of an image, if it is in the store; raises as `of`."""
        return self._stored(self._key(path, prompt))

    def _stored(self, key: str) -> FeatureMap | None:
        try:
            return unpack_map(self.store.read(KIND, key), key)
        except (KeyError, DamagedError):
            return None

    def _make(self, wanted: Sequence[tuple[str, Any]], prompt: str) -> list[FeatureMap]:
        if not wanted:
            return []
        if prompt not in self._prompted:
            self._prompted[prompt] = self.method.prompted(prompt)
        found = self._prompted[prompt].dense([image for _, image in wanted])
        for (key, _), feature_map in zip(wanted, found, strict=True):
            self.store.write(KIND, key, pack_map(feature_map))
        return found

    def _key(self, path: Path, prompt: str) -> str:
        if path not in self._sums:
            full = self.folder / path
            if not full.is_file():
                raise ImageError(f"{path}: no such file")
            self._sums[path] = sha256_of(full)
        text = prompt if self.method.takes_text else None
        return digest_of([SCHEMA, self._sums[path], self.identity["features"], text, versions()])


def pack_map(feature_map: FeatureMap) -> bytes:
    """For `unpack_map`."""
    names = _LAYERS[: len(feature_map.maps)]
    layers = {name: layer.cpu().numpy() for name, layer in zip(names, feature_map.maps, strict=True)}
    return pack_arrays("FeatureMap", {"image_size": np.array(feature_map.image_size), **layers})


def unpack_map(data: bytes, label: str) -> FeatureMap:
    """From what `pack_map` gave.

    Raises:
        DamagedError: naming ``label``, when the bytes are damaged.
    """
    arrays = unpack_arrays(data, label, "FeatureMap", ("image_size", _LAYERS[0]), _LAYERS[1:])
    width, height = arrays.pop("image_size")
    layers = tuple(torch.from_numpy(arrays[name]) for name in _LAYERS if name in arrays)
    return FeatureMap(layers, (int(width), int(height)))

"""The matches of many pairs in one object: object storage has millions of objects, not billions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import DamagedError, FeaturesError
from geomatch.files import pack_arrays, unpack_arrays
from geomatch.store.store import Store

KIND = "matches"
ARRAYS = ("counts", "indices", "similarity")
"""Arrays of a pack: how many matches each pair has, and those of all pairs, one after the other."""
_KEY = np.dtype("S32")
"""Raw SHA-256 of all that decides a result; zeros at the end, which NumPy drops, are dropped everywhere."""


def write_pack(store: Store, keys: Sequence[bytes], arrays: Mapping[str, Any]) -> str:
    """Write results in the order of their keys, raw SHA-256; return the pack's name, their checksum."""
    whole = b"".join(keys)
    name, rows = hashlib.sha256(whole).hexdigest(), np.frombuffer(whole, np.uint8).reshape(-1, 32)
    store.write(KIND, name, pack_arrays(KIND, {"keys": rows, **arrays}))
    return name


def read_pack(store: Store, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a pack, with ``keys`` (P, 32); raises `DamagedError`, or `KeyError` if it is missing."""
    return unpack_arrays(store.read(KIND, name), store.label(KIND, name), KIND, ("keys", *ARRAYS))


@dataclass(frozen=True, eq=False, slots=True)
class PackIndex:
    """Says which pack holds which key."""

    names: tuple[str, ...]  # names of the packs
    keys: NDArray[np.bytes_]  # (K,) sorted, of type S32
    places: NDArray[np.int32]  # (K, 2) pack and row of each

    @classmethod
    def read(cls, store: Store, mend: bool = False) -> "PackIndex":
        """Read the keys of all packs but damaged ones; ``mend`` removes these."""
        names: list[str] = []
        keys, places = [np.zeros(0, _KEY)], [np.zeros((0, 2), np.int32)]
        for name in sorted(store.sizes(KIND)):
            try:
                found = read_pack(store, name)["keys"]
            except KeyError:
                continue
            except DamagedError:
                if mend:
                    store.remove(KIND, name)
                continue
            rows = np.arange(len(found), dtype=np.int32)
            places.append(np.stack([np.full_like(rows, len(names)), rows], axis=1))
            keys.append(as_keys(found))
            names.append(name)
        every, where = np.concatenate(keys), np.concatenate(places)
        order = np.argsort(every, kind="stable")
        return cls(tuple(names), every[order], where[order])

    def find(self, wanted: NDArray[np.uint8]) -> NDArray[np.int32]:
        """(N, 2) pack and row of keys (N, 32); (-1, -1) for those that are in none."""
        found = np.full((len(wanted), 2), -1, np.int32)
        if len(self.keys) and len(wanted):
            keys = as_keys(wanted)
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            there = self.keys[place] == keys
            found[there] = self.places[place[there]]
        return found


def stored_results(
    store: Store, names: Sequence[str], places: NDArray[np.int32]
) -> Iterator[tuple[int, int, slice, dict[str, NDArray[Any]]]]:
    """Read the results that `PackIndex.find` found in the packs of these names, pack after pack.

    Yields the result's position in ``places``, its row, its slice of arrays with ``counts`` entries each, and
    the pack's arrays. Raises `FeaturesError` when a pack is missing or damaged.
    """
    order = np.lexsort((places[:, 1], places[:, 0]))
    starts = np.flatnonzero(np.diff(places[order, 0], prepend=-2))
    for part in np.split(order, starts[1:]) if len(order) else ():
        pack = int(places[part[0], 0])
        if pack < 0:
            continue
        try:
            found = read_pack(store, names[pack])
        except (KeyError, DamagedError) as error:
            label = store.label(KIND, names[pack])
            raise FeaturesError(f"{label} is missing or damaged; give the same command again") from error
        ends = np.cumsum(found["counts"])
        for position in part.tolist():
            row = int(places[position, 1])
            yield position, row, slice(int(ends[row] - found["counts"][row]), int(ends[row])), found


def as_keys(rows: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """(N,) of type S32 from bytes (N, 32)."""
    return np.ascontiguousarray(rows, np.uint8).reshape(-1, 32).view(_KEY).reshape(-1)

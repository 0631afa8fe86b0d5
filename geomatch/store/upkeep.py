"""Looking into a store: what is there, what is damaged, and what no run needs any more."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from geomatch.errors import DamagedError, GeomatchError
from geomatch.store.manifest import KIND as RUNS
from geomatch.store.manifest import Manifest
from geomatch.store.packs import PackIndex, as_keys, read_pack
from geomatch.store.store import Store

OBJECTS = ("features", "global")  # kinds whose objects manifests name
KINDS = (RUNS, *OBJECTS, "matches", "views", "maps", "rows", "tracks")


class RunState(NamedTuple):
    """A run, and how much of it the store holds."""

    manifest: Manifest
    done: dict[str, tuple[int, int]]  # by kind of object: how many are there, and how many are needed

    @property
    def whole(self) -> bool:
        """True if nothing failed, and all is there."""
        there = all(there == of for there, of in self.done.values())
        return there and self.manifest.complete and not self.manifest.failed


def inspect_store(store: Store) -> tuple[dict[str, tuple[int, int]], list[RunState], list[str]]:
    """Number and bytes of the objects by kind, runs, the newest first, and keys of damaged manifests."""
    store.check()
    sizes = {kind: store.sizes(kind) for kind in KINDS}
    manifests, damaged = _manifests(store, sizes[RUNS])
    held: PackIndex | None = None
    states = []
    for manifest in manifests:
        wanted = {kind: set(keys) for kind, keys in manifest.objects.items()}
        done = {kind: (len(keys & sizes[kind].keys()), len(keys)) for kind, keys in wanted.items()}
        if len(manifest.pair_keys):
            held = held or PackIndex.read(store)
            there = int((held.find(manifest.pair_keys)[:, 0] >= 0).sum())
            done["pairs"] = there, len(manifest.pair_keys)
        states.append(RunState(manifest, done))
    states.sort(key=lambda state: state.manifest.started, reverse=True)
    counted = {kind: (len(found), sum(found.values())) for kind, found in sizes.items() if found}
    return counted, states, damaged


def prune_store(store: Store, forget: Sequence[str] = ()) -> tuple[int, int]:
    """Remove what no run needs, while no run is under way; the numbers of objects and of their bytes.

    Results of the benchmarks, which no manifest names, stay. ``forget`` are runs to remove first, by the
    beginning of their key.
    """
    runs = store.sizes(RUNS)
    forgotten = {_run(runs, text) for text in forget}
    manifests, damaged = _manifests(store, [key for key in runs if key not in forgotten])
    if damaged:
        text = f"the manifest of run {damaged[0][:12]} is damaged, so that what it needs is not known"
        raise GeomatchError(f"{store.url}: {text}: give its command again, or forget it (--forget)")
    if not manifests:
        raise GeomatchError(f"{store.url}: no run would be left; remove the folder instead")
    going = [(RUNS, key, runs[key]) for key in forgotten]
    for kind in OBJECTS:
        wanted = {key for manifest in manifests for key in manifest.objects.get(kind, ())}
        going += [(kind, key, size) for key, size in store.sizes(kind).items() if key not in wanted]
    pairs = np.unique(np.concatenate([as_keys(manifest.pair_keys) for manifest in manifests]))
    for name, size in store.sizes("matches").items():
        try:
            keys = as_keys(read_pack(store, name)["keys"])
        except (KeyError, DamagedError):  # the next run that reads it removes it
            continue
        if not np.isin(keys, pairs).any():
            going.append(("matches", name, size))
    for kind, key, _ in going:
        store.remove(kind, key)
    return len(going), sum(size for *_, size in going)


def _manifests(store: Store, keys: Iterable[str]) -> tuple[list[Manifest], list[str]]:
    found, damaged = [], []
    for key in keys:
        try:
            found.append(Manifest.load(store, key))
        except DamagedError:
            damaged.append(key)
        except KeyError:  # removed meanwhile
            continue
    return found, damaged


def _run(runs: Iterable[str], text: str) -> str:
    found = [key for key in runs if key.startswith(text)]
    if len(found) != 1 or not text:
        raise GeomatchError(f"{text!r} names {len(found)} runs; `geomatch store info` lists them")
    return found[0]

"""Looking into a store: what is there, what is damaged, and what no run needs any more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from geomatch.errors import DamagedError, GeomatchError
from geomatch.files import is_sound
from geomatch.store.manifest import KIND as RUNS
from geomatch.store.manifest import Manifest
from geomatch.store.packs import PackIndex, as_keys, read_pack
from geomatch.store.store import Store

OBJECTS = ("features", "global", "chunks", "refined")
"""Kinds whose objects manifests name, and ``chunks``, which only serve the choice of pairs."""
PACKS = {
    "matches": ("counts", "indices", "similarity"),
    "geometries": ("kinds", "matrices", "counts", "inliers"),
}
"""Kinds of packs, and their arrays."""
EVALUATIONS = ("views", "maps", "rows", "tracks")
"""Kinds of `geomatch benchmark` and `geomatch track`."""
KINDS = (RUNS, *OBJECTS, *PACKS, *EVALUATIONS)


@dataclass(frozen=True, slots=True)
class RunState:
    """A run, and how much of it the store holds."""

    manifest: Manifest
    done: dict[str, tuple[int, int]]
    """By kind of object: how many are there, and how many are needed."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds."""

    objects: dict[str, tuple[int, int]]
    """By kind: number and bytes."""
    runs: tuple[RunState, ...]
    """Newest first."""
    damaged: tuple[str, ...]
    """Runs whose manifest cannot be read."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be."""

    objects: int
    bytes: int
    temporary_files: int
    """Half-written files of killed processes."""


def inspect_store(store: Store) -> StoreInfo:
    """Count the store's objects and find the state of every run."""
    sizes = {kind: store.sizes(kind) for kind in KINDS}
    manifests, damaged = _manifests(store, sizes[RUNS])
    held: PackIndex | None = None
    states = []
    for manifest in manifests:
        done = {}
        for kind, keys in manifest.objects.items():
            wanted = set(keys)
            done[kind] = len(wanted & sizes[kind].keys()), len(wanted)
        if len(manifest.pair_keys):
            held = held or PackIndex.read(store, "matches", PACKS["matches"])
            there = int((held.find(manifest.pair_keys)[:, 0] >= 0).sum())
            done["pairs"] = there, len(manifest.pair_keys)
        states.append(RunState(manifest, done))
    states.sort(key=lambda state: state.manifest.started, reverse=True)
    counted = {kind: (len(found), sum(found.values())) for kind, found in sizes.items() if found}
    return StoreInfo(counted, tuple(states), tuple(damaged))


def verify_store(store: Store, remove: bool = False, progress: bool = True) -> tuple[int, list[str]]:
    """Read everything and compare checksums.

    Args:
        store: the store.
        remove: remove damaged objects, so that the next run makes them again; manifests stay, since without
            them it would not be known what a run needs.
        progress: show a bar.

    Returns:
        Number of objects read, and names of the damaged ones.
    """
    found = [(kind, key) for kind in KINDS for key in sorted(store.sizes(kind))]
    damaged = []
    checked = 0
    for kind, key in tqdm(found, desc="verify", unit="object", disable=None if progress else True):
        try:
            sound = is_sound(store.read(kind, key))
        except KeyError:  # removed meanwhile
            continue
        checked += 1
        if not sound:
            damaged.append(store.name(kind, key))
            if remove and kind != RUNS:
                store.remove(kind, key)
    return checked, damaged


def prune_store(store: Store, forget: Sequence[str] = (), dry_run: bool = False) -> Pruned:
    """Remove what no run needs, and what killed processes left half-written, while no run is under way.

    Verified geometries and results of the benchmarks, which no manifest names, stay.

    Args:
        store: the store.
        forget: runs to remove first, by the beginning of their key.
        dry_run: change nothing.

    Raises:
        GeomatchError: when there is no such run, no run would be left, or a manifest is damaged.
    """
    runs = store.sizes(RUNS)
    forgotten = {_run(runs, text) for text in forget}
    manifests, damaged = _manifests(store, [key for key in runs if key not in forgotten])
    if damaged:
        raise GeomatchError(
            f"{store.url}: the manifest of run {damaged[0][:12]} is damaged, so that what it needs is not "
            "known: give its command again, or forget it (--forget)"
        )
    if not manifests:
        raise GeomatchError(
            f"{store.url}: no run would be left, so that all would go; remove the folder instead"
        )
    going = [(RUNS, key, runs[key]) for key in forgotten]
    for kind in OBJECTS:
        wanted = {key for manifest in manifests for key in manifest.objects.get(kind, ())}
        going += [(kind, key, size) for key, size in store.sizes(kind).items() if key not in wanted]
    pairs = np.unique(np.concatenate([as_keys(manifest.pair_keys) for manifest in manifests]))
    going += [("matches", name, size) for name, size in _unused(store, "matches", pairs)]
    temporary = store.temporary_files(KINDS)
    if not dry_run:
        for kind, key, _ in going:
            store.remove(kind, key)
        for name in temporary:
            store.remove_file(name)
    return Pruned(len(going), sum(size for *_, size in going), len(temporary))


def _unused(
    store: Store, kind: str, wanted: np.ndarray[tuple[int], np.dtype[np.bytes_]]
) -> list[tuple[str, int]]:
    """Names and sizes of the packs none of whose keys is wanted."""
    found = []
    for name, size in store.sizes(kind).items():
        try:
            keys = read_pack(store, kind, name, PACKS[kind])["keys"]
        except (KeyError, DamagedError):  # verify tells
            continue
        if not np.isin(as_keys(keys), wanted).any():
            found.append((name, size))
    return found


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
        raise GeomatchError(
            f"{text!r} names {len(found)} runs of the store; `geomatch store info` lists them"
        )
    return found[0]

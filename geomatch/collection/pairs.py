"""Which images are matched with which: rules, their limits, and how many pairs each gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.folder import ImageFolder, position
from geomatch.collection.options import PAIRS, PairSelection
from geomatch.errors import GeomatchError, reading
from geomatch.files import natural_order

Pair = tuple[str, str]
EXHAUSTIVE_LIMIT = 60  # by default larger collections are not matched exhaustively (60 images are 1770 pairs)
NEIGHBOURS = 20  # partners per image that retrieval and GPS look for by default
_ROWS = 64  # positions compared with all others at a time
Nearest = Callable[[int], NDArray[np.int64]]
"""(N, count) indices of the images that look most alike, best first, -1 where there are fewer."""
Positions = Mapping[str, tuple[float, float]]
"""Latitude and longitude in degrees, by name."""
Score = Callable[[slice, slice], NDArray[np.floating]]
"""(n, m) scores of some items with others, larger is better, minus infinity for never."""


@dataclass(frozen=True, slots=True)
class PairReport:
    """Pairs of names, the first smaller in order, and where they came from."""

    pairs: tuple[Pair, ...]
    """In the order found, each once."""
    given: dict[str, int]
    """By rule: pairs that no rule before it gave."""
    remarks: tuple[str, ...]
    """What was left out."""

    def text(self) -> str:
        """One line per rule."""
        lines = [f"{count:>7} pairs by {rule}" for rule, count in self.given.items()]
        return "\n".join([*lines, *self.remarks])


def select_pairs(
    folder: ImageFolder,
    selection: PairSelection = PAIRS,
    nearest: Nearest | None = None,
    positions: Positions | None = None,
) -> PairReport:
    """Apply the rules of a selection one after the other.

    ``retrieval`` needs ``nearest``; ``gps`` reads positions that are not given from the files.
    Raises `GeomatchError` when a file of pairs cannot be read.
    """
    names, max_pairs = folder.names, selection.max_pairs
    pairs: dict[Pair, None] = {}
    load = dict.fromkeys(names, 0)
    given: dict[str, int] = {}
    remarks: list[str] = []
    refused: set[Pair] = set()
    for rule in selection.rules or ["retrieval" if needs_retrieval(selection, len(names)) else "exhaustive"]:
        given.setdefault(rule, 0)
        for a, b in _apply(rule, folder, nearest, positions, remarks):
            pair = (a, b) if a < b else (b, a)
            if pair in pairs:
                continue
            if max_pairs is not None and max(load[a], load[b]) >= max_pairs:
                refused.add(pair)
                continue
            pairs[pair] = None
            load[a] += 1
            load[b] += 1
            given[rule] += 1
    if refused:
        remarks.append(f"{len(refused)} pairs left out: no image may be in more than {max_pairs}")
    alone = [name for name, count in load.items() if count == 0]
    if alone:
        remarks.append(f"{len(alone)} images are in no pair: {', '.join([*alone[:3], '...'][: len(alone)])}")
    return PairReport(tuple(pairs), given, tuple(remarks))


def needs_retrieval(selection: PairSelection, images: int) -> bool:
    """True if `select_pairs` compares images by their looks."""
    return selection.uses("retrieval") or (not selection.rules and images > EXHAUSTIVE_LIMIT)


def _apply(
    rule: str, folder: ImageFolder, nearest: Nearest | None, positions: Positions | None, remarks: list[str]
) -> Iterator[Pair]:
    kind, _, value = rule.partition(":")
    names = folder.names
    if kind == "exhaustive":
        yield from combinations(names, 2)
    elif kind == "sequential":
        ordered = natural_order(names)
        for step in range(1, int(value or 10) + 1):
            yield from zip(ordered, ordered[step:], strict=False)
    elif kind == "file":
        yield from _listed(Path(value), set(names), remarks)
    elif kind == "gps":
        if positions is None:
            positions = {n: found for n in names if (found := position(folder.root / n)) is not None}
        yield from _nearby(names, positions, int(value or NEIGHBOURS), remarks)
    else:
        if nearest is None:
            raise ValueError(f"{rule} needs global descriptors")
        count = min(int(value or NEIGHBOURS), len(names) - 1)
        if count > 0:
            yield from _ranked(names, nearest(count))


def _ranked(names: Sequence[str], chosen: NDArray[np.int64]) -> Iterator[Pair]:
    """Pair every image with its best, all first choices before the second ones."""
    for column in chosen.T:
        for name, other in zip(names, column, strict=True):
            if other >= 0:
                yield name, names[other]


def read_list(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number, text and names of each line that is not empty; names are split at spaces, or at tabs if any."""
    with reading(path, "list of pairs"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            parts = line.split("\t") if "\t" in line else line.split()
            yield number, line, [part.strip() for part in parts]


def _listed(path: Path, known: set[str], remarks: list[str]) -> Iterator[Pair]:
    unknown = 0
    for number, line, pair in read_list(path):
        if len(pair) == 3:
            with suppress(ValueError):
                float(pair[2])  # a score
                del pair[2]
        if line.lstrip().startswith("#") and not known.issuperset(pair):
            continue
        if len(pair) != 2 or pair[0] == pair[1]:
            text = "expected two different image names and a space, or a tab if they have spaces, between"
            raise GeomatchError(f"{path}:{number}: {text}, got {line!r}")
        if known.issuperset(pair):
            yield pair[0], pair[1]
        else:
            unknown += 1
    if unknown:
        remarks.append(f"{unknown} pairs of {path} name images that are not there")


def _nearby(names: Sequence[str], positions: Positions, count: int, remarks: list[str]) -> Iterator[Pair]:
    found = {name: positions[name] for name in names if name in positions}
    if len(found) < len(names):
        remarks.append(f"{len(names) - len(found)} of {len(names)} images have no EXIF position")
    total = len(found)
    count = min(count, total - 1)
    if count < 1:
        return
    latitude, longitude = np.radians(np.array(list(found.values()))).T
    # chords of the unit sphere are ordered as distances on it; from differences, since products of near
    # points differ in their last bits only
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )

    def near(part: slice, others: slice) -> NDArray[np.floating]:
        distances: NDArray[np.floating] = ((points[part, None] - points[None, others]) ** 2).sum(axis=-1)
        return -distances

    yield from _ranked(list(found), best_partners(near, total, count, _ROWS, 64 * _ROWS))


def best_partners(score: Score, total: int, count: int, rows: int, step: int) -> NDArray[np.int64]:
    """(total, count) partners with the best scores, of equals the first, -1 for none; block by block."""
    ranked = []
    for first in range(0, total, rows):
        own = np.arange(first, min(first + rows, total))
        values, chosen = np.full((len(own), count), -np.inf), np.full((len(own), count), -1)
        for start in range(0, total, step):
            others = np.arange(start, min(start + step, total))
            found = score(slice(first, own[-1] + 1), slice(start, others[-1] + 1)).astype(np.float64)
            found[own[:, None] == others[None]] = -np.inf
            every = np.concatenate([values, found], axis=1)
            names = np.concatenate([chosen, np.broadcast_to(others, found.shape)], axis=1)
            best = np.argpartition(-every, count - 1, axis=1)[:, :count]
            values, chosen = np.take_along_axis(every, best, axis=1), np.take_along_axis(names, best, axis=1)
        order = np.lexsort((chosen, -values), axis=1)
        chosen = np.where(values > -np.inf, chosen, -1)
        ranked.append(np.take_along_axis(chosen, order, axis=1))
    return np.concatenate(ranked)

"""Which images are matched with which: rules, their limits, and how many pairs each gave."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.folder import ImageFolder
from geomatch.collection.gps import position
from geomatch.errors import GeomatchError

Pair = tuple[str, str]
EXHAUSTIVE_LIMIT = 60
"""By default larger collections are not matched exhaustively (60 images are 1770 pairs)."""
NEIGHBOURS = 20
"""Partners per image that retrieval and GPS look for by default."""
LOOP_GAP = 10
"""Places in natural order that images of a loop are apart, at least one more."""
ROWS = 64
"""Images compared with all others at a time."""


@dataclass(frozen=True, slots=True)
class PairReport:
    """Pairs of names, the first smaller in order, and where they came from."""

    pairs: tuple[Pair, ...]
    """In the order found, each once."""
    given: dict[str, int]
    """By rule: pairs that no rule before it gave."""
    remarks: tuple[str, ...]
    """What was left out, in words."""

    def text(self) -> str:
        """One line per rule."""
        lines = [f"{count:>7} pairs by {rule}" for rule, count in self.given.items()]
        return "\n".join([*lines, *self.remarks])


def select_pairs(
    folder: ImageFolder,
    rules: Sequence[str] = (),
    max_pairs: int | None = None,
    appearance: Callable[[], NDArray[np.floating]] | None = None,
) -> PairReport:
    """Apply rules one after the other.

    - ``exhaustive``: every pair;
    - ``sequential:N``: the next N images in natural order (``img9`` before ``img10``); 10 if not said;
    - ``retrieval:N``: the N images that look most alike; 20 if not said;
    - ``loop:N``: the same among images more than 10 apart in natural order, for sequences that come back;
    - ``gps:N``: the N nearest by EXIF position; 20 if not said;
    - ``file:PATH``: two names per line, separated by a space, or by a tab when names have spaces; a number
      after them is passed over, and so are lines that begin with ``#``, unless they name two images.

    Args:
        folder: the images.
        rules: by default ``exhaustive`` up to 60 images, above them ``retrieval:20``.
        max_pairs: no image is in more pairs than this; those of earlier rules and ranks come first.
        appearance: gives (N, D) rows whose products are larger for images that look more alike (see
            `geomatch.collection.retrieval.comparable`); needed by ``retrieval`` and ``loop``.

    Raises:
        ValueError: for rules that are none, or that need what is not there.
        GeomatchError: when a file of pairs cannot be read.
    """
    names = folder.names
    chosen = list(rules) or ["exhaustive" if len(names) <= EXHAUSTIVE_LIMIT else "retrieval"]
    pairs: dict[Pair, None] = {}
    load = dict.fromkeys(names, 0)
    given: dict[str, int] = {}
    remarks: list[str] = []
    refused: set[Pair] = set()
    for rule in chosen:
        fresh = 0
        for a, b in _apply(rule, folder, appearance, remarks):
            pair = (a, b) if a < b else (b, a)
            if pair in pairs:
                continue
            if max_pairs is not None and max(load[a], load[b]) >= max_pairs:
                refused.add(pair)
                continue
            pairs[pair] = None
            load[a] += 1
            load[b] += 1
            fresh += 1
        given[rule] = given.get(rule, 0) + fresh
    if refused:
        remarks.append(f"{len(refused)} pairs left out: no image may be in more than {max_pairs}")
    alone = [name for name, count in load.items() if count == 0]
    if alone:
        remarks.append(
            f"{len(alone)} images are in no pair: {', '.join(alone[:3])}{' ...'[: 4 * (len(alone) > 3)]}"
        )
    return PairReport(tuple(pairs), given, tuple(remarks))


def check_rules(rules: Iterable[str]) -> None:
    """Raise ValueError unless all are rules of `select_pairs`."""
    for rule in rules:
        kind, _, value = rule.partition(":")
        numbered = kind in ("sequential", "retrieval", "loop", "gps")
        good = (
            (kind == "exhaustive" and not value)
            or (kind == "file" and value)
            or (numbered and (not value or (value.isascii() and value.isdigit() and int(value) > 0)))
        )
        if not good:
            raise ValueError(
                f"{rule!r} is no rule for pairs: give exhaustive, sequential:N, retrieval:N, loop:N, gps:N "
                "or file:PATH"
            )


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted with numbers by their value.

    >>> natural_order(["img10.png", "img9.png"])
    ['img9.png', 'img10.png']
    """
    return sorted(
        names, key=lambda name: ([(int(d or 0), t) for d, t in re.findall(r"(\d*)(\D*)", name)], name)
    )


def _apply(
    rule: str,
    folder: ImageFolder,
    appearance: Callable[[], NDArray[np.floating]] | None,
    remarks: list[str],
) -> Iterator[Pair]:
    check_rules([rule])
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
        yield from _nearby(folder, int(value or NEIGHBOURS), remarks)
    else:
        if appearance is None:
            raise ValueError(f"{rule} needs global descriptors")
        place = {name: index for index, name in enumerate(natural_order(names))}
        order = np.array([place[name] for name in names])
        rows = appearance()

        def alike(part: slice) -> NDArray[np.floating]:
            scores = rows[part] @ rows.T
            if kind == "loop":
                scores[np.abs(order[part, None] - order[None]) <= LOOP_GAP] = -np.inf
            return scores

        yield from _best(names, alike, int(value or NEIGHBOURS))


def _best(names: Sequence[str], score: Callable[[slice], NDArray[np.floating]], count: int) -> Iterator[Pair]:
    """Every image with its best, all first choices before the second ones.

    Args:
        names: of N images.
        score: (n, N) of some of the images with all; they are asked for in blocks, so that memory grows
            with N and not with its square.
        count: of the best.
    """
    count = min(count, len(names) - 1)
    if count < 1:
        return
    chosen = np.full((len(names), count), -1)
    for start in range(0, len(names), ROWS):
        part = slice(start, min(start + ROWS, len(names)))
        scores = np.array(score(part), np.float64)
        scores[np.arange(len(scores)), np.arange(part.start, part.stop)] = -np.inf
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        ranked = np.take_along_axis(best, order, axis=1)
        chosen[part] = np.where(np.take_along_axis(values, order, axis=1) > -np.inf, ranked, -1)
    for rank in range(count):
        for index, name in enumerate(names):
            if chosen[index, rank] >= 0:
                yield name, names[chosen[index, rank]]


def _listed(path: Path, known: set[str], remarks: list[str]) -> Iterator[Pair]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GeomatchError(f"{path}: cannot be read as a list of pairs ({error})") from error
    unknown = 0
    for number, line in enumerate(lines, 1):
        parts = line.split("\t") if "\t" in line else line.split()
        pair = [part.strip() for part in parts]
        if len(pair) == 3 and _is_number(pair[2]):  # a score
            del pair[2]
        if not line.strip() or (line.lstrip().startswith("#") and not known.issuperset(pair)):
            continue
        if len(pair) != 2 or pair[0] == pair[1]:
            raise GeomatchError(
                f"{path}:{number}: expected two different image names separated by a space, or by a tab "
                f"when names have spaces, got {line!r}"
            )
        if known.issuperset(pair):
            yield pair[0], pair[1]
        else:
            unknown += 1
    if unknown:
        remarks.append(f"{unknown} pairs of {path} name images that are not there")


def _nearby(folder: ImageFolder, count: int, remarks: list[str]) -> Iterator[Pair]:
    found = {name: place for name in folder.names if (place := position(folder.path(name))) is not None}
    lacking = len(folder.names) - len(found)
    if lacking:
        remarks.append(f"{lacking} of {len(folder.names)} images have no EXIF position")
    if len(found) < 2:
        return
    latitude, longitude = np.radians(np.array(list(found.values()))).T
    # chords between points of the unit sphere order as distances on it do; of differences, since products
    # of near points differ in their last bits only
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )

    def near(part: slice) -> NDArray[np.floating]:
        distances: NDArray[np.floating] = ((points[part, None] - points[None]) ** 2).sum(axis=-1)
        return -distances

    yield from _best(list(found), near, count)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Read it or make it: features, maps and rows of a run."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from geomatch.benchmarks.harness.task import Row
from geomatch.errors import DamagedError, ImageError, reading
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.stream import ahead

SCHEMA = 5  # version of the record's layout and of what is cached; part of every key
ROWS = "rows"  # kind of the rows in the store
AT_ONCE = 8  # most images that go through a network together
Value = TypeVar("Value")


def key_of(*parts: object) -> str:
    """SHA-256 of all that decides an object, and of the versions of the packages."""
    return digest_of([SCHEMA, *parts, versions()])


def read_or_make(
    store: Store | None,
    kind: str,
    keys: Sequence[str],
    make: Callable[[list[int]], Sequence[Value]],
    pack: Callable[[Value], bytes],
    unpack: Callable[[bytes, str], Value],
) -> list[Value]:
    """`Store.cached`; without a store all are made, and nothing is written."""
    return store.cached(kind, keys, make, pack, unpack) if store else list(make(list(range(len(keys)))))


def make_ahead(
    store: Store,
    kind: str,
    images: Sequence[Path],
    keys: Callable[[Path], list[str]],
    read: Callable[[Path], Any],
    make: Callable[[list[Any]], Sequence[Sequence[Value]]],
    pack: Callable[[Value], bytes],
) -> None:
    """Make and store what is not there of images, `AT_ONCE` together, while threads read those that follow.

    ``make`` gives for each key of an image the objects of all images. One that cannot be read is left out:
    its rows will say so.
    """

    def opened(path: Path) -> tuple[list[str], Any] | None:
        with suppress(ImageError):
            own = keys(path)
            if not all(store.has(kind, key) for key in own):
                return own, read(path)
        return None

    with closing(ahead(opened, images)) as found:
        todo = filter(None, found)
        while block := list(islice(todo, AT_ONCE)):
            made = zip(*make([content for _, content in block]), strict=True)
            for (own, _), objects in zip(block, made, strict=True):
                for key, one in zip(own, objects, strict=True):
                    store.write(kind, key, pack(one))


def pack_rows(rows: list[Row]) -> bytes:
    """Rows for the store."""
    return pack_arrays(ROWS, {"rows": json.dumps(rows, allow_nan=False)})


def unpack_rows(data: bytes, label: str) -> list[Row]:
    """Rows from what `pack_rows` gave; raises `DamagedError` naming ``label``."""
    with reading(label, "list of rows", DamagedError):
        rows: list[Row] = json.loads(str(unpack_arrays(data, label, ROWS, ("rows",))["rows"]))
        return [dict(row) for row in rows]

"""Read it or make it: features, maps and rows of a run."""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from geomatch.benchmarks.harness.task import Row
from geomatch.errors import DamagedError, reading
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions
from geomatch.store import Store

SCHEMA = 5  # version of the record's layout and of what is cached; part of every key
ROWS = "rows"  # kind of the rows in the store
Value = TypeVar("Value")


def key_of(*parts: object) -> str:
    """SHA-256 of all that decides an object, and of the versions of the packages."""
    return digest_of([SCHEMA, *parts, versions("pycolmap")])


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


def pack_rows(rows: list[Row]) -> bytes:
    """Rows for the store."""
    return pack_arrays(ROWS, {"rows": json.dumps(rows, allow_nan=False)})


def unpack_rows(data: bytes, label: str) -> list[Row]:
    """Rows from what `pack_rows` gave; raises `DamagedError` naming ``label``."""
    with reading(label, "list of rows", DamagedError):
        rows: list[Row] = json.loads(str(unpack_arrays(data, label, ROWS, ("rows",))["rows"]))
        return [dict(row) for row in rows]

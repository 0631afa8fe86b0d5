"""Keys of what a run caches, and its rows as the store holds them."""

import json

from geomatch.benchmarks.harness.task import Row
from geomatch.errors import DamagedError, reading
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions

SCHEMA = 5  # version of the record's layout and of what is cached; part of every key
ROWS = "rows"  # kind of the rows in the store


def key_of(*parts: object) -> str:
    """SHA-256 of all that decides an object, and of the versions of the packages."""
    return digest_of([SCHEMA, *parts, versions("pycolmap")])


def pack_rows(rows: list[Row]) -> bytes:
    """Rows for the store."""
    return pack_arrays(ROWS, {"rows": json.dumps(rows, allow_nan=False)})


def unpack_rows(data: bytes, label: str) -> list[Row]:
    """Rows from what `pack_rows` gave; raises `DamagedError` naming ``label``."""
    with reading(label, "list of rows", DamagedError):
        rows: list[Row] = json.loads(str(unpack_arrays(data, label, ROWS, ("rows",))["rows"]))
        return [dict(row) for row in rows]

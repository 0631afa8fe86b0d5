"""The record of a run: written, read, checked, summed up."""

import json
from pathlib import Path
from typing import Any

from geomatch.benchmarks.hpatches.keys import SCHEMA
from geomatch.benchmarks.hpatches.protocols import Protocol, Row, summarise
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, replacing

_FIRST = ("protocol", "method", "split", "pairs", "failures")
_MMA = ("MMA@1", "MMA@2", "MMA@3", "MMA@5", "MMA@10")  # in tables; records have all


def write_run(folder: Path, record: dict[str, Any]) -> Path:
    """Write ``hpatches-<content>.json`` and return its path; the same run has the same name."""
    keys = ("data", "protocols", "methods", "max_keypoints", "versions")
    path = folder / f"hpatches-{digest_of([record[key] for key in keys])[:12]}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_run(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        GeomatchError: when it is none, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise GeomatchError(f"{path}: not a readable record ({error})") from error
    keys = {"schema", "data", "protocols", "methods", "skipped", "versions", "machine", "rows"}
    if not isinstance(record, dict) or not keys <= record.keys():
        raise GeomatchError(f"{path}: not a record of geomatch benchmark hpatches")
    if record["schema"] != SCHEMA:
        raise GeomatchError(
            f"{path}: a record of layout {record['schema']}, this version reads {SCHEMA}; run again"
        )
    return record


def protocols_of(record: dict[str, Any]) -> list[Protocol]:
    """The definitions under which the record was taken, whatever this version's are."""
    found = []
    for fields in record["protocols"].values():
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        found.append(Protocol(**{**fields, **lists}))
    return found


def summarise_record(record: dict[str, Any]) -> list[Row]:
    """One row per method, protocol and split of a record."""
    found = []
    for protocol in protocols_of(record):
        for method in record["methods"]:
            own = [r for r in record["rows"] if (r["protocol"], r["method"]) == (protocol.name, method)]
            if own:
                labels = {"protocol": protocol.name, "method": method}
                found += [{**labels, **row} for row in summarise(protocol, own)]
    return found


def table(summaries: list[Row]) -> str:
    """In Markdown, one table per protocol, so that no number loses its protocol."""
    blocks = []
    for name in dict.fromkeys(row["protocol"] for row in summaries):
        own = [row for row in summaries if row["protocol"] == name]
        columns = columns_of(own)
        lines = [f"### {name}", "", "| method | split | pairs | failures | " + " | ".join(columns) + " |"]
        lines.append("| --- " * (4 + len(columns)) + "|")
        for row in own:
            cells = [str(row[key]).replace("|", "\\|") for key in _FIRST[1:]]
            cells += [cell(row, column) for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def columns_of(summaries: list[Row]) -> list[str]:
    """The measures that a table shows."""
    shown = (key for row in summaries for key in row if key not in _FIRST and not key.endswith("spread"))
    return [key for key in dict.fromkeys(shown) if not key.startswith("MMA") or key in _MMA]


def cell(row: Row, column: str) -> str:
    """A measure as a table shows it: percentages with one digit, half the range of seeds beside them."""
    value, spread = row.get(column), row.get(f"{column} spread")
    if value is None:
        return "-"
    digits = 1 if "@" in column else 3
    return f"{value:.{digits}f}" + (f" ± {spread / 2:.1f}" if spread is not None else "")

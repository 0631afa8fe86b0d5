"""Published numbers, each under the protocol it was taken with; a task's ``published.json`` has them."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of somebody's table."""

    protocol: str  # its name
    method: str
    split: str
    measures: dict[str, float]  # by the names that our tables have; percentages, and repeatability as a share
    source: str
    note: str = ""  # what differs from the protocol, as far as the source says


@cache
def published_rows(package: str, protocol: str) -> tuple[PublishedRow, ...]:
    """Rows under one protocol of the task in that package; none where no source was read."""
    text = files(package).joinpath("published.json").read_text(encoding="utf-8")
    content = json.loads(text)
    rows = [
        PublishedRow(protocol=group["protocol"], source=group["source"], note=group.get("note", ""), **row)
        for group in content
        for row in group["rows"]
    ]
    return tuple(row for row in rows if row.protocol == protocol)

"""What examining a database finds: problems counted by kind, with the first cases by name."""

import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]
Array = NDArray[Any]
_SHOWN = 3
"""Cases of a problem that are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of mistake, or something worth knowing."""

    severity: Severity
    """An error makes COLMAP fail or compute nonsense; a note may be intended."""
    message: str
    """One line: how often, the first cases, what is wrong, what to do."""


class Photo(NamedTuple):
    """A row of images, with the (width, height) of its camera; None when the camera is missing."""

    name: str
    size: tuple[int, int] | None


@dataclass(slots=True)
class Tally:
    """Counts the cases of each problem: severity, subject and text."""

    number: Counter[tuple[Severity, str, str]] = field(default_factory=Counter)
    first: dict[tuple[Severity, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    configurations: Counter[str] = field(default_factory=Counter)  # of the two-view geometries

    def add(self, severity: Severity, subject: str, text: str, case: str = "") -> None:
        """Count one more case; its subject is "image" or "pair in matches", or empty for the database."""
        problem = severity, subject, text
        self.number[problem] += 1
        if case and len(self.first[problem]) < _SHOWN:
            self.first[problem].append("".join(c if c.isprintable() else "?" for c in case))

    def findings(self) -> tuple[Finding, ...]:
        """Errors first."""
        found = []
        for problem, count in self.number.items():
            severity, subject, text = problem
            if subject:
                cases = self.first[problem]
                named = f" ({'; '.join(cases)}{'; ...' if count > len(cases) else ''})" if cases else ""
                noun, *where = subject.split()
                text = f"{count} {' '.join([noun if count == 1 else noun + 's', *where])}{named}: {text}"
            found.append(Finding(severity, text))
        return tuple(sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity)))


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Names of a table's columns; none when there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def decoded(rows: Any, cols: Any, data: Any, dtype: str) -> Array | None:
    """(rows, cols) numbers; None when the data has another length."""
    data = b"" if data is None else data
    if not (isinstance(rows, int) and isinstance(cols, int) and isinstance(data, bytes)):
        return None
    if rows < 0 or cols < 0 or len(data) != rows * cols * 4:
        return None
    return np.frombuffer(data, dtype).reshape(rows, cols)


def lengths(rows: Any, cols: Any, data: Any) -> str:
    """How long the data is and should be, in words."""
    got = len(data) if isinstance(data, bytes) else 0
    numbers = rows * cols if isinstance(rows, int) and isinstance(cols, int) else 0
    fits = numbers > 0 and got in (2 * numbers, 8 * numbers)
    return f"{got} bytes for {rows} x {cols}" + (f", {8 * got // numbers} bits per number" if fits else "")

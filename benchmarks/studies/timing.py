"""Times as rows of a record."""

import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Wall time of one call after a first one that does not count."""
    if repeats > 1:
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def timing_row(
    name: str, value: float, unit: str, alternative: str | None = None, other: float | None = None
) -> Row:
    """``ratio`` is the alternative's time over ours: above 1 ours is faster."""
    row: Row = {"name": name, "value": round(value, 5), "unit": unit}
    if other is not None:
        row |= {
            "alternative": alternative,
            "alternative_value": round(other, 5),
            "ratio": round(other / value, 3),
        }
    return row

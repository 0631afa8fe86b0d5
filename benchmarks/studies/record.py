"""What the studies share: times, memory, child processes, tables and records."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geomatch.benchmarks.harness.machine import machine
from geomatch.benchmarks.harness.record import markdown_table
from geomatch.files import write_whole
from geomatch.provenance import versions

Row = dict[str, Any]


def write_record(folder: Path, rows: Sequence[Row], repeats: int, device: str, tables: Sequence[str]) -> None:
    """Write ``folder/<version>/speed--<machine>--<device>.json`` and print its tables.

    The tables are Markdown, for documents to quote as they are.
    """
    name = f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cores"
    path = folder / version("geomatch-dift") / f"speed--{name}--{device.partition(':')[0]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"repeats": repeats, "device": device}
    metadata = {"versions": versions(), **machine(), "settings": settings, "tables": [*tables]}
    write_whole(path, json.dumps({"metadata": metadata, "results": rows}, indent=2) + "\n")
    print(*tables, f"wrote {path}", sep="\n\n")


def rows_table(rows: Iterable[Row]) -> str:
    """Rows of `timing_row` in Markdown, alternatives in parentheses."""
    lines = []
    for row in rows:
        beside = (
            f" ({row['alternative']}: {_figure(row['alternative_value'])})" if "alternative" in row else ""
        )
        lines.append((row["name"], f"{_figure(row['value'])} {row['unit']}{beside}"))
    return markdown_table(("measured", ""), lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of several calls, after a first one that does not count; of one, its own."""
    if repeats > 1:
        call()
    return statistics.median(seconds_of(call) for _ in range(repeats))


def beside(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, which take turns, after a first turn that does not count."""
    turns = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(turn[name] for turn in turns[1:]) for name in calls}


def timing_row(
    name: str, value: float, unit: str, alternative: str | None = None, other: float | None = None
) -> Row:
    """``ratio`` is the alternative's time over ours: above 1 ours is faster."""
    row: Row = {"name": name, "value": round(value, 5), "unit": unit}
    if other is not None:
        row["alternative"], row["alternative_value"] = alternative, round(other, 5)
        row["ratio"] = round(other / value, 3)
    return row


def child_process(*arguments: str) -> str:
    """The last line that a Python process printed."""
    done = subprocess.run([sys.executable, *arguments], check=True, text=True, capture_output=True)
    return done.stdout.rpartition("\n")[0].rpartition("\n")[2]


def memory(key: str = "VmRSS") -> int:
    """Bytes of this process now (Linux); ``VmHWM``: the peak since it began, or since that was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))

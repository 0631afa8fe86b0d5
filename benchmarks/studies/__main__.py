"""``make bench``: time and memory of a pair, beside SIFT with OpenCV: warm, and from a cold start."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import geomatch
from geomatch import DIFTExtractor
from geomatch.benchmarks.harness.record import machine, markdown_table
from geomatch.dift import PRESETS
from geomatch.files import write_whole
from geomatch.keypoints import MixedDetector
from geomatch.provenance import versions

Row = dict[str, Any]
PAIRS = (((640, 480), 1000), ((800, 640), 3000))
"""Sizes of the bundled pair, and keypoints per image."""
PEAK = """import sys
from geomatch.cli import main
main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))"""
"""Runs a command, and prints its peak in KiB; what the system counts of a child begins with its parent's."""
Paths = tuple[Path, Path]


@contextlib.contextmanager
def _resized_pair(size: tuple[int, int]) -> Iterator[Paths]:
    """The bundled pair, (width, height)."""
    pair = geomatch.bundled_pair()
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "0.png", Path(folder) / "1.png"
        for path, source in zip(paths, (pair.image0, pair.image1), strict=True):
            pixels = cv2.imread(str(source))
            assert pixels is not None
            cv2.imwrite(str(path), cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        yield paths


def pair_rows(repeats: int, device: str) -> list[Row]:
    """Warm, the default parts on a device, stage by stage, beside SIFT with BFMatcher and MAGSAC++."""
    rows = []
    for size, keypoints in PAIRS:
        with _resized_pair(size) as paths:
            label = f"{size[0]}x{size[1]}, {keypoints} keypoints, {device}"
            rows += _stage_rows(paths, label, keypoints, repeats, device)
    return rows


def _stage_rows(paths: Paths, label: str, keypoints: int, repeats: int, device: str) -> list[Row]:
    describer = DIFTExtractor(replace(PRESETS["dift-tiny"], device=device))
    detector = MixedDetector(max_keypoints=keypoints, device=device)
    runs, sift = [], []
    for _ in range(repeats + 1):  # in turns; the first loads the networks
        runs.append(geomatch.match(*paths, detector=detector, descriptor=describer).seconds)
        sift.append(_sift_pair(*paths, keypoints))
    runs, sift = runs[1:], sift[1:]
    total = statistics.median(sum(run.values()) for run in runs)
    opencv = statistics.median(map(sum, sift))
    rows = [timing_row(f"warm pair, {label}", total, "s", "OpenCV SIFT", opencv)]
    beside_ours = {"read": 0, "detect": 1, "describe": 2, "match": 3, "estimate": 4}
    for stage in runs[0]:
        value = statistics.median(run[stage] for run in runs)
        other = statistics.median(run[beside_ours[stage]] for run in sift) if stage in beside_ours else None
        rows.append(timing_row(f"{label}, stage {stage}", value, "s", "OpenCV SIFT", other))
    return rows


def _sift_pair(path0: Path, path1: Path, keypoints: int) -> tuple[float, ...]:
    """Seconds of reading, detection, description, cross-checked matching and estimation with OpenCV alone."""
    sift = cv2.SIFT_create(nfeatures=keypoints, enable_precise_upscale=True)  # type: ignore[attr-defined]
    marks = [time.perf_counter()]
    greys = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (path0, path1)]
    marks.append(time.perf_counter())
    points = [sift.detect(grey, None) for grey in greys]
    marks.append(time.perf_counter())
    described = [sift.compute(grey, kept) for grey, kept in zip(greys, points, strict=True)]
    marks.append(time.perf_counter())
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(described[0][1], described[1][1])
    marks.append(time.perf_counter())
    p0 = np.array([described[0][0][m.queryIdx].pt for m in found])
    p1 = np.array([described[1][0][m.trainIdx].pt for m in found])
    cv2.findHomography(p0, p1, cv2.USAC_MAGSAC, 3.0, None, 100_000, 0.9999)
    marks.append(time.perf_counter())
    return tuple(np.diff(marks).tolist())


def process_rows(repeats: int) -> list[Row]:
    """From a cold start: the shell command with its peak memory, its help and the import alone."""
    pair = geomatch.bundled_pair()
    with tempfile.TemporaryDirectory() as out:
        match = ["-m", "geomatch", "match", str(pair.image0), str(pair.image1), "--out", out]
        commands = {
            "match": match,
            "help": ["-m", "geomatch", "--help"],
            "import": ["-c", "import geomatch"],
            "needs": ["-c", "import torch, cv2"],
            "bare": ["-c", "pass"],
        }
        seconds = process_seconds(commands, repeats)
        peak = float(child_process("-c", PEAK, *match[2:]))
    needs = seconds["needs"]
    return [
        timing_row("cold shell command with pictures", seconds["match"], "s", "import torch, cv2", needs),
        timing_row("its peak memory", peak / 1024, "MiB"),
        timing_row("cold geomatch --help", seconds["help"], "s", "python -c pass", seconds["bare"]),
        timing_row("import geomatch", seconds["import"] - seconds["bare"], "s"),
    ]


def write_record(folder: Path, rows: Sequence[Row], repeats: int, device: str) -> None:
    """Write ``folder/<version>/speed--<machine>--<device>.json`` and print its table, for pages to quote."""
    name = f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cores"
    path = folder / version("geomatch-dift") / f"speed--{name}--{device.partition(':')[0]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings, table = {"repeats": repeats, "device": device}, rows_table(rows)
    metadata = {"versions": versions(), **machine(), "settings": settings, "tables": [table]}
    write_whole(path, json.dumps({"metadata": metadata, "results": rows}, indent=2) + "\n")
    print(table, f"wrote {path}", sep="\n\n")


def rows_table(rows: Sequence[Row]) -> str:
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


def process_seconds(commands: Mapping[str, Sequence[str]], repeats: int) -> dict[str, float]:
    """Median seconds of Python processes, which take turns, after a first turn that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, arguments in commands.items():
            start = time.perf_counter()
            child_process(*arguments)
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(own[1:]) for name, own in spent.items()}


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


def main() -> None:
    """Measure, write the record, print its table."""
    parser = ArgumentParser(prog="python -m geomatch.benchmarks.studies", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
    parser.add_argument("--device", default="cpu", help="of the warm pairs: cpu, cuda, mps")
    options = parser.parse_args()
    rows = pair_rows(options.repeats, options.device) + process_rows(options.repeats)
    write_record(options.out, rows, options.repeats, options.device)


if __name__ == "__main__":
    main()

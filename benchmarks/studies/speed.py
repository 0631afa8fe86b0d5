"""Time and memory of a pair, beside SIFT with OpenCV: warm, and from a cold start."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

import geomatch
from geomatch import DIFTExtractor
from geomatch.benchmarks.studies.record import Row, beside, child_process, timing_row
from geomatch.dift import PRESETS
from geomatch.keypoints import MixedDetector

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
        seconds = beside({name: lambda c=c: child_process(*c) for name, c in commands.items()}, repeats)  # type: ignore[misc]
        peak = float(child_process("-c", PEAK, *match[2:]))
    needs = seconds["needs"]
    return [
        timing_row("cold shell command with pictures", seconds["match"], "s", "import torch, cv2", needs),
        timing_row("its peak memory", peak / 1024, "MiB"),
        timing_row("cold geomatch --help", seconds["help"], "s", "python -c pass", seconds["bare"]),
        timing_row("import geomatch", seconds["import"] - seconds["bare"], "s"),
    ]

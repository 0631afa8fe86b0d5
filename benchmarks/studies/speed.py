"""Time and memory of a pair of 640x480 with 1000 keypoints, beside SIFT with OpenCV."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

import geomatch
from geomatch.benchmarks.studies.record import Row, timing_row

KEYPOINTS = 1000


def pipeline_rows(repeats: int) -> list[Row]:
    """A warm process on the bundled pair, stage by stage, beside SIFT with BFMatcher and MAGSAC++."""
    pair = geomatch.bundled_pair()
    geomatch.match(pair.image0, pair.image1, max_keypoints=KEYPOINTS)
    runs = [geomatch.match(pair.image0, pair.image1, max_keypoints=KEYPOINTS) for _ in range(repeats)]
    total = statistics.median(sum(run.seconds.values()) for run in runs)
    sift = [_sift_pair(pair.image0, pair.image1) for _ in range(repeats)]
    rows = [timing_row("warm pair, end to end", total, "s", "OpenCV SIFT", statistics.median(map(sum, sift)))]
    beside = {"read": 0, "detect": 1, "describe": 2, "match": 3, "estimate": 4}
    for stage in runs[0].seconds:
        value = statistics.median(run.seconds[stage] for run in runs)
        other = statistics.median(run[beside[stage]] for run in sift) if stage in beside else None
        rows.append(timing_row(f"warm pair, stage {stage}", value, "s", "OpenCV SIFT", other))
    return rows


def _sift_pair(path0: Path, path1: Path) -> tuple[float, ...]:
    """Seconds of reading, detection, description, cross-checked matching and estimation with OpenCV alone."""
    sift = cv2.SIFT_create(nfeatures=KEYPOINTS, enable_precise_upscale=True)  # type: ignore[attr-defined]
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
    """The shell command from a cold start with its peak memory, and the import alone."""
    pair = geomatch.bundled_pair()
    with tempfile.TemporaryDirectory() as out:
        command = ["-m", "geomatch", "match", str(pair.image0), str(pair.image1), "--out", out]
        cold = [_run(*command) for _ in range(max(1, repeats // 2))]
    bare, imports = (
        statistics.median(_run("-c", code)[0] for _ in range(repeats)) for code in ("pass", "import geomatch")
    )
    return [
        timing_row("cold shell command with pictures", statistics.median(run[0] for run in cold), "s"),
        timing_row("its peak memory", max(run[1] for run in cold), "MiB"),
        timing_row("import geomatch", imports - bare, "s"),
    ]


def _run(*arguments: str) -> tuple[float, float]:
    """Seconds and peak resident MiB of one Python process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with code {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024

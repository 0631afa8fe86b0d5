"""Time of the HPatches harness beside a plain OpenCV script that does the same, pair after pair."""

import os
import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import geomatch
from geomatch.benchmarks.studies.record import Row, seconds_of, timing_row
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.benchmarks.tasks.homography.harness import run_hpatches
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS, Protocol
from geomatch.benchmarks.tasks.homography.sequences import HPatchesSequence, read_data
from geomatch.engine import LocalEngine
from geomatch.geometry import corner_error

PROTOCOL = PROTOCOLS["dift-adm"]
"""Original pixels, 1000 keypoints, ``cv2.RANSAC`` with OpenCV's defaults: what a script would do."""
METHOD = "sift"
COPIES = 8
"""Random seeds with which sequences are rendered, two of each photograph."""


def harness_rows(repeats: int) -> list[Row]:
    """Whole runs beside the script, and the loop over pairs with cached features, by number of processes."""
    every, counts = list(PROTOCOLS.values()), sorted({1, os.cpu_count() or 1})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(COPIES):
            photo = folder / f"p{seed}.png"
            photo.write_bytes(geomatch.bundled_pair().image0.read_bytes())
            make_synthetic([photo], folder / "data", seed)
        sequences = read_data(folder / "data").sequences
        pairs = sum(len(sequence.targets) for sequence in sequences)

        def script() -> None:
            for sequence in sequences:
                _script(sequence)

        alone, rows = statistics.median(seconds_of(script) for _ in range(repeats)), []
        for workers in counts:
            outs = [folder / f"whole-{workers}-{run}" for run in range(repeats)]
            runs = [partial(_harness, folder / "data", [PROTOCOL], out, workers) for out in outs]
            total = statistics.median(map(seconds_of, runs))
            label = f"HPatches, {pairs} pairs with SIFT, {_processes(workers)}"
            rows.append(timing_row(label, total, "s", "plain OpenCV script", alone))
        _harness(folder / "data", every, folder / "loop", counts[-1])
        for protocols, label in (([PROTOCOL], PROTOCOL.name), (every, f"{len(every)} protocols")):
            for workers in counts:
                run = partial(_harness, folder / "data", protocols, folder / "loop", workers)
                found = []
                for _ in range(repeats):
                    shutil.rmtree(folder / "loop" / "rows")
                    found.append(pairs * len(protocols) / seconds_of(run))
                text = f"HPatches, features kept, {label}, {_processes(workers)}"
                rows.append(timing_row(text, statistics.median(found), "pairs/s"))
    return rows


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def _harness(data: Path, protocols: list[Protocol], out: Path, workers: int) -> None:
    with LocalEngine(workers) as engine:
        run_hpatches(data, protocols, [METHOD], out, PROTOCOL.max_keypoints, engine, "cpu", progress=False)


def _script(sequence: HPatchesSequence) -> list[float]:
    errors = []
    for _, path, truth in sequence.targets:
        sift = cv2.SIFT_create(PROTOCOL.max_keypoints, enable_precise_upscale=True)  # type: ignore[attr-defined]
        greys = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in (sequence.reference, path)]
        (points0, rows0), (points1, rows1) = (sift.detectAndCompute(grey, None) for grey in greys)
        found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(rows0, rows1)
        p0 = np.array([points0[match.queryIdx].pt for match in found])
        p1 = np.array([points1[match.trainIdx].pt for match in found])
        matrix, _ = cv2.findHomography(p0, p1, cv2.RANSAC, 3.0)
        height, width = greys[0].shape  # type: ignore[union-attr]
        errors.append(corner_error(matrix, truth, (width, height)))
    return errors

"""``make bench``: the time of a pair, beside SIFT with OpenCV."""

import json
import os
import platform
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

import geomatch
from geomatch.benchmarks.harness.record import machine, markdown_table
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.files import write_whole
from geomatch.images import load_image
from geomatch.keypoints import MixedDetector
from geomatch.provenance import versions

PAIRS = (((640, 480), 1000), ((800, 640), 3000))
"""Sizes of the bundled pair, and keypoints per image."""
BUNDLED = geomatch.bundled_pair()


def measure(repeats: int, device: str) -> Iterator[tuple[str, float, float | None]]:
    """What took how many seconds, with the default parts and with OpenCV's; networks and images in memory."""
    describer = DIFTExtractor(replace(PRESETS["dift-tiny"], device=device))
    for size, count in PAIRS:
        pair = [
            cv2.resize(load_image(path).pixels, size, interpolation=cv2.INTER_AREA)
            for path in (BUNDLED.image0, BUNDLED.image1)
        ]
        detector, runs, sift = MixedDetector(max_keypoints=count, device=device), [], []
        for _ in range(repeats + 1):  # in turns; the first loads the networks
            runs.append(geomatch.match(*pair, detector=detector, descriptor=describer).seconds)
            sift.append(_sift_pair(pair, count))
        label = f"{size[0]}x{size[1]}, {count} keypoints, {device}"
        totals = median(sum(run.values()) for run in runs[1:]), median(sum(run.values()) for run in sift[1:])
        yield f"warm pair, {label}", *totals
        for stage in runs[0]:
            other = median(run[stage] for run in sift[1:]) if stage in sift[0] else None
            yield f"{label}, stage {stage}", median(run[stage] for run in runs[1:]), other


def _sift_pair(pair: list[Any], count: int) -> dict[str, float]:
    """Seconds of detection, description, cross-checked matching and estimation with OpenCV alone."""
    sift: Any = cv2.SIFT_create(nfeatures=count, enable_precise_upscale=True)  # type: ignore[attr-defined]
    marks = [time.perf_counter()]
    greys = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in pair]
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
    return dict(zip(("detect", "describe", "match", "estimate"), np.diff(marks).tolist(), strict=True))


def main() -> None:
    """Measure, write ``OUT/<version>/speed--<machine>--<device>.json``, and print its table for pages."""
    parser = ArgumentParser(prog="python -m geomatch.benchmarks.studies", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    options = parser.parse_args()
    rows, cells = list[dict[str, Any]](), []
    for what, ours, other in measure(options.repeats, options.device):
        rows.append({"name": what, "value": round(ours, 5), "unit": "s"})
        if other is not None:  # above a ratio of 1 ours is faster
            ratio = {"alternative_value": round(other, 5), "ratio": round(other / ours, 3)}
            rows[-1] |= {"alternative": "OpenCV SIFT", **ratio}
        cells.append((what, f"{ours:.3g} s", "" if other is None else f"{other:.3g} s"))
    name = f"{platform.system().lower()}-{platform.machine()}-{os.cpu_count()}cores"
    device, table = options.device.partition(":")[0], markdown_table(("measured", "", "OpenCV SIFT"), cells)
    settings = {"repeats": options.repeats, "device": options.device}
    metadata = {"versions": versions(), **machine(), "settings": settings, "tables": [table]}
    path = options.out / version("geomatch-dift") / f"speed--{name}--{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"metadata": metadata, "results": rows}, indent=2) + "\n")
    print(table, f"wrote {path}", sep="\n\n")


if __name__ == "__main__":
    main()

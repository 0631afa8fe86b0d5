"""Mutual matching beside OpenCV and kornia on equal input: time, memory, and whether all agree."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.benchmarks.harness.record import markdown_table
from geomatch.benchmarks.studies.record import (
    Row,
    child_process,
    median_seconds,
    memory,
    timing_row,
)
from geomatch.matching import match_mutual

COUNTS, DIMENSIONS = (1000, 3000, 10_000), (128, 640, 1280)
"""Rows per image, and numbers per row."""
LONG = 10**10
"""Multiplications from which on a slow method runs once."""

Rows = NDArray[np.float32]
Indices = NDArray[np.int64]


def synthetic_descriptors(count: int, dimension: int) -> tuple[Rows, Rows]:
    """Unit rows, and a noisy permutation of them."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((count, dimension), dtype=np.float32)
    b = a[rng.permutation(count)]
    b += rng.standard_normal((count, dimension), dtype=np.float32) * np.float32(0.7)
    for rows in (a, b):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return a, b


def _bfmatcher(a: Rows, b: Rows) -> Indices:
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
    return np.array([(match.queryIdx, match.trainIdx) for match in found], np.int64).reshape(-1, 2)


def _kornia(a: Rows, b: Rows) -> Indices:
    from kornia.feature import match_mnn

    indices: Indices = match_mnn(torch.from_numpy(a), torch.from_numpy(b))[1].numpy()
    return indices


def _pairs(indices: Indices) -> set[tuple[int, ...]]:
    return set(map(tuple, indices.tolist()))


METHODS: dict[str, Callable[[Rows, Rows], Indices]] = {
    "geomatch": lambda a, b: match_mutual(a, b).indices,
    "cv2.BFMatcher": _bfmatcher,
    "kornia match_mnn": _kornia,
}


def matching_rows(repeats: int) -> list[Row]:
    """Every method at all sizes: time, memory, and whether the matches are those of ``cv2.BFMatcher``."""
    rows: list[Row] = []
    for count, dimension in product(COUNTS, DIMENSIONS):
        a, b = synthetic_descriptors(count, dimension)
        exact = _pairs(_bfmatcher(a, b))
        for name, method in METHODS.items():
            slow = name == "cv2.BFMatcher" and count * count * dimension >= LONG
            seconds = median_seconds(partial(method, a, b), 1 if slow else repeats)
            same = name == "cv2.BFMatcher" or _pairs(method(a, b)) == exact
            own = "match" if name == "geomatch" else name
            rows.append(
                timing_row(f"{own} {count} x {count} x {dimension}", seconds, "s")
                | {"method": name, "size": f"{count} x {dimension}", "identical_matches": same}
                | {"peak_mib": int(child_process("-m", __spec__.name, name, str(count), str(dimension)))}
            )
    return rows


def matching_table(rows: Sequence[Row]) -> str:
    """In Markdown: our time, the others' in units of it, and the memory of all."""
    lines = []
    for own in (row for row in rows if row["method"] == "geomatch"):
        every = [row for row in rows if row["size"] == own["size"]]
        others = [f"{row['value'] / own['value']:.1f} x" for row in every[1:]]
        memories = ", ".join(str(row["peak_mib"]) for row in every)
        lines.append([own["size"], f"{own['value']:.3f} s", *others, memories])
    return markdown_table(["rows x dimensions", *METHODS, "memory, MiB"], lines)


def peak_memory(method: str, count: int, dimension: int) -> int:
    """MiB beyond the descriptors, for a process of its own."""
    METHODS[method](*synthetic_descriptors(64, dimension))  # loads what it needs
    a, b = synthetic_descriptors(count, dimension)
    before = memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    METHODS[method](a, b)
    return max(0, round((memory("VmHWM") - before) / 2**20))


if __name__ == "__main__":
    print(peak_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

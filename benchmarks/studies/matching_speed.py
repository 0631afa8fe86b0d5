"""Mutual matching beside OpenCV, kornia and faiss on equal input: time, memory, and whether all agree."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.benchmarks.studies.record import (
    Row,
    beside,
    child_process,
    markdown,
    median_seconds,
    memory,
    reset_peak,
    timing_row,
)
from geomatch.matching import match_mutual, mutual_nearest

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


def _geomatch(a: Rows, b: Rows) -> Indices:
    return match_mutual(a, b).indices


def _bfmatcher(a: Rows, b: Rows) -> Indices:
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
    return np.array([(match.queryIdx, match.trainIdx) for match in found], np.int64).reshape(-1, 2)


def _flann(a: Rows, b: Rows) -> Indices:
    """Both ways, since FLANN has no cross check; approximate."""
    forward, backward = (
        np.array([m.trainIdx for m in cv2.FlannBasedMatcher({"algorithm": 1, "trees": 5}).match(x, y)])
        for x, y in ((a, b), (b, a))
    )
    return _agreeing(forward, backward)


def _kornia(a: Rows, b: Rows) -> Indices:
    from kornia.feature import match_mnn

    indices: Indices = match_mnn(torch.from_numpy(a), torch.from_numpy(b))[1].numpy()
    return indices


def _faiss(a: Rows, b: Rows) -> Indices:
    """Both ways by the inner product, which orders unit rows as the distance does."""
    faiss: Any = importlib.import_module("faiss")
    nearest = []
    for x, y in ((a, b), (b, a)):
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(y)
        nearest.append(index.search(x, 1)[1][:, 0])
    return _agreeing(*nearest)


def _agreeing(forward: Indices, backward: Indices) -> Indices:
    kept = np.flatnonzero(backward[forward] == np.arange(len(forward)))
    return np.stack([kept, forward[kept]], axis=1)


def _pairs(indices: Indices) -> set[tuple[int, ...]]:
    return set(map(tuple, indices.tolist()))


METHODS: dict[str, Callable[[Rows, Rows], Indices]] = {
    "geomatch": _geomatch,
    "cv2.BFMatcher": _bfmatcher,
    "kornia match_mnn": _kornia,
    "faiss IndexFlatIP": _faiss,
    "cv2 FLANN": _flann,
}


def matching_rows(repeats: int) -> list[Row]:
    """Every method at all sizes: time, matches as ``cv2.BFMatcher`` finds them, and memory."""
    faiss = importlib.util.find_spec("faiss")
    methods = {name: method for name, method in METHODS.items() if faiss or not name.startswith("faiss")}
    rows: list[Row] = []
    for count, dimension in product(COUNTS, DIMENSIONS):
        a, b = synthetic_descriptors(count, dimension)
        exact = _pairs(_bfmatcher(a, b))
        for name, method in methods.items():
            slow = name.startswith("cv2") and count * count * dimension >= LONG
            seconds = median_seconds(partial(method, a, b), 1 if slow else repeats)
            found = exact if name == "cv2.BFMatcher" else _pairs(method(a, b))
            own = "match" if name == "geomatch" else name
            rows.append(
                timing_row(f"{own} {count} x {count} x {dimension}", seconds, "s")
                | {"method": name, "size": f"{count} x {dimension}", "identical_matches": found == exact}
                | {"found": round(len(found & exact) / len(exact), 4)}
                | {"peak_mib": json.loads(child_process(__spec__.name, name, count, dimension))}
            )
    return rows


def device_rows(device: str, repeats: int, counts: tuple[int, ...] = COUNTS[1:]) -> list[Row]:
    """Ours of rows that are on the device, beside a plain product and the largest of each row and column."""
    rows = []
    for count in counts:
        a, b = (torch.from_numpy(part).to(device) for part in synthetic_descriptors(count, 1280))
        ours, plain = partial(mutual_nearest, a, b, "cosine"), partial(_plain, a, b)
        seconds = beside({"ours": ours, "plain": plain}, repeats)
        name = f"match {count} x {count} x 1280 on {device}"
        row = timing_row(name, seconds["ours"], "s", "product and argmax", seconds["plain"])
        same = _pairs(ours()[0].cpu().numpy()) == _pairs(plain().cpu().numpy())
        rows.append(row | {"identical_matches": same})
    return rows


def _plain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    scores = a @ b.T
    j, back = scores.argmax(1), scores.argmax(0)
    i = (back[j] == torch.arange(len(a), device=a.device)).nonzero()[:, 0]
    return torch.stack([i, j[i]], 1)


def table(rows: Sequence[Row]) -> str:
    """In Markdown: our time, the others' in units of it, what FLANN finds, and the memory of all."""
    lines = []
    for own in (row for row in rows if row["method"] == "geomatch"):
        every = [row for row in rows if row["size"] == own["size"]]
        cells = [own["size"], f"{own['value']:.3f} s"]
        for row in every[1:]:
            share = "" if row["identical_matches"] else f" ({100 * row['found']:.0f} % found)"
            cells.append(f"{row['value'] / own['value']:.1f} x{share}")
        lines.append([*cells, ", ".join(str(row["peak_mib"]) for row in every)])
    methods = dict.fromkeys(row["method"] for row in rows)
    return markdown(["rows x dimensions", *methods, "memory, MiB"], lines)


def peak_memory(method: str, count: int, dimension: int) -> int:
    """MiB beyond the descriptors, for a process of its own."""
    METHODS[method](*synthetic_descriptors(64, dimension))  # loads what it needs
    a, b = synthetic_descriptors(count, dimension)
    before = memory()
    reset_peak()
    METHODS[method](a, b)
    return max(0, round((memory("VmHWM") - before) / 2**20))


if __name__ == "__main__":
    print(json.dumps(peak_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

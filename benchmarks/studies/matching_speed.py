"""Mutual matching beside OpenCV, kornia and faiss on equal input: time, memory, and whether all agree."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from geomatch.benchmarks.studies.record import Row, beside, median_seconds, timing_row
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
    """Ours beside ``cv2.BFMatcher(NORM_L2, crossCheck=True)``, then the others, all sizes."""
    methods = dict(METHODS)
    if importlib.util.find_spec("faiss") is None:
        del methods["faiss IndexFlatIP"]
    rows: list[Row] = []
    for count in COUNTS:
        for dimension in DIMENSIONS:
            a, b = synthetic_descriptors(count, dimension)
            size = f"{count} x {count} x {dimension}"
            exact = _pairs(_bfmatcher(a, b))
            seconds = {}
            for name, method in methods.items():
                slow = name.startswith("cv2") and count * count * dimension >= LONG
                seconds[name] = median_seconds(lambda m=method, a=a, b=b: m(a, b), 1 if slow else repeats)  # type: ignore[misc]
                found = exact if name == "cv2.BFMatcher" else _pairs(method(a, b))
                ours = name == "geomatch"
                extra = {
                    "identical_matches": found == exact,
                    "found": round(len(found & exact) / len(exact), 4),
                    "peak_mib": peak_memory(name, count, dimension),
                }
                if name == "cv2.BFMatcher":
                    rows[-1] |= {
                        "alternative": name,
                        "alternative_value": round(seconds[name], 5),
                        "ratio": round(seconds[name] / seconds["geomatch"], 3),
                        "alternative_peak_mib": extra["peak_mib"],
                    }
                    continue
                rows.append(
                    timing_row(f"match {size}" if ours else f"{name} {size}", seconds[name], "s") | extra
                )
                if not ours:
                    rows[-1]["over_geomatch"] = round(seconds[name] / seconds["geomatch"], 3)
    return rows


def device_rows(device: str, repeats: int, counts: tuple[int, ...] = COUNTS[1:]) -> list[Row]:
    """Ours of rows that are on the device, beside a plain product and the largest of each row and column."""
    rows = []
    for count in counts:
        a, b = (torch.from_numpy(part).to(device) for part in synthetic_descriptors(count, 1280))

        def plain(a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
            scores = a @ b.T
            j, back = scores.argmax(1), scores.argmax(0)
            i = (back[j] == torch.arange(len(a), device=a.device)).nonzero()[:, 0]
            return torch.stack([i, j[i]], 1)

        calls = {"ours": lambda a=a, b=b: mutual_nearest(a, b, "cosine"), "plain": plain}
        seconds = beside(calls, repeats)
        name = f"match {count} x {count} x 1280 on {device}"
        row = timing_row(name, seconds["ours"], "s", "product and argmax", seconds["plain"])
        found = mutual_nearest(a, b, "cosine")[0]
        rows.append(row | {"identical_matches": _pairs(found.cpu()) == _pairs(plain().cpu())})  # type: ignore[arg-type]
    return rows


def table(rows: list[Row]) -> str:
    """In Markdown: our time, the others' in units of it, what FLANN finds, and the memory of all."""
    others = [name for name in METHODS if name != "geomatch"]
    titles = ["rows x dimensions", "geomatch", *others, "memory, MiB"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for count in COUNTS:
        for dimension in DIMENSIONS:
            size = f"{count} x {count} x {dimension}"
            own = next(row for row in rows if row["name"] == f"match {size}")
            cells = [f"{count} x {dimension}", f"{own['value']:.3f} s"]
            memory = [own["peak_mib"]]
            for name in others:
                found = [row for row in rows if row["name"] == f"{name} {size}"]
                if name == own["alternative"]:
                    cells.append(f"{own['ratio']:.1f} x")
                    memory.append(own["alternative_peak_mib"])
                    continue
                cells.append(f"{found[0]['over_geomatch']:.1f} x" if found else "")
                memory.append(found[0]["peak_mib"] if found else None)
                if found and not found[0]["identical_matches"]:
                    cells[-1] += f" ({100 * found[0]['found']:.0f} % found)"
            cells.append(", ".join("?" if mib is None else str(mib) for mib in memory))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def peak_memory(method: str, count: int, dimension: int) -> int | None:
    """MiB beyond the descriptors, in a fresh process; None where the system does not say (not Linux)."""
    command = [
        sys.executable,
        "-m",
        "geomatch.benchmarks.studies.matching_speed",
        method,
        str(count),
        str(dimension),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) if done.stdout.strip() else None


def _print_peak(method: str, count: int, dimension: int) -> None:
    if not Path("/proc/self/clear_refs").exists():
        return
    METHODS[method](*synthetic_descriptors(64, dimension))  # loads what it needs
    a, b = synthetic_descriptors(count, dimension)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    METHODS[method](a, b)
    print(max(0, round((_status("VmHWM") - before) / 1024)))


def _status(key: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    _print_peak(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Writing a large collection to a COLMAP database, beside plain pycolmap calls row by row."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geomatch.collection import Correspondences, LazyFeatures, MatchedPair
from geomatch.collection.correspondences import LazyPairs
from geomatch.colmap import export_database
from geomatch.colmap.library import database, pycolmap
from geomatch.engine import RunContext
from geomatch.types import Features, Matches

IMAGES, KEYPOINTS, PAIRS, MATCHES = 2000, 2000, 20_000, 200
SIZE = (640, 480)
_RNG = np.random.default_rng(0)
_POINTS = _RNG.uniform(0, SIZE, (KEYPOINTS, 2)).astype(np.float32)
_COLUMNS = [_RNG.permutation(KEYPOINTS) for _ in range(2)]
Row = dict[str, Any]


def export_rows() -> list[Row]:
    """Images and pairs per second, and peak memory; each way in a process of its own.

    Both write the same numbers without verification: geomatch checks them first and writes in one
    transaction to a new file that it renames; the script opens a database and calls ``write_keypoints`` and
    ``write_matches``.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        _photographs(Path(name) / "images")
        for way in ("geomatch", "pycolmap"):
            command = [sys.executable, "-m", "geomatch.benchmarks.studies.export_speed", way, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = [float(x) for x in done.stdout.split()[-2:]]
    label = f"export {IMAGES} images x {KEYPOINTS} keypoints, {PAIRS} pairs x {MATCHES} matches"
    (ours, memory), (theirs, other) = found["geomatch"], found["pycolmap"]
    beside = "pycolmap row by row"
    rows = [
        (label, ours, "s", theirs),
        ("export, images per second", IMAGES / ours, "images/s", IMAGES / theirs),
        ("export, pairs per second", PAIRS / ours, "pairs/s", PAIRS / theirs),
        ("export, peak memory", memory, "MiB", other),
    ]
    return [
        {
            "name": what, "value": round(value, 2), "unit": unit, "alternative": beside,
            "alternative_value": round(another, 2),
            "ratio": round(another / value if unit in ("s", "MiB") else value / another, 3),
        }
        for what, value, unit, another in rows
    ]  # fmt: skip


def _photographs(folder: Path) -> None:
    folder.mkdir()
    _, code = cv2.imencode(".png", np.zeros(SIZE[::-1], np.uint8))
    for name in _names():
        (folder / name).write_bytes(code.tobytes())


def _names() -> list[str]:
    return [f"{number:05d}.png" for number in range(IMAGES)]


def _keypoints(name: str) -> Features:
    points = (_POINTS + int(name[:5])) % (np.array(SIZE, np.float32) - 1)
    return Features(points, np.ones(KEYPOINTS, np.float32), SIZE)


def _pairs() -> Iterator[MatchedPair]:
    """Every image with the ten after it, in a circle."""
    names = _names()
    similarity = np.ones(MATCHES, np.float32)
    for number in range(PAIRS):
        first, step = divmod(number, PAIRS // IMAGES)
        rows = np.stack([np.roll(column, number)[:MATCHES] for column in _COLUMNS], axis=1)
        yield MatchedPair(names[first], names[(first + step + 1) % IMAGES], Matches(rows, similarity))


def _with_geomatch(folder: Path) -> None:
    found = Correspondences(LazyFeatures(_names(), _keypoints), LazyPairs(_pairs))
    quiet = RunContext(progress=False)
    export_database(folder / "images", found, folder / "ours.db", verification="none", context=quiet)


def _with_pycolmap(folder: Path) -> None:
    path = folder / "plain.db"
    with database(str(path)):
        pass
    pycolmap().import_images(str(path), str(folder / "images"))
    with database(str(path)) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        for name in _names():
            opened.write_keypoints(ids[name], _keypoints(name).keypoints + np.float32(0.5))
        for pair in _pairs():
            opened.write_matches(ids[pair.name0], ids[pair.name1], pair.matches.indices.astype(np.uint32))


if __name__ == "__main__":
    way, place = sys.argv[1:]
    start = time.perf_counter()
    (_with_geomatch if way == "geomatch" else _with_pycolmap)(Path(place))
    spent = time.perf_counter() - start
    print(spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

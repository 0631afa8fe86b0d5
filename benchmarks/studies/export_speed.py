"""Writing a large collection to a COLMAP database, beside plain pycolmap calls row by row."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from geomatch.benchmarks.studies.record import Row, child_process, memory, seconds_of
from geomatch.collection import Correspondences, LazyFeatures, MatchedPair
from geomatch.collection.correspondences import LazyPairs
from geomatch.colmap import export_database
from geomatch.colmap.library import database, pycolmap
from geomatch.types import Features, Matches

IMAGES, KEYPOINTS, PAIRS, MATCHES = 2000, 2000, 20_000, 200
SIZE = (640, 480)
NAMES = [f"{number:05d}.png" for number in range(IMAGES)]
_RNG = np.random.default_rng(0)
_POINTS = _RNG.uniform(0, SIZE, (KEYPOINTS, 2)).astype(np.float32)
_COLUMNS = [_RNG.permutation(KEYPOINTS) for _ in range(2)]


def export_rows() -> list[Row]:
    """Images and pairs per second, and peak memory; each way in a process of its own.

    Both write the same numbers without verification: geomatch checks them first and writes in one
    transaction to a new file that it renames; the script opens a database and calls ``write_keypoints`` and
    ``write_matches``.
    """
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "images").mkdir()
        _, code = cv2.imencode(".png", np.zeros(SIZE[::-1], np.uint8))
        for image in NAMES:
            (Path(name) / "images" / image).write_bytes(code.tobytes())
        found = [child_process(__spec__.name, way, name).split()[-2:] for way in ("geomatch", "pycolmap")]
    (ours, mib), (theirs, other_mib) = ([float(value) for value in pair] for pair in found)
    label = f"export {IMAGES} images x {KEYPOINTS} keypoints, {PAIRS} pairs x {MATCHES} matches"
    return [
        {"name": name, "value": round(value, 2), "unit": unit, "alternative": "pycolmap row by row",
         "alternative_value": round(other, 2),
         "ratio": round(other / value if unit in ("s", "MiB") else value / other, 3)}
        for name, value, unit, other in (
            (label, ours, "s", theirs),
            ("export, images per second", IMAGES / ours, "images/s", IMAGES / theirs),
            ("export, pairs per second", PAIRS / ours, "pairs/s", PAIRS / theirs),
            ("export, peak memory", mib, "MiB", other_mib),
        )
    ]  # fmt: skip


def _keypoints(name: str) -> Features:
    points = (_POINTS + int(name[:5])) % (np.array(SIZE, np.float32) - 1)
    return Features(points, np.ones(KEYPOINTS, np.float32), SIZE)


def _pairs() -> Iterator[MatchedPair]:
    """Every image with the ten after it, in a circle."""
    similarity = np.ones(MATCHES, np.float32)
    for number in range(PAIRS):
        first, step = divmod(number, PAIRS // IMAGES)
        rows = np.stack([np.roll(column, number)[:MATCHES] for column in _COLUMNS], axis=1)
        yield MatchedPair(NAMES[first], NAMES[(first + step + 1) % IMAGES], Matches(rows, similarity))


def _with_geomatch(folder: Path) -> None:
    found = Correspondences(LazyFeatures(NAMES, _keypoints), LazyPairs(_pairs))
    export_database(folder / "images", found, folder / "ours.db", verification="none", progress=False)


def _with_pycolmap(folder: Path) -> None:
    path = folder / "plain.db"
    with database(str(path)):
        pass
    pycolmap().import_images(str(path), str(folder / "images"))
    with database(str(path)) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        for name in NAMES:
            opened.write_keypoints(ids[name], _keypoints(name).keypoints + np.float32(0.5))
        for pair in _pairs():
            opened.write_matches(ids[pair.name0], ids[pair.name1], pair.matches.indices.astype(np.uint32))


if __name__ == "__main__":
    write = _with_geomatch if sys.argv[1] == "geomatch" else _with_pycolmap
    print(seconds_of(lambda: write(Path(sys.argv[2]))), memory("VmHWM") / 2**20)

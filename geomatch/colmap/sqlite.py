"""Reading a COLMAP database of any version, without changing it: pycolmap would bring it up to date."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import numpy as np

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.colmap.conventions import from_colmap
from geomatch.errors import FeaturesError
from geomatch.types import Features, Matches

PAIR_BASE = 2147483647
"""``pair_id = PAIR_BASE * smaller image id + larger`` (COLMAP's documentation, "Database Format")."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; it leaves no files beside a database that nobody writes to."""
    unused = not path.with_name(path.name + "-wal").exists()
    options = "mode=ro&immutable=1" if unused else "mode=ro"
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?{options}", uri=True)


def read(path: Path) -> Correspondences:
    """Keypoints and raw matches of a database.

    Raises:
        FeaturesError: when it cannot be read.
    """
    try:
        with closing(open_read_only(path)) as connection:
            rows = connection.execute(
                "SELECT images.image_id, images.name, cameras.width, cameras.height FROM images "
                "JOIN cameras ON cameras.camera_id = images.camera_id"
            ).fetchall()
    except sqlite3.Error as error:
        raise FeaturesError(f"{path}: cannot be read as a COLMAP database ({error})") from error
    images = {str(name): (image_id, (width, height)) for image_id, name, width, height in rows}
    names = {image_id: name for name, (image_id, _) in images.items()}

    def load(name: str) -> Features:
        image_id, size = images[name]
        with closing(open_read_only(path)) as connection:
            row = connection.execute(
                "SELECT rows, cols, data FROM keypoints WHERE image_id = ?", (image_id,)
            ).fetchone()
        count, columns, data = row or (0, 2, b"")
        points = np.frombuffer(data or b"", np.float32)
        if points.size != count * columns or columns < 2:
            raise FeaturesError(f"{path}: the keypoints of {name} have another size than announced")
        return Features(from_colmap(points.reshape(count, columns)[:, :2]), np.ones(count, np.float32), size)

    def pairs() -> Iterator[MatchedPair]:
        with closing(open_read_only(path)) as connection:
            for pair_id, count, data in connection.execute("SELECT pair_id, rows, data FROM matches"):
                image0, image1 = divmod(pair_id, PAIR_BASE)
                indices = np.frombuffer(data or b"", np.uint32).reshape(-1, 2).astype(np.int64)
                if len(indices) != count or image0 not in names or image1 not in names:
                    raise FeaturesError(f"{path}: the matches of pair {pair_id} make no sense")
                yield MatchedPair(names[image0], names[image1], Matches(indices, np.ones(count, np.float32)))

    return Correspondences(LazyFeatures(list(images), load), LazyPairs(pairs))

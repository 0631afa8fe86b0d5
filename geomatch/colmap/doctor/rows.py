"""Keypoints, descriptors, matches and two-view geometries of a database; one row is in memory at a time."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomatch.colmap.conventions import CONFIGURATIONS, PAIR_BASE
from geomatch.colmap.sqlite import columns
from geomatch.progress import progress_bar

Array = NDArray[Any]
Severity = Literal["error", "warning", "note"]
Tell = Callable[..., object]
"""Told the subject of a problem ("image", "pair in matches", empty for the database), its severity, what is
wrong and what to do, and the case; or all but the subject."""
_ENOUGH = 20
"""Numbers that share a rare property by chance with a probability below one in a million."""
_NO_IMAGE = "the image of {} does not exist; delete these rows"
_IGNORES_UNDEFINED = 4_020_000
"""COLMAP's first schema whose mappers ignore pairs of configuration 0."""
_BLANK = {np.zeros((3, 3)).tobytes(), np.eye(3).tobytes()}


class Photo(NamedTuple):
    """A row of images, with the (width, height) of its camera; None when that makes no sense."""

    name: str
    size: tuple[int, int] | None


def _decoded(add: Tell, what: str, label: str, rows: Any, cols: Any, data: Any) -> Array | None:
    """(rows, cols) numbers of 4 bytes; None when the data has another length."""
    got = len(data) if isinstance(data, bytes) else 0
    count = rows * cols if isinstance(rows, int) and isinstance(cols, int) and min(rows, cols) >= 0 else -1
    kind, dtype = ("float32", "<f4") if what == "keypoints" else ("uint32", "<u4")
    if got == 4 * count:
        return np.frombuffer(data or b"", dtype).reshape(rows, cols)
    bits = f", {8 * got // count} bits per number" if count > 0 and got in (2 * count, 8 * count) else ""
    text = f"{what} have another length than rows x columns x 4 bytes; write {kind}"
    add("error", text, f"{label}, {got} bytes for {rows} x {cols}{bits}")
    return None


def check_keypoints(connection: sqlite3.Connection, photos: dict[int, Photo], tell: Tell) -> dict[int, int]:
    """Examine every row of keypoints; return the number of each image's."""
    numbers, add = dict[int, int](), partial(tell, "image")
    found = connection.execute("SELECT image_id, rows, cols, data FROM keypoints")
    for image_id, rows, cols, data in progress_bar(found, "keypoints", "image", len(photos)):
        numbers[image_id] = max(rows, 0) if isinstance(rows, int) else 0
        if image_id not in photos:
            tell("row", "warning", _NO_IMAGE.format("keypoints"), f"image_id {image_id}")
            continue
        photo = photos[image_id]
        table = _decoded(add, "keypoints", photo.name, rows, cols, data)
        if table is None or not len(table):
            continue
        if cols not in (2, 4, 6):
            case = f"{photo.name}, {cols} columns"
            add("error", "COLMAP reads keypoints of 2, 4 or 6 columns only; write x and y", case)
        if cols > 1:
            finite = np.isfinite(table).all(axis=1)
            if not finite.all():
                add("error", "keypoints are NaN or infinite; drop them", photo.name)
            _check_points(add, photo.name, table[finite, :2].astype(np.float64), photo.size)
    return numbers


def _check_points(add: Tell, name: str, points: Array, size: tuple[int, int] | None) -> None:
    width, height = size or (np.inf, np.inf)
    outside = int(((points < 0) | (points > (width, height))).any(axis=1).sum()) if size else 0
    if outside and not ((points < 0) | (points > (height, width))).any():
        add("error", "keypoints lie outside the image unless x and y are exchanged; write x first", name)
    elif outside:
        text = "keypoints lie outside the image; write those of the original, not a reduced or rotated image"
        add("warning", text, f"{name}, {outside} of {len(points)}")
    elif len(points) >= _ENOUGH and 16 < min(width, height) < np.inf and points.max() <= 1:
        add("error", "all keypoints lie within 0 and 1; write pixels", name)
    if 1024 < max(width, height) < np.inf and any(_is_float16(points.ravel() - shift) for shift in (0, 0.5)):
        add("warning", "keypoints were stored as float16; store float32 (hloc: as_half=False)", name)
    if len(points) >= _ENOUGH // 2 and (points % 1 == 0).all() and not _is_centred_grid(points, size):
        add("warning", "all coordinates are integers, but COLMAP's pixel centres lie at .5: add 0.5", name)


def _is_float16(values: Array) -> bool:
    """True if the numbers have the steps of float16, coarser where they are large, and no others."""
    with np.errstate(over="ignore"):
        if not (values.astype(np.float16) == values).all():
            return False
    # integers prove nothing below 2048: they fit whatever the detector does
    if (values[values < 1024] % 1 != 0).any():
        return int((values >= 1024).sum()) >= _ENOUGH
    return bool((values[values < 2048] % 2 == 1).any()) and int((values >= 2048).sum()) >= _ENOUGH


def _is_centred_grid(points: Array, size: tuple[int, int] | None) -> bool:
    """True if integers are right: centres of cells of an even number of pixels."""
    low, high = points.min(axis=0), points.max(axis=0)
    if np.abs([low, high]).max() > 2**31:
        return False
    step = np.gcd.reduce((points - low).astype(np.int64), axis=0)
    if (step < 2).any():
        return False
    return bool((low % step * 2 == step).all()) or (size is not None and (low + high == size).all())


def check_descriptors(
    connection: sqlite3.Connection, photos: dict[int, Photo], numbers: dict[int, int], tell: Tell
) -> int:
    """Examine every row of descriptors but for their values; return their number."""
    present, total = columns(connection, "descriptors"), 0
    if not present:
        return 0
    more = f"{'type' if 'type' in present else 0}, coalesce(length(data), 0)"
    query = f"SELECT image_id, rows, cols, {more} FROM descriptors"
    for image_id, rows, cols, kind, length in connection.execute(query):
        if image_id not in photos:
            tell("row", "warning", _NO_IMAGE.format("descriptors"), f"image_id {image_id}")
            continue
        add, name = partial(tell, "image"), photos[image_id].name
        if not (isinstance(rows, int) and isinstance(cols, int) and length == rows * cols):
            text = "descriptors have another length than rows x columns bytes; write uint8"
            add("error", text, f"{name}, {length} bytes for {rows} x {cols}")
            continue
        total += rows
        if rows != numbers.get(image_id, 0):
            add("error", "descriptors and keypoints differ in number; write both from one extraction", name)
        if rows and (kind == -1 or (kind == 0 and cols != 128)):
            text = "descriptors are not SIFT's 128 bytes: COLMAP's matchers abort; do not call them"
            add("warning", text, f"{name}, {cols} bytes each")
    return total


class Edge(NamedTuple):
    """A pair with matches."""

    image_ids: tuple[int, int]
    matches: int
    config: int  # of matches, which have none, 2
    blank: bool  # there are matrices, and all are zero or the identity


def check_pairs(
    connection: sqlite3.Connection,
    table: str,
    photos: dict[int, Photo],
    numbers: dict[int, int],
    tell: Tell,
) -> list[Edge]:
    """Examine every row of ``matches`` or ``two_view_geometries``; return the pairs that have some."""
    present, edges, add = columns(connection, table), list[Edge](), partial(tell, f"pair in {table}")
    if not present:
        return []
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    more = ["2" if table == "matches" else "config", *(name if name in present else "NULL" for name in "FEH")]
    query = f"SELECT pair_id, rows, cols, data, {', '.join(more)} FROM {table}"
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    found = connection.execute(query)
    for pair_id, rows, cols, data, config, *blobs in progress_bar(found, table, "pair", count):
        ids = divmod(pair_id, PAIR_BASE)
        if not photos.keys() >= set(ids):
            text = "an image does not exist; pair_id must be 2147483647 * smaller image_id + larger"
            add("error", text, f"pair_id {pair_id}, images {ids[0]} and {ids[1]}")
            continue
        label = f"{photos[ids[0]].name} - {photos[ids[1]].name}"
        if ids[0] > ids[1]:
            add("error", "the larger image_id comes first in pair_id; exchange it, and the columns", label)
        if config not in range(len(CONFIGURATIONS)):
            add("error", "COLMAP knows no such configuration", f"{label}, {config}")
            continue
        if any(blob and not (isinstance(blob, bytes) and len(blob) == 72) for blob in blobs):
            add("error", "F, E and H must be 9 float64, row by row, or NULL", label)
        matches = _decoded(add, "matches", label, rows, cols, data)
        if matches is None or not len(matches):
            continue
        if cols != 2:
            add("error", "matches must have 2 columns", f"{label}, {cols} columns")
        elif ids[0] == ids[1]:
            add("error", "an image is matched to itself; delete these rows", label)
        else:
            _check_indices(add, label, matches, np.array([numbers.get(image_id, 0) for image_id in ids]))
            if config < 2:
                severity: Severity = "error" if config == 0 and version >= _IGNORES_UNDEFINED else "warning"
                text = f"inliers have configuration {CONFIGURATIONS[config].upper()} ({config})"
                text += ", which mappers ignore since COLMAP 4.2; run geometric verification"
                add(severity, text, label)
            given = {blob for blob in blobs if blob}
            edges.append(Edge(ids, len(matches), config, bool(given) and given <= _BLANK))
    return edges


def _check_indices(add: Tell, label: str, matches: Array, limits: Array) -> None:
    """Examine a pair's matches, (M, 2) uint32, of images with so many keypoints, ``limits`` (2,)."""
    wrong = matches[matches >= limits]
    if not limits.all():
        add("error", "matched images have no keypoints; write those that the matches are about", label)
    elif wrong.size:
        if (matches < limits[::-1]).all():
            text = "indices fit only when the columns are exchanged; the smaller image_id comes first"
        elif (wrong == 2**32 - 1).all():
            text = "indices are 4294967295, which is -1 for no match; drop these rows: COLMAP crashes on them"
        elif (wrong >= 2**32 - 2**15).any():
            text = "indices above 32767 went through int16 and became negative; match again with int32"
        else:
            text = "indices point past the last keypoint, so that COLMAP reads foreign memory; match again"
        add("error", text, f"{label}, {wrong.size} of {matches.size}")
    else:
        # as one number each: unique rows take ten times as long
        different = np.unique(matches.view("<u8")).view("<u4").reshape(-1, 2)
        if again := len(matches) - len(different):
            text = "the same match is written several times; drop the repetitions"
            add("warning", text, f"{label}, {again} of {len(matches)}")
        if reused := int((_repeated(different[:, 0]) | _repeated(different[:, 1])).sum()):
            text = "keypoints have several matches in one image, which cannot all be right; keep the best"
            add("warning", text, f"{label}, {reused} of {len(matches)}")


def _repeated(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return count[place] > 1

"""Keypoints, descriptors, matches and two-view geometries of a database; one row is in memory at a time."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from geomatch.colmap.conventions import CONFIGURATIONS, PAIR_BASE
from geomatch.colmap.doctor.findings import Array, Photo, Severity, Tally, columns, decoded, lengths

_ENOUGH = 20
"""Numbers that share a rare property by chance with a probability below one in a million."""
_NO_IMAGE = "the image of {} does not exist; delete these rows"
_MINUS_ONE = 2**32 - 1
_INT16_BELOW_ZERO = 2**32 - 2**15
_IGNORES_UNDEFINED = 4_020_000
"""COLMAP's first schema whose mappers ignore pairs of configuration 0."""
_MIN_INLIERS = 15
"""Fewest inliers of a pair that COLMAP's mappers use, by default."""


def check_keypoints(connection: sqlite3.Connection, photos: dict[int, Photo], tally: Tally) -> dict[int, int]:
    """Examine every row of keypoints; return the number of each image's."""
    numbers: dict[int, int] = {}
    for image_id, rows, cols, data in connection.execute("SELECT image_id, rows, cols, data FROM keypoints"):
        numbers[image_id] = max(rows, 0) if isinstance(rows, int) else 0
        photo = photos.get(image_id)
        table = decoded(rows, cols, data, "<f4")
        if photo is None:
            tally.add("warning", "row", _NO_IMAGE.format("keypoints"), f"image_id {image_id}")
        elif table is None:
            text = "keypoints have another length than rows x columns x 4 bytes; write float32"
            tally.add("error", "image", text, f"{photo.name}, {lengths(rows, cols, data)}")
        elif len(table):
            if cols not in (2, 4, 6):
                text = "COLMAP reads keypoints of 2, 4 or 6 columns only; write x and y"
                tally.add("error", "image", text, f"{photo.name}, {cols} columns")
            if cols >= 2:
                _check_points(table, photo, tally)
    return numbers


def _check_points(table: Array, photo: Photo, tally: Tally) -> None:
    if not np.isfinite(table).all():
        tally.add("error", "image", "keypoints are NaN or infinite; drop them", photo.name)
        table = table[np.isfinite(table).all(axis=1)]
    points = table[:, :2].astype(np.float64)
    if photo.size is not None:
        _check_inside(points, np.array(photo.size, np.float64), photo.name, tally)
        if max(photo.size) > 1024 and any(_is_float16(points.ravel() - shift) for shift in (0.0, 0.5)):
            text = "keypoints were stored as float16; extract again and store float32 (hloc: as_half=False)"
            tally.add("warning", "image", text, photo.name)
    if len(points) >= _ENOUGH // 2 and (points % 1 == 0).all() and not _is_centred_grid(points, photo.size):
        text = "all keypoints have integer coordinates, but COLMAP's pixel centres lie at .5: add 0.5 to both"
        tally.add("warning", "image", text, photo.name)


def _check_inside(points: Array, size: Array, name: str, tally: Tally) -> None:
    outside = int(((points < 0) | (points > size)).any(axis=1).sum())
    if outside and not ((points < 0) | (points > size[::-1])).any():
        text = "keypoints lie outside the image, but inside when x and y are exchanged; write x first"
        tally.add("error", "image", text, name)
    elif outside:
        text = "keypoints lie outside the image; write those of the original, not a reduced or rotated image"
        tally.add("warning", "image", text, f"{name}, {outside} of {len(points)}")
    elif len(points) >= _ENOUGH and size.min() > 16 and points.max() <= 1:
        tally.add("error", "image", "all keypoints lie within 0 and 1; write pixels", name)


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
    connection: sqlite3.Connection, photos: dict[int, Photo], numbers: dict[int, int], tally: Tally
) -> int:
    """Examine every row of descriptors but for their values; return their number."""
    present = columns(connection, "descriptors")
    if not present:
        return 0
    kind = "type" if "type" in present else "0"
    total = 0
    for image_id, rows, cols, type_, length in connection.execute(
        f"SELECT image_id, rows, cols, {kind}, coalesce(length(data), 0) FROM descriptors"
    ):
        photo = photos.get(image_id)
        if photo is None:
            tally.add("warning", "row", _NO_IMAGE.format("descriptors"), f"image_id {image_id}")
            continue
        if not (isinstance(rows, int) and isinstance(cols, int) and length == rows * cols):
            text = "descriptors have another length than rows x columns bytes; write uint8"
            tally.add("error", "image", text, f"{photo.name}, {length} bytes for {rows} x {cols}")
            continue
        total += rows
        if rows != numbers.get(image_id, 0):
            text = "descriptors and keypoints differ in number; write both from one extraction"
            tally.add("error", "image", text, photo.name)
        if rows and (type_ == -1 or (type_ == 0 and cols != 128)):
            text = "descriptors are not SIFT's 128 bytes: COLMAP's matchers abort; do not call them"
            tally.add("warning", "image", text, f"{photo.name}, {cols} bytes each")
    return total


class Edge(NamedTuple):
    """A pair with matches; ``used`` if mappers use it."""

    image_ids: tuple[int, int]
    matches: int
    used: bool


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Checks that matches and two_view_geometries have in common."""

    table: str
    photos: dict[int, Photo]
    numbers: dict[int, int]
    tally: Tally

    def add(self, severity: Severity, text: str, case: str) -> None:
        self.tally.add(severity, f"pair in {self.table}", text, case)

    def ids(self, pair_id: Any) -> tuple[tuple[int, int], str] | None:
        """Both images and the pair's name; None when an image does not exist."""
        id0, id1 = divmod(pair_id, PAIR_BASE) if isinstance(pair_id, int) else (-1, -1)
        if id0 not in self.photos or id1 not in self.photos:
            text = "an image does not exist; pair_id must be 2147483647 * smaller image_id + larger"
            self.add("error", text, f"pair_id {pair_id}, images {id0} and {id1}")
            return None
        label = f"{self.photos[id0].name} - {self.photos[id1].name}"
        if id0 > id1:
            text = "the larger image_id comes first in pair_id; write the smaller first, exchange the columns"
            self.add("error", text, label)
        return (id0, id1), label

    def indices(self, ids: tuple[int, int], label: str, rows: Any, cols: Any, data: Any) -> int:
        """Examine a pair's matches; return their number."""
        matches = decoded(rows, cols, data, "<u4")
        if matches is None:
            text = "matches have another length than rows x columns x 4 bytes; write uint32"
            self.add("error", text, f"{label}, {lengths(rows, cols, data)}")
            return 0
        if not len(matches):
            return 0
        if cols != 2:
            self.add("error", "matches must have 2 columns", f"{label}, {cols} columns")
            return 0
        if ids[0] == ids[1]:
            self.add("error", "an image is matched to itself; delete these rows", label)
            return 0
        limits = np.array([self.numbers.get(image_id, 0) for image_id in ids])
        if not limits.all():
            text = "matched images have no keypoints; write the keypoints that the matches are about"
            self.add("error", text, label)
        elif self._in_range(matches.astype(np.int64), limits, label):
            self._unique(matches, label)
        return len(matches)

    def _in_range(self, matches: Array, limits: Array, label: str) -> bool:
        wrong = matches[matches >= limits]
        if not wrong.size:
            return True
        if (matches < limits[::-1]).all():
            text = "indices fit only when the columns are exchanged; the smaller image_id comes first"
        elif (wrong == _MINUS_ONE).all():
            text = "indices are 4294967295, which is -1 for no match; drop these rows: COLMAP crashes on them"
        elif (wrong >= _INT16_BELOW_ZERO).any():
            text = "indices above 32767 went through int16 and became negative; match again with int32"
        else:
            text = "indices point past the last keypoint, so that COLMAP reads foreign memory; match again"
        self.add("error", text, f"{label}, {wrong.size} of {matches.size}")
        return False

    def _unique(self, matches: Array, label: str) -> None:
        # as one number each: unique rows take ten times as long
        different = np.unique(np.ascontiguousarray(matches).view("<u8")).view("<u4").reshape(-1, 2)
        if len(different) < len(matches):
            text = "the same match is written several times; drop the repetitions"
            self.add("warning", text, f"{label}, {len(matches) - len(different)} of {len(matches)}")
        reused = int((_repeated(different[:, 0]) | _repeated(different[:, 1])).sum())
        if reused:
            text = "keypoints have several matches in one image, which cannot all be right; keep the best"
            self.add("warning", text, f"{label}, {reused} of {len(matches)}")


def _repeated(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return count[place] > 1


def check_matches(
    connection: sqlite3.Connection, photos: dict[int, Photo], numbers: dict[int, int], tally: Tally
) -> Iterator[Edge]:
    """Examine every row of matches; yield the pairs that have some."""
    pairs = _Pairs("matches", photos, numbers, tally)
    for pair_id, *stored in connection.execute("SELECT pair_id, rows, cols, data FROM matches"):
        known = pairs.ids(pair_id)
        count = known and pairs.indices(*known, *stored)
        if known and count:
            yield Edge(known[0], count, True)


def check_geometries(
    connection: sqlite3.Connection, photos: dict[int, Photo], numbers: dict[int, int], tally: Tally
) -> Iterator[Edge]:
    """Examine every two-view geometry and count configurations; yield the pairs that have inliers."""
    present = columns(connection, "two_view_geometries")
    if not present:
        return
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    matrices = ", ".join(name if name in present else "NULL" for name in ("F", "E", "H"))
    pairs = _Pairs("two_view_geometries", photos, numbers, tally)
    kinds: Counter[int] = Counter()
    blank = 0
    for pair_id, rows, cols, data, config, *blobs in connection.execute(
        f"SELECT pair_id, rows, cols, data, config, {matrices} FROM two_view_geometries"
    ):
        known = pairs.ids(pair_id)
        if known is None:
            continue
        ids, label = known
        if not (isinstance(config, int) and 0 <= config < len(CONFIGURATIONS)):
            pairs.add("error", "COLMAP knows no such configuration", f"{label}, {config}")
            continue
        tally.configurations[CONFIGURATIONS[config]] += 1
        count = pairs.indices(ids, label, rows, cols, data)
        if any(blob and not (isinstance(blob, bytes) and len(blob) == 72) for blob in blobs):
            pairs.add("error", "F, E and H must be 9 float64, row by row, or NULL", label)
        elif count:
            blank += _is_blank([blob for blob in blobs if blob])
        if not count:
            continue
        kinds[config] += 1
        if config < 2:
            severity: Severity = "error" if config == 0 and version >= _IGNORES_UNDEFINED else "warning"
            text = f"inliers have configuration {CONFIGURATIONS[config].upper()} ({config})"
            text += ", which mappers ignore since COLMAP 4.2; run geometric verification"
            pairs.add(severity, text, label)
        yield Edge(ids, count, config > 1 and count >= _MIN_INLIERS)
    if set(kinds) == {2} and blank == kinds.total():
        text = f"all {blank} verified pairs are CALIBRATED, their F, E and H identity or zero: nothing was "
        tally.add("warning", "", text + "verified; empty two_view_geometries and run geometric verification")
    if kinds and set(kinds) <= {4, 5, 6}:
        text = f"all {kinds.total()} verified pairs are planar or panoramic: global mapping does not use them"
        tally.add("note", "", text + "; use incremental mapping, or photographs from different places")


def _is_blank(blobs: list[bytes]) -> bool:
    """True if there are matrices and all of them are zero or the identity."""
    matrices = [np.frombuffer(blob, "<f8").reshape(3, 3) for blob in blobs]
    return bool(blobs) and all(not one.any() or np.array_equal(one, np.eye(3)) for one in matrices)
